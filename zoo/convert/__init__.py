"""Converts Keras networks to ONNX graphs, and opens ONNX graphs in ONNX Runtime.

No other module of zoo imports TensorFlow or tf2onnx itself. Keras imports TensorFlow if that is its backend.
"""
