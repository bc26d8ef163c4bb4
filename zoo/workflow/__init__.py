"""Runs the steps of fine-tuning, export, evaluation and the check of published weights in the right order.

The steps themselves are in other packages, such as `zoo.train`, `zoo.export` and `zoo.evaluate`.
"""
