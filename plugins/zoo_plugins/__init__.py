"""The built-in plugins of zoo, which come in through entry points in pyproject.toml, as those of third parties do."""
