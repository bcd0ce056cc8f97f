"""Pieces of Markdown from texts that may hold anything: tables, code, sentences."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def escaped(value: Any) -> str:
    r"""A text in one line in which nothing is Markdown or HTML.

    Example:
        >>> print(escaped("p(x|z) <b>"))
        p(x\|z) &lt;b>
    """
    text = _in_a_line(value).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", text)


def code(value: Any) -> str:
    """A text as code in one line, also in a table."""
    text = _in_a_line(value).replace("`", "'").replace("|", "\\|")
    return f"`{text}`" if text else ""


def _in_a_line(value: Any) -> str:
    """Without ends of lines, and without what a terminal that shows the file would obey."""
    return "".join(letter for letter in " ".join(str(value).split()) if letter.isprintable())


def block(lines: Iterable[str], language: str) -> str:
    """Lines as a block of code."""
    return "\n".join([f"```{language}", *lines, "```"])


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the cells are Markdown already."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [heads, ["---"] * len(heads), *rows])


def table_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows by column name, whose cells are texts."""
    heads = list(rows[0])
    return table([escaped(name) for name in heads], ([_cell(row.get(name, "")) for name in heads] for row in rows))


def _cell(value: Any) -> str:
    return code(value) if str(value).startswith("pyro-vae ") else escaped(value)
