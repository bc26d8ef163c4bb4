"""Defines the option --group-by, which the commands that train and `zoo data check` share."""

from __future__ import annotations

import click

group_by_option = click.option(
    "--group-by",
    metavar="REGEX|column:NAME",
    help="Keep pictures of one animal, video or patient on one side of the split: those with the same first group "
    "(or match) of a regular expression in their path, or the same value in a column of the table.",
)
