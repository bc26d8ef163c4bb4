"""Runs the command `zoo-runtime` as `python -m zoo_runtime.cli`."""

from . import run

if __name__ == "__main__":
    run()
