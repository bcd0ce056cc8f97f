"""Options that name a class: which classes they accept, and the default where none is named."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ClassOption:
    """An option that names a class; the options of that class are written below it, as `--NAME.OPTION`.

    Args:
        bases: import paths of base classes; the named class derives from one of them.
        default: description of the object where no class is named; None if the option may stay empty.
        built_with: number of leading constructor arguments that are given when the object is built, not by the user.
        later: placeholders for options whose values the data decide, for classes that have these options.
    """

    bases: tuple[str, ...]
    default: Mapping[str, Any] | None = None
    built_with: int = 0
    later: Mapping[str, Any] = field(default_factory=dict)


def filled(help: str, option: ClassOption) -> str:
    """The help of an option with the names it leaves a place for: `{classes}`, and `{options}` of the default class.

    They are read from the sources, which takes 0.3 s: only when help is shown.
    """
    from pyro_vae.cli.library import Axis, names_of
    from pyro_vae.cli.sources import Sources

    sources = Sources()
    bases = tuple(map(sources.base, option.bases))
    text = help.replace("{classes}", ", ".join(names_of(sources, Axis(bases))))
    if "{options}" in text and option.default is not None:
        options = sources.options(sources.below(bases[0])[option.default["class_path"]], option.built_with)
        text = text.replace("{options}", ", ".join(name for name in options if name not in option.later))
    return text
