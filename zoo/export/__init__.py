"""The exported file: its metadata and self-test, parity with the trained network, and smaller variants.

How a Keras network becomes an ONNX graph is in `zoo.convert`; the order of steps is in `zoo.workflow.export`.
"""
