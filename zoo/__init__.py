"""zoo: the workshop. Lists networks, fine-tunes them on a user's pictures and exports a checked ONNX file.

Nothing is imported here, so that every command starts at once; see `zoo.workflow` for the main functions and
`zoo.plugin` for the public plugin API.
"""
