"""Judging an exported file: arrays -> figures (`metrics`), file and pictures -> figures (`evaluator`)."""
