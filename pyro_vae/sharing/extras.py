"""Packages that an extra brings: imported where they are needed, and named where they are absent."""

from importlib import import_module
from typing import Any

from pyro_vae.errors import MissingPackage


def extra(name: str, *packages: str, what: str) -> Any:
    """The first of some packages, once all of them are found to be installed.

    Args:
        name: the extra that brings them.
        *packages: their names, which are those of their modules.
        what: what needs them, for the message.

    Raises:
        MissingPackage: with the first one that is absent.
    """
    modules = []
    for package in packages:
        try:
            modules.append(import_module(package))
        except ModuleNotFoundError as error:
            raise MissingPackage(package, name, what) from error
    return modules[0]
