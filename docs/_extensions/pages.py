"""Helps the extensions that write pages: files change only if their text does, so Sphinx builds nothing twice."""

from collections.abc import Iterable
from pathlib import Path


def write_page(path: Path, text: str) -> None:
    """Write a page, and leave a file alone that is as it should be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def remove_others(folder: Path, names: Iterable[str]) -> None:
    """Delete pages of an earlier build that are not among these, given as paths below the folder without `.rst`."""
    kept = {folder / f"{name}.rst" for name in names}
    for path in folder.rglob("*.rst"):
        if path not in kept:
            path.unlink()


def heading(text: str, line: str = "=") -> str:
    """A heading in reStructuredText; the title of a page unless `line` says otherwise."""
    return f"{text}\n{line * len(text)}\n"


def toctree(pages: list[str], caption: str = "") -> str:
    """A list of links to pages, which are also in the sidebar."""
    lines = [".. toctree::", "   :maxdepth: 1", *([f"   :caption: {caption}"] if caption else []), ""]
    return "\n".join([*lines, *(f"   {page}" for page in pages), ""])
