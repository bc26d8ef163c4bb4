"""zoo lists networks, fine-tunes them on a user's pictures and exports a checked ONNX file.

This file imports nothing, so that every command starts at once. The main functions are in `zoo.workflow`, and the
public plugin API is `zoo.plugin`. The exported file runs on a device with `zoo_runtime` alone.
"""
