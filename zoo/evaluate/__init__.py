"""Computes metrics: `metrics` from arrays, and `evaluator` from an exported file and pictures."""
