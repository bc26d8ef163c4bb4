"""zoo fine-tunes pretrained image classifiers on a user's pictures and exports them as checked ONNX files.

This module imports nothing, so that every command starts quickly. `zoo.workflow` has the main functions, and
`zoo.plugin` is the public plugin API. A device needs only the package `zoo_runtime` to run an exported file.
"""
