"""The plugins that ship with zoo; each comes in by the entry points in pyproject.toml, as a stranger's would."""
