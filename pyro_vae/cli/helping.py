"""The texts of `COMMAND --help` and `--OPTION.help CLASS`: types in words, defaults as a user types them."""

import argparse
import re
import textwrap
from inspect import isclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from jsonargparse import DefaultHelpFormatter

from pyro_vae.cli.class_options import ClassOption, filled
from pyro_vae.cli.given import NOTHING, Given, given_of
from pyro_vae.cli.values import shown

_METAVARS = {int: "N", float: "X", str: "TEXT", bool: "true|false", NoneType: ""}


class HelpFormatter(DefaultHelpFormatter):
    """A short usage line; for each option the form of its value, what it does, and its default."""

    def __init__(self, prog: str, **keywords: Any) -> None:
        super().__init__(prog, **{"max_help_position": 28, "width": 110, **keywords})

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """The command's description: paragraphs are wrapped; an indented line, an example, stays as it is."""
        parts = re.split(r"(^ +.+$)", text, flags=re.MULTILINE)
        wrap = super()._fill_text
        filled = (part if part.startswith(" ") else wrap(part, width, indent) for part in parts)
        return "\n".join(filter(str.strip, filled))

    def _format_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any) -> str:
        positional = [
            f"{a.metavar or a.dest.upper()}{' ...' if a.nargs == '+' else ''}" for a in actions if not a.option_strings
        ]
        return f"usage: {' '.join([self._prog, *positional, '[options]'])}\n\n"

    def _get_help_string(self, action: argparse.Action) -> str:
        option = getattr(action, "of_classes", None)
        text = (action.help or "") if option is None else filled(action.help or "", option)
        text = text.replace("%", "%%")
        without = action.nargs == 0 or action.default in (None, argparse.SUPPRESS, []) or "default" in text
        return text if without else f"{text} (default: {_typed(action.default)})"

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return action.metavar or action.dest.upper()  # pyright: ignore
        names = ", ".join(action.option_strings)
        return names if action.nargs == 0 else f"{names} {_metavar(action)}"


def _typed(value: Any) -> str:
    """A value as a user types it."""
    return value if isinstance(value, str) else shown(value)


def _metavar(action: argparse.Action) -> str:
    if action.metavar and not str(action.metavar).startswith("{"):  # set by jsonargparse
        return str(action.metavar)
    if action.choices:
        several = " ..." if action.nargs in ("*", "+") else ""
        return f"{'|'.join(map(str, action.choices))}{several}"
    return metavar(getattr(action, "_typehint", str))


def metavar(kind: Any) -> str:
    """The placeholder in help for a value of a type.

    Example:
        >>> metavar(float | Literal["learned"] | None), metavar(tuple[int, ...])
        ('X|learned', '[N,...]')
    """
    if kind in _METAVARS:
        return _METAVARS[kind]
    if isclass(kind) and kind.__module__.startswith("torch"):  # cannot be typed
        return ""
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    if get_origin(kind) in (Union, UnionType):
        return "|".join(dict.fromkeys(word for part in get_args(kind) if (word := metavar(part))))
    if get_origin(kind) is tuple and Ellipsis not in get_args(kind):
        return f"[{','.join(map(metavar, get_args(kind)))}]"
    if get_origin(kind) is dict:
        return "{NAME: VALUE}"
    return f"[{metavar(get_args(kind)[0])},...]" if get_args(kind) else "VALUE"


# ---- a class ---------------------------------------------------------------------------------------------------------


def class_help(option: ClassOption, given: Given, path: list[str], name: str | None) -> str:
    """Help on one class and its options; or, without a class, the list of classes.

    Args:
        option: the option of the command that `path` begins with.
        given: what the command line gave for it before `.help`.
        path: names of options from that one to the one in question, e.g. `["vae", "prior"]`.
        name: the class; None for the list of all.
    """
    from pyro_vae.cli.described import find
    from pyro_vae.cli.library import Axis, Imported, names_of

    library = Imported()
    axis, whole = Axis(tuple(map(library.base, option.bases)), option.built_with, None, option.later), given
    default = given_of(option.default or {})
    for at, part in enumerate(path[1:], start=1):
        whole = whole.over(default)
        key = ".".join(path[:at])
        inner = library.options(find(whole.value, axis, key, library), axis.built_with).get(part)
        if inner is None or inner.axis is None:
            return f"--{key}.{part} takes no class\n"
        axis, default = inner.axis, given_of({} if inner.default is NOTHING else inner.default)
        whole = whole.options.get(part, Given())
    key = ".".join(path)
    if name is None:
        names = names_of(library, axis)
        return f"--{key} takes one of {', '.join(names)}, or a class of your own by import path.\n" + _see(key)
    return _of_class(find(name, axis, key, library), axis, key, library)


def _see(key: str) -> str:
    return f"--{key}.help CLASS lists the options of one.\n"


def _of_class(cls: type, axis: Any, key: str, library: Any) -> str:
    from pyro_vae.cli.described import shown_of
    from pyro_vae.cli.library import names_of

    options = library.options(cls, axis.built_with)
    lines = [f"--{key} {cls.__name__}: {_summary(cls)}", ""]
    for name in shown_of(options, axis):
        option = options[name]
        classes = f"one of {', '.join(names_of(library, option.axis))}" if option.axis else ""
        word = "CLASS" if option.axis and option.axis.plain is None else metavar(option.kind)
        word = f"{metavar(option.axis.plain)}|CLASS" if option.axis and option.axis.plain else word
        lines += _entry(f"--{key}.{name} {word}", _option_text(option, classes))
    return "\n".join([*lines, *([] if len(lines) > 2 else ["  no options"])]) + "\n"


def _option_text(option: Any, classes: str) -> str:
    """The help text of an option: what it does, which classes it accepts, and its default."""
    default = option.default
    if isinstance(default, dict) and "class_path" in default:
        default = default["class_path"].rpartition(".")[2]
    text = re.sub(r"\s*\(default: [^()]*(\([^()]*\))?[^()]*\)", "", " ".join(option.help.split())).rstrip(".")
    parts = [text, *([classes] if classes else [])]
    shown_default = "" if option.default in (NOTHING, None) else f" (default: {_typed(default)})"
    return f"{'; '.join(filter(None, parts))}{shown_default}"


def _entry(head: str, text: str) -> list[str]:
    return [f"  {head}", *textwrap.wrap(text, 108, initial_indent=" " * 6, subsequent_indent=" " * 6)]


def _summary(cls: type) -> str:
    """The first sentence of a class's docstring."""
    first = (cls.__doc__ or "").strip().split("\n\n")[0]
    return " ".join(first.split()) or "it has no description"
