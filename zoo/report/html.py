"""Renders report.html, the report page of a run: one file without anything outside of it.

The templates, the style sheet and the script are in the folder `templates`, one template per section. `results` and
`training` prepare their variables. This package computes no figures: `zoo.evaluate` does.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from zoo.report import results, training
from zoo.report.content import Content, Missing
from zoo.report.figure import Figure, prose, shared_style, text

# Of each section: its id and template, its heading, and the function that prepares its variables.
SECTIONS: tuple[tuple[str, str, Callable[[Content], Mapping[str, Any] | Missing | None]], ...] = (
    ("result", "Result", results.result),
    ("warnings", "Warnings", training.warnings),
    ("trained", "What was trained, and why", training.trained),
    ("curves", "Learning curves", training.curves),
    ("confusion", "Confusions", results.confusion),
    ("classes", "Class by class", results.classes),
    ("mistakes", "Worst mistakes", results.mistakes),
    ("right", "Some right answers", results.right),
    ("calibration", "Can the probabilities be trusted?", results.calibration),
    ("unknown", "Answering only where it is sure", results.unknown),
    ("checked", "Promises, measured on the test pictures", results.checked),
    ("data-check", "Data check", training.data_check),
    ("label-issues", "Probably wrong labels", training.label_issues),
    ("phases", "Phases and layers", training.phases),
    ("configuration", "Configuration and licences", training.configuration),
    ("repeat", "Repeat this run", training.repeat),
)


# A command on the page, and an option in it.
COMMAND = re.compile("<code[^>]*>.*?</code>", re.DOTALL)
OPTION = re.compile(r"(^|[\s>])(--[a-z0-9-]+)")


def render(content: Content) -> str:
    """Render the report page of a run.

    Args:
        content: The content of the page.

    Returns:
        The HTML. Names of classes and files are escaped.
    """
    import jinja2

    folder = files(__package__).joinpath("templates")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: folder.joinpath(name).read_text("utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        lstrip_blocks=True,
    )
    script = folder.joinpath("page.js").read_text("utf-8").strip()
    record = content.record
    sections = [(name, heading, _prepared(name, build, content)) for name, heading, build in SECTIONS]
    page = environment.get_template("page.html.jinja").render(
        run=record.id,
        title=Figure("title", f"{record.architecture['name']} on {record.data['name']}", name=True),
        created=text("created", record.created),
        identity=text("id", record.id),
        sections=[each for each in sections if each[2] is not None],
        style=shared_style() + folder.joinpath("page.css").read_text("utf-8"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii"),
    )
    return whole_options(page)


def whole_options(page: str) -> str:
    """Mark the options of commands, so that no line of the page ends behind the "--" of an option."""
    return COMMAND.sub(lambda found: OPTION.sub(r'\1<span class="word">\2</span>', found[0]), page)


def _prepared(
    name: str, build: Callable[[Content], Mapping[str, Any] | Missing | None], content: Content
) -> dict[str, Any] | None:
    """Return the variables of a section. A file of the run folder that misses entries costs its section alone."""
    try:
        values = build(content)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        values = Missing(f"This section cannot be shown: an entry is missing or damaged ({_reason(error)}).")
    if values is None:
        return None
    if isinstance(values, Missing):
        return {"missing": prose(f"missing.{name}", values.text)}
    return {"missing": None, **values}


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
