"""Writes a page for each public room, with a table of its names; autosummary then writes a page for each name."""

import importlib
import inspect
from pathlib import Path

from public_names import ROOMS, Name, names_of, public_names
from sphinx.application import Sphinx
from sphinx.config import Config


def write_pages(app: Sphinx, config: Config) -> None:
    """Write `reference/api/*.rst`, before the reader looks for pages."""
    folder = Path(app.srcdir) / "reference" / "api"
    folder.mkdir(parents=True, exist_ok=True)
    names = public_names()
    _write(folder / "index.rst", _index())
    _write(folder / "pyro_vae.rst", _room_page("pyro_vae", names))
    for room in (room for group in ROOMS.values() for room in group):
        _write(folder / f"pyro_vae.{room}.rst", _room_page(f"pyro_vae.{room}", names))


def _write(path: Path, text: str) -> None:
    """Leave a file alone that is as it should be, so that its page is not built again."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def _index() -> str:
    parts = [_heading("Python"), "Every public name has a page of its own.\n", _toctree(["pyro_vae"])]
    for title, rooms in ROOMS.items():
        parts.append(_toctree([f"pyro_vae.{room}" for room in rooms], title))
    return "\n".join(parts)


def _toctree(pages: list[str], caption: str = "") -> str:
    lines = [".. toctree::", "   :maxdepth: 1", *([f"   :caption: {caption}"] if caption else []), ""]
    return "\n".join([*lines, *(f"   {page}" for page in pages), ""])


def _room_page(room: str, names: list[Name]) -> str:
    own = [name.path for name in names if name.room == room]
    elsewhere = _elsewhere(room, names, own)
    parts = [_heading(room), _summary(room)]
    if elsewhere:
        parts.append(_table(elsewhere, toctree=False))
    if own:
        parts.append(_table(own, toctree=True))
    return "\n".join(parts)


def _elsewhere(room: str, names: list[Name], own: list[str]) -> list[str]:
    """The names of a room whose pages another room lists."""
    module = importlib.import_module(room)
    values = {id(getattr(module, name)) for name in names_of(module)}
    return sorted(name.path for name in names if id(name.value) in values and name.path not in own)


def _summary(room: str) -> str:
    """The first line of a room's docstring; the rest is for readers of its code."""
    return (inspect.getdoc(importlib.import_module(room)) or "").splitlines()[0] + "\n"


def _table(paths: list[str], toctree: bool) -> str:
    options = ["   :toctree: .", "   :nosignatures:"] if toctree else ["   :nosignatures:"]
    return "\n".join([".. autosummary::", *options, "", *(f"   ~{path}" for path in paths), ""])


def _heading(text: str) -> str:
    return f"{text}\n{'=' * len(text)}\n"


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("config-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
