"""Puts the steps of fine-tuning, export, evaluation and published classifiers in order.

The steps themselves are in other packages, such as `zoo.train`, `zoo.export` and `zoo.evaluate`.
"""
