"""Converts Keras networks to ONNX graphs, and opens ONNX graphs in ONNX Runtime.

No module outside this package imports TensorFlow or tf2onnx itself. Keras imports TensorFlow if that is its backend.
"""
