"""Fine-tunes, exports and evaluates networks, and checks published weights.

Each module runs the steps of one task in the right order. The steps themselves are in other packages, such as
`zoo.train`, `zoo.export` and `zoo.evaluate`.
"""
