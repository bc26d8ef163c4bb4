"""The one version number of finezoo and finezoo-runtime."""

__version__ = "0.1.0"
