"""Rewrites the parser's messages in plain words, with the option as the user typed it."""

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyro_vae.arguments.remedies import closest
from pyro_vae.cli.described import find
from pyro_vae.cli.library import Axis
from pyro_vae.cli.values import suggest, unfit

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

_HIDDEN = ("-h", "--help", "--print_shtab")


def explain(message: str, parser: "ArgumentParser", argv: Sequence[str]) -> str:
    """The message of jsonargparse, with the nearest and all known names where one was mistyped."""
    if match := re.search(r"unrecognized arguments: (--[\w.]+)", message):
        return _unknown(match[1], parser, argv)
    if match := re.search(r"unrecognized arguments: (.*)", message):
        return f"unexpected argument {match[1]!r}: options are written --name value"
    if match := re.search(r"arguments are required: (.*)", message):
        return f"expected {' and '.join(_missing(match[1].split(', '), parser))}"
    if match := re.search(r"argument (--[\w.]+): invalid choice: '(.*)' \(choose from (.*)\)", message):
        choices = re.findall(r"[^ ,']+", match[3])
        return f"{match[1]}: unknown value {match[2]!r}{suggest(match[2], choices)}"
    if match := re.search(r"argument (--[\w.]+): expected ", message):
        return f"{match[1]}: expected a value after it"
    key = re.search(r'arser key "([\w.]+)"', message)
    value = re.search(r"(?:Got|Given) value: (.*)", message, re.DOTALL)
    kinds = {action.dest: getattr(action, "_typehint", None) for action in parser._actions}
    if key and value and kinds.get(key[1]) is not None:
        return f"{key[1]}: {unfit(value[1], kinds[key[1]])}"
    return re.sub(r'Parser key "([\w.]+)":', r"\1:", message)


def where_typed(message: str, argv: Sequence[str]) -> str:
    """A message about an option: `--epochs: ...` if it was typed, `epochs: ...` if it is from a configuration."""
    key = re.match(r"[a-z_]+(\.\w+)*(?=:)", message)
    typed = key and any(re.match(rf"--{re.escape(key[0])}(\.|=|$)", str(word)) for word in argv)
    return f"--{message}" if typed else message


def _unknown(word: str, parser: "ArgumentParser", argv: Sequence[str]) -> str:
    """The message for an unknown option; perhaps one of a class, typed without its first name (`--latent_dim`)."""
    typed = next((str(given).partition("=")[0] for given in argv if str(given).startswith(word)), word)
    own = [name for action in parser._actions for name in action.option_strings if name not in _HIDDEN]
    below = {path.rpartition(".")[2]: path for path in reversed(list(_below(parser)))}
    inner = closest(typed.removeprefix("--"), below, cutoff=0.8)
    if inner is None or closest(typed, own, cutoff=0.8) is not None:
        bare = {name.removeprefix("--"): name for name in own}  # dashes in common are no likeness
        meant = closest(typed.removeprefix("--"), bare, cutoff=0.6)
        return f"unknown option {typed!r}{_meant(bare.get(meant or ''))} Known: {', '.join(own)}"
    return f"unknown option {typed!r}{_meant(f'--{below[inner]}')} Known: {', '.join(own)}"


def _meant(name: str | None) -> str:
    return f", did you mean {name!r}?" if name else "."


def _below(parser: Any) -> Iterable[str]:
    """The options of a command's default classes and of their parts, as `vae.latent_dim`."""
    from pyro_vae.cli.sources import Sources

    library = Sources()
    for name, option in getattr(parser, "classes", {}).items():
        axis = Axis(tuple(map(library.base, option.bases)), option.built_with)
        yield from _options(library, axis, option.default, name, depth=2)


def _options(library: Any, axis: Axis, default: Any, key: str, depth: int) -> list[str]:
    """Paths of the options of the class that a default describes, the outer ones first."""
    if not isinstance(default, Mapping) or "class_path" not in default or not depth:
        return []
    options = library.options(find(default["class_path"], axis, key, library), axis.built_with)
    inner = [
        path
        for name, option in options.items()
        if option.axis is not None
        for path in _options(library, option.axis, option.default, f"{key}.{name}", depth - 1)
    ]
    return [*(f"{key}.{name}" for name in options), *inner]


def _missing(names: Sequence[str], parser: "ArgumentParser") -> Iterable[str]:
    """The required arguments that are missing, with their help."""
    actions = {action.dest: action for action in parser._actions}
    for name in names:
        action = actions.get(name, argparse.Action([], name, metavar=name))
        typed = " ".join([*action.option_strings[:1], str(action.metavar or name.upper())])
        yield f"{typed} ({(action.help or name).removesuffix('; required')})"
