"""Makes and checks exported files and their variants, which are smaller files of the same network.

The modules check parity with the trained network, add metadata and a self-test, and quantize or shrink weights.
`zoo.convert` converts the Keras network to an ONNX graph. `zoo.workflow.export` calls all of these steps in order.
"""
