"""Keras -> ONNX graph. The only part of zoo that imports TensorFlow and tf2onnx."""
