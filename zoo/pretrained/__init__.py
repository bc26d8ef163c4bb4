"""Pretrained weights: fetched from where they are, and selected for a run."""
