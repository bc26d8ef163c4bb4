"""Contains the built-in plugins of zoo. Entry points in pyproject.toml register them, like third-party plugins."""
