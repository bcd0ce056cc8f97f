"""Writes a page for each public room, with a table of its names; autosummary then writes a page for each name."""

import importlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path

from pages import heading, remove_others, toctree, write_page
from public_names import ROOMS, Name, constants_of, names_of, public_names, rooms
from sphinx.application import Sphinx
from sphinx.config import Config


def write_pages(app: Sphinx, config: Config) -> None:
    """Write `reference/api/*.rst`, before the reader looks for pages."""
    folder = Path(app.srcdir) / "reference" / "api"
    names = public_names()
    remove_others(folder, ["index", *rooms(), *(name.path for name in names)])
    write_page(folder / "index.rst", _index())
    for room in rooms():
        write_page(folder / f"{room}.rst", _room_page(room, names))


def _index() -> str:
    parts = [heading("Python"), "Every public name has a page of its own.\n", toctree(["pyro_vae"])]
    parts += [toctree([f"pyro_vae.{room}" for room in rooms], title) for title, rooms in ROOMS.items()]
    return "\n".join(parts)


def _room_page(room: str, names: list[Name]) -> str:
    own = [name.path for name in names if name.room == room]
    elsewhere = _elsewhere(room, names, own)
    parts = [heading(room), _summary(room)]
    parts += [_table(own, toctree=True)] if own else []
    parts += ["On pages of other modules:\n", _table(elsewhere, toctree=False)] if elsewhere else []
    return "\n".join([*parts, *_constants(room)])


def _constants(room: str) -> Iterator[str]:
    """Entries for constants and names of types, on the page of their room, each with its value or its keys."""
    for name, value in constants_of(importlib.import_module(room)).items():
        if isinstance(value, Mapping):
            shown = f"A mapping with the keys {', '.join(f'``{key}``' for key in value)}."
        elif isinstance(value, tuple):
            names = (str(getattr(item, "name", item)) for item in value)
            shown = f"A tuple of {', '.join(f'``{name}``' for name in names)}."
        else:
            shown = f"``{value}``"
        yield f".. py:data:: {room}.{name}\n\n   {shown}\n"


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


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("config-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
