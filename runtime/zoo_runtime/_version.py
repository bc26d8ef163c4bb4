"""Holds the version number that finezoo and finezoo-runtime share."""

__version__ = "0.1.0"
