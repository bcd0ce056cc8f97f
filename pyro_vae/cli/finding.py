"""Which commands there are: the files in `pyro_vae/cli/commands`.

Their docstrings are read from the sources, so that help imports none of them.
"""

import ast
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from pyro_vae.cli import commands

_FIRST = (
    "fit",
    "search",
    "evaluate",
    "compare",
    "diagnose",
    "sample",
    "reconstruct",
    "restore",
    "cluster",
    "refit",
    "info",
)
"""In the order in which a project uses them; other commands follow in alphabetical order."""


def command_names() -> list[str]:
    """All commands, in the order in which help lists them."""
    files = {info.name for info in iter_modules(commands.__path__) if not info.name.startswith("_")}
    return [*(name for name in _FIRST if name in files), *sorted(files.difference(_FIRST))]


def summary_of(name: str) -> str:
    """What a command does: the first line of its file's docstring."""
    return docstring_of(name).partition("\n")[0].rstrip(".")


def docstring_of(name: str) -> str:
    """The docstring in the source of a command's file; empty if there is none or the file is not valid Python."""
    paths = (Path(folder) / f"{name}.py" for folder in commands.__path__)
    source = next((path.read_bytes() for path in paths if path.exists()), b"")
    try:
        return ast.get_docstring(ast.parse(source)) or ""
    except (SyntaxError, ValueError):
        return ""


def load_command(name: str) -> Any:
    """The module of a command, with `add_options` and `run`."""
    return import_module(f"{commands.__name__}.{name}")
