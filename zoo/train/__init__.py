"""Trains networks: builds them, selects the layers that each phase trains, fits the phases, and tests learning rates.

The modules here use Keras 3 and do not import TensorFlow themselves. `zoo.train.frozen.part` uses `zoo.convert`, which
imports TensorFlow.
"""
