"""Evaluation: figures from arrays (`metrics`), and from an exported file and pictures (`evaluator`)."""
