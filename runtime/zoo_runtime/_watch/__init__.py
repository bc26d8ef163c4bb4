"""Watches cameras, streams, videos and folders: what `zoo-runtime watch` does.

    sources    opens a camera, a stream, a video or a pipe of JPEGs, and reads frames from it
    frames     keeps only the latest frame of what is live, and connects again after a loss
    pick       chooses the frames that are answered: every n-th, the changed ones, at most so many a second
    vote       holds a label until another one has won the votes of a time
    camera     the loop: frames -> answers -> votes -> outputs
    folder     finds new pictures in a folder, and waits until they are complete
    journal    remembers which pictures were answered, and makes files of answers exact after a crash
    outputs    standard output and files
    mqtt       publishes answers to an MQTT broker
    page       a local web page with the latest frame
    stop       Ctrl-C and SIGTERM

Nothing here is imported before `watch`, `frames` or `Vote` is used.
"""
