"""Replaces `~` in paths by the home folder, which a shell does not do in `--run=~/x`."""

from pathlib import Path

from jsonargparse import Namespace

_PATHS = ("run", "runs", "out", "data", "data_root", "file", "folder")
"""Options whose values are paths or may be paths."""


def expanded(options: Namespace) -> Namespace:
    """The options with `~` replaced in their paths."""
    for name in _PATHS:
        value = options.get(name)
        if isinstance(value, str):
            options[name] = with_home(value)
        elif isinstance(value, list):
            options[name] = [with_home(path) for path in value]
    return options


def with_home(path: str) -> str:
    """A path with `~` or `~user` replaced by the home folder; unchanged if there is no such user."""
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError:  # no such user
        return path
