"""Finds or downloads pretrained weights, checks them, and selects those that a run starts from."""
