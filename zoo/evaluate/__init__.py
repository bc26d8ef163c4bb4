"""Computes metrics. `metrics` computes them from arrays, and `evaluator` from an exported file and pictures."""
