"""New parts by a new file: classes in an axis's folder are found without being named elsewhere."""

import sys
from importlib import import_module
from pkgutil import iter_modules


def added_to(face: str) -> dict[str, type]:
    """The public classes in those files of a package that its `__init__` has not imported.

    An axis's `__init__` imports its own files explicitly, for editors and readers, and then calls this function, so
    that a file added to the folder needs no further edit.

    Args:
        face: name of the package, `__name__` in its `__init__`.

    Returns:
        The classes by name.
    """
    files = (f"{face}.{info.name}" for info in iter_modules(sys.modules[face].__path__))
    added = [import_module(name) for name in files if name not in sys.modules]
    return {
        name: value
        for module in added
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__ and not name.startswith("_")
    }
