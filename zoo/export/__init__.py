"""Makes and checks the exported file: metadata, self-test, parity with the trained network, and smaller variants.

`zoo.convert` converts the Keras network to an ONNX graph. `zoo.workflow.export` calls these steps in order.
"""
