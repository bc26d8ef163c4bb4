"""Runs the command `zoo` when Python is started with `python -m zoo`."""

from zoo.cli import run

run()
