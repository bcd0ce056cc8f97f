"""Options that name a class: which classes there are, and what is taken where none is named."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ClassOption:
    """An option that names a class, with that class's own options below it.

    Args:
        bases: import paths of the classes that the named one derives from.
        default: the description of what is taken where no class is named; None where there is nothing then.
        built_with: how many arguments of the constructor come when the object is built.
        later: values of options that are only known later, for classes that have such options.
    """

    bases: tuple[str, ...]
    default: Mapping[str, Any] | None = None
    built_with: int = 0
    later: Mapping[str, Any] = field(default_factory=dict)


def names(option: ClassOption) -> str:
    """The classes that an option takes, for its help."""
    from pyro_vae.cli.library import Axis, names_of
    from pyro_vae.cli.sources import Sources

    sources = Sources()
    return ", ".join(names_of(sources, Axis(tuple(map(sources.base, option.bases)))))
