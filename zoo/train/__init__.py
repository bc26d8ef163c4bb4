"""Trains a network: builds it, sets what each phase trains, fits the phases, and tests learning rates.

Only Keras 3 and numpy are used here; nothing calls TensorFlow directly.
"""
