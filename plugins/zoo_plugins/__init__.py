"""The built-in plugins of zoo. Entry points in pyproject.toml name them, like the plugins of third parties."""
