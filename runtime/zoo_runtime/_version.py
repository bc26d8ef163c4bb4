"""Holds the version number of the distributions finezoo and finezoo-runtime."""

__version__ = "0.1.0"
