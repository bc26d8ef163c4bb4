"""The order of steps of fine-tuning, export, evaluation and published classifiers.

How each step is done is in the package that owns it.
"""
