"""Escapes text for Markdown and YAML, and recognizes files that zoo has written and nobody has edited.

A name of a class or of a folder may contain any character. None of them may change the page, break its front matter or
add HTML to it.
"""

from __future__ import annotations

import hashlib
import json
import re
import string
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2

# An underscore inside a word is only an underscore.
_SPECIAL = re.compile(f"(?<![^\\W_])_|_(?![^\\W_])|[{re.escape(string.punctuation.replace('_', ''))}]")
# Escaping these everywhere would make the source unreadable, and they are harmless inside a line.
_HARMLESS = frozenset(",.:;()?/%='\"-+")
_MARK = re.compile(r"\n<!-- written by zoo, sha256 of the text above: ([0-9a-f]{64}) -->\s*\Z")


class Plain(str):
    """Text that is Markdown already, so that a template does not escape it."""


def escaped(text: Any) -> str:
    """Return a value as Markdown that shows it on one line, character by character."""
    if isinstance(text, Plain):
        return text
    shown = visible(str(text))
    return _SPECIAL.sub(lambda match: match[0] if match[0] in _HARMLESS else f"\\{match[0]}", shown)


def visible(text: str) -> str:
    """Return text on one line, with escapes for what cannot be seen or encoded."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def code(text: str) -> Plain:
    """Return text as inline code."""
    shown = visible(text)
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    # A table ends a cell at a bar, even inside code.
    return Plain(f"{fence}{pad}{shown}{pad}{fence}".replace("|", "\\|"))


def block(text: str, language: str = "") -> Plain:
    """Return text as a fenced block of code."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return Plain(f"{fence}{language}\n{text}\n{fence}")


def address(text: str) -> Plain:
    """Return a link if a text is an address of the web, or else the escaped text."""
    if re.fullmatch(r"https?://[\w./~%?=&#+:,@-]+", text):
        return Plain(f"<{text}>")
    return Plain(escaped(text))


def yaml_text(text: str) -> str:
    """Return text as a double-quoted YAML scalar."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else _yaml_escape(c) for c in quoted)


def _yaml_escape(character: str) -> str:
    number = ord(character)
    if 0xD800 <= number <= 0xDFFF:
        # YAML cannot hold half of a character.
        return f"\\\\u{number:04x}"
    return f"\\u{number:04X}" if number <= 0xFFFF else f"\\U{number:08X}"


def render(template: str, values: dict[str, Any]) -> str:
    """Render a Markdown template of this package. Everything that it inserts is escaped, except `Plain` text.

    Args:
        template: The file name of the template.
        values: Its variables.
    """
    return _environment().from_string(files(__package__).joinpath(template).read_text("utf-8")).render(**values)


def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        finalize=escaped,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(code=code, block=block, address=address, yaml=lambda text: Plain(yaml_text(text)))
    environment.filters["plain"] = Plain
    return environment


def table(head: Sequence[Any], rows: Sequence[Sequence[Any]], right: Sequence[int] = ()) -> Plain:
    """Return a Markdown table.

    Args:
        head: The heading of each column.
        rows: The cells of each row. They are escaped, except `Plain` text.
        right: The columns, counted from 0, that are aligned to the right.
    """
    rule = ["--:" if i in right else "---" for i in range(len(head))]
    lines = [map(escaped, head), rule, *(map(escaped, row) for row in rows)]
    return Plain("\n".join(f"| {' | '.join(line)} |" for line in lines))


def signed(text: str) -> str:
    """Return a page with a last line by which `is_ours` recognizes it."""
    body = text.rstrip("\n")
    return f"{body}\n\n<!-- written by zoo, sha256 of the text above: {_digest(body)} -->\n"


def is_ours(text: str) -> bool:
    """Return whether a page was written by zoo and has not been edited since. Line ends may differ."""
    return body_of(text) is not None


def body_of(text: str) -> str | None:
    """Return a page that zoo has signed, without its last line. None if it is not ours or was edited."""
    text = text.replace("\r\n", "\n")
    match = _MARK.search(text)
    body = text[: match.start()].rstrip("\n") if match else ""
    return body if match and match[1] == _digest(body) else None


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode("utf-8")).hexdigest()
