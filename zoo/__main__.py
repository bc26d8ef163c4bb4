"""Run the command `zoo` as `python -m zoo`."""

from zoo.cli import main

main()
