"""Evaluates networks. `evaluator` runs an exported file on pictures, and `metrics` computes the metrics."""
