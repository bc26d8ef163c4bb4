"""Converts Keras networks to ONNX graphs. The only part of zoo that imports TensorFlow and tf2onnx."""
