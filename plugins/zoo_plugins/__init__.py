"""Contains the built-in plugins of zoo. Entry points in pyproject.toml register them, as for any plugin."""
