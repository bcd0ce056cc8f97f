"""The pages of the course have one form. `make docs` runs their cells, and ends where what they assert is not so."""

import ast
import re
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).parents[2] / "docs" / "learn").glob("[0-9]*.md"))
HEADINGS = ["Derivation", "A number", "A picture", "Exercise", "What can go wrong", "In the package"]
CELL = re.compile(r"^```\{code-cell\} ipython3\n(---\n.*?^---\n)?(.*?)^```$", re.DOTALL | re.MULTILINE)


def asserts(code):
    python = re.sub(r"^%.*$", "", code, flags=re.MULTILINE)  # a magic command of IPython
    return sum(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(python)))


def test_there_are_pages():
    assert len(PAGES) >= 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_has_the_form(page):
    """A claim, a derivation, an asserted number, a picture in words too, an exercise whose solution is asserted."""
    text = page.read_text()
    prose = CELL.sub("", text)
    title, *headings = re.findall(r"^##? (.+)$", prose, re.MULTILINE)
    assert title.startswith(f"{int(page.stem[:2])}. ")
    assert [heading.replace("Numbers", "A number") for heading in headings] == HEADINGS
    assert re.search(r"^# .+\n\n\*\*Claim\.\*\* ", prose, re.MULTILINE)
    number, exercise = (
        part.split("\n## ")[0] for part in re.split(r"^## (?:A number|Numbers|Exercise)\n", text, flags=re.M)[1:]
    )
    assert sum(asserts(code) for _, code in CELL.findall(number)) > 0
    assert any("hide-cell" in options and asserts(code) for options, code in CELL.findall(exercise))
    assert all("alt:" in options for options, code in CELL.findall(text) if "plt.show()" in code or "subplots" in code)
