"""`~` in a path as the home folder: a shell leaves it as it is in `--run=~/x`."""

from pathlib import Path

from jsonargparse import Namespace

_PATHS = ("run", "runs", "out", "data", "data_root")
"""Options that are paths, or may be."""


def expanded(options: Namespace) -> Namespace:
    """The options with the home folder in their paths."""
    for name in _PATHS:
        value = options.get(name)
        if isinstance(value, str):
            options[name] = with_home(value)
        elif isinstance(value, list):
            options[name] = [with_home(path) for path in value]
    return options


def with_home(path: str) -> str:
    """A path with the home folder in place of `~` or `~user`; as it is where there is none."""
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError:  # no such user
        return path
