"""Docstrings are written for readers of code: turns what reStructuredText has not into what it has.

That is tables with `|`, and a word that goes on after a name in backticks, as in `Network`s.
"""

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from sphinx.application import Sphinx

_NAME = re.compile(r"(`[^`]+`)([A-Za-z]?)")
_ROW = re.compile(r"\s*\|.*\|\s*$")


def convert(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Change the lines of one docstring in place, before napoleon reads its sections."""
    groups = groupby(lines, key=lambda line: bool(_ROW.match(line)))
    parts = [_table(list(group)) if is_table else list(group) for is_table, group in groups]
    lines[:] = [_NAME.sub(_separated, line) for part in parts for line in part]


def _separated(match: re.Match[str]) -> str:
    """A name in backticks, ended by an escaped space if the word goes on."""
    return f"{match[1]}\\ {match[2]}" if match[2] else match[0]


def _table(rows: list[str]) -> list[str]:
    """Rows of Markdown as a `list-table`."""
    indent = rows[0][: len(rows[0]) - len(rows[0].lstrip())]
    cells = [_cells(row) for row in rows if set(row.strip()) - set("|-: ")]
    head = [".. list-table::", "   :header-rows: 1", ""]
    return [indent + line if line else "" for line in [*head, *_items(cells), ""]]


def _cells(row: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row.strip())[1:-1]]


def _items(rows: list[list[str]]) -> Iterator[str]:
    for row in rows:
        for at, cell in enumerate(row):
            yield f"   {'*' if at == 0 else ' '} - {cell}"


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", convert, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
