"""Parsers of the commands, and errors that suggest the nearest known name."""

import argparse
import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from inspect import isabstract, signature
from pathlib import Path

import torch
from jsonargparse import ArgumentParser, Namespace

from pyro_vae.errors import UsageError
from pyro_vae.guides import Guide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.networks import Network
from pyro_vae.objectives import Objective
from pyro_vae.priors import Prior
from pyro_vae.schedules import Schedule

_BASES: dict[str, type] = {
    "vae.prior": Prior,
    "vae.likelihood": Likelihood,
    "vae.guide": Guide,
    "vae.encoder": Network,
    "vae.decoder": Network,
    "objective": Objective,
    "beta": Schedule,
    "lr_schedule": Schedule,
    "optimizer": torch.optim.Optimizer,
}
"""The base class behind each option that takes a class."""
_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "tuple": "a list"}


def make_parser(command: str, description: str) -> ArgumentParser:
    """An empty parser for `pyro-vae COMMAND`, which raises instead of exiting."""
    return ArgumentParser(prog=f"pyro-vae {command}", description=description, exit_on_error=False, allow_abbrev=False)


def add_common(parser: ArgumentParser) -> None:
    """The options that every command has."""
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def allow_own_modules() -> None:
    """Let a user's own class lie in a file beside where the command is run."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def parse(parser: ArgumentParser, argv: list[str]) -> Namespace:
    """Parse, or raise a `UsageError` of one line that names what is known.

    Raises:
        UsageError: for an unknown option or class, or a value of the wrong type.
    """
    try:
        return parser.parse_args(argv)
    except argparse.ArgumentError as error:
        raise UsageError(explain(str(error), parser)) from None


def explain(message: str, parser: ArgumentParser) -> str:
    """The message of jsonargparse, with the nearest and all known names where one was mistyped."""
    options = [option for action in parser._actions for option in action.option_strings]
    if match := re.search(r"unrecognized arguments: (--[\w.]+)", message):
        shown = [option for option in options if not option.endswith(".help") and option != "--print_config"]
        return f"unknown option {match[1]!r}{_suggest(match[1], shown)}"
    if match := re.search(r"unrecognized arguments: (.*)", message):
        return f"unexpected argument {match[1]!r}: options are written --name value"
    keys = re.findall(r'[Pp]arser key "([\w.]+)"', message)
    base = _BASES.get(keys[-1]) if keys else None
    if base and (match := re.search(r"Option '(\w+)' is not accepted", message)):
        return _unknown_option(".".join(keys), base, match[1], message)
    if base and (match := re.search(r"Expected a dot import path string: (\S+)", message)):
        names = [cls.__name__ for cls in known_classes(base)]
        return f"{'.'.join(keys)}: unknown class {match[1]!r}{_suggest(match[1], names)}"
    if keys and (match := re.search(r"typing\.Literal\[(.*?)\]", message)):
        return _unknown_value(".".join(keys), re.findall(r"'(\w+)'", match[1]), message)
    return _plain(message)


def known_classes(base: type) -> list[type]:
    """The concrete classes of an axis that are imported, by name."""
    found = [c for cls in base.__subclasses__() for c in [cls, *known_classes(cls)]]
    return sorted({c for c in found if not isabstract(c) and not c.__name__.startswith("_")}, key=lambda c: c.__name__)


def _unknown_option(key: str, base: type, option: str, message: str) -> str:
    paths = re.findall(r"class_path[= ]'([\w.]+)'", message)
    module, _, name = paths[-1].rpartition(".") if paths else ("", "", "")
    named = (c for c in known_classes(base) if c.__name__ == name)
    cls = getattr(sys.modules.get(module), name, None) or next(named, None)
    accepted = (
        [p for p in signature(cls).parameters if p not in ("shapes", "in_shape", "out_shape", "params")] if cls else []
    )
    return f"{key}: {name or 'the class'} has no option {option!r}{_suggest(option, accepted)}"


def _unknown_value(key: str, values: list[str], message: str) -> str:
    value = re.search(r"(?:Got|Given) value: (.*?)(?:\. Got value|$)", message, re.MULTILINE)
    came = value[1] if value else ""
    others = [_WORDS[name] for name in re.findall(r"- Expected a <class '(\w+)'>", message) if name in _WORDS]
    return f"{key}: unknown value {came!r}{_suggest(came, [*values, *others])}"


def _suggest(name: str, known: Iterable[str]) -> str:
    known = list(dict.fromkeys(known))
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"{f', did you mean {close[0]!r}' if close else ''}? Known: {', '.join(known) or 'none'}"


def _plain(message: str) -> str:
    """The message without Python's notation."""
    message = re.sub(r"Type collections\.abc\.Callable\[.*?\] expects a function or a callable class: ", "", message)
    message = re.sub(r"\.? Got value: Namespace\(.*\)$", "", message)
    message = re.sub(r'Parser key "([\w.]+)":', r"\1:", message)
    return re.sub(r"a <class '(\w+)'>", lambda match: _WORDS.get(match[1], match[0]), message)
