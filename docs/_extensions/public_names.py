"""The public names of the package: what each public room offers, and the one page that each has."""

import importlib
import inspect
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pyro_vae.cli.library import AXES

# Rooms without `__all__` are files: their public names are the classes and functions defined there.
ROOMS = {
    "What you choose": [*AXES],
    "What you do": (
        ["data", "training", "evidence", "diagnostics", "tasks", "plots", "report", "sharing", "sklearn", "testing"]
    ),
    "How it is done": ["inference", "distributed", "errors"],
}


@dataclass(frozen=True)
class Name:
    """A public name: `path` is the shortest way to import it, `room` the page that lists it first."""

    path: str
    room: str
    value: Any


def names_of(module: ModuleType) -> list[str]:
    """The public names of a module, in alphabetical order."""
    if hasattr(module, "__all__"):
        return sorted(module.__all__)
    own = [(name, value) for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    return sorted(name for name, value in own if inspect.isclass(value) or inspect.isfunction(value) if name[0] != "_")


def rooms() -> list[str]:
    """The modules that have a page, the package itself first."""
    return ["pyro_vae", *(f"pyro_vae.{room}" for group in ROOMS.values() for room in group)]


def public_names() -> list[Name]:
    """Every public object once, modules and constants excepted."""
    found: dict[int, Name] = {}
    for room in [*rooms()[1:], "pyro_vae"]:
        module = importlib.import_module(room)
        for name in names_of(module):
            _add(found, Name(f"{room}.{name}", room, getattr(module, name)))
    return list(found.values())


def _add(found: dict[int, Name], new: Name) -> None:
    if not _has_page(new.value):
        return
    old = found.setdefault(id(new.value), new)
    if len(new.path) < len(old.path):
        found[id(new.value)] = Name(new.path, old.room, new.value)


def constants_of(module: ModuleType) -> dict[str, Any]:
    """The public values of a room that are neither classes, functions nor modules: constants and names of types."""
    values = {name: getattr(module, name) for name in names_of(module)}
    return {name: value for name, value in values.items() if not _has_page(value) and not inspect.ismodule(value)}


def _has_page(value: Any) -> bool:
    return inspect.isclass(value) or inspect.isfunction(value)
