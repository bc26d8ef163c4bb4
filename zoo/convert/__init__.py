"""Converts Keras networks to ONNX graphs, and opens ONNX graphs in ONNX Runtime.

Only this package imports TensorFlow and tf2onnx.
"""
