"""Selects the weights that a run starts from, finds or downloads pretrained weights, and checks their hashes."""
