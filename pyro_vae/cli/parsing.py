"""Parsers of the commands, and errors that suggest the nearest known name."""

import argparse
import re
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from inspect import isabstract, signature
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace, set_dumper, set_loader

from pyro_vae.autoencoder import Autoencoder
from pyro_vae.errors import UsageError
from pyro_vae.networks import FromShapes, Network
from pyro_vae.objectives import Objective
from pyro_vae.safe_yaml import load_yaml
from pyro_vae.schedules import Schedule

_BASES: dict[str, type] = {
    "vae": Autoencoder,
    "objective": Objective,
    "amount": Schedule,
    "beta": Schedule,
    "capacity": Schedule,
    "insomnia": Schedule,
    "nats": Schedule,
    "lr_schedule": Schedule,
    "optimizer": torch.optim.Optimizer,
}
"""The base class behind each option that takes a class; the parts of a VAE say theirs in its annotations."""
_MODE = "pyro-vae"
_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "tuple": "a list"}


def make_parser(command: str, description: str) -> ArgumentParser:
    """An empty parser for `pyro-vae COMMAND`, which raises instead of exiting."""
    set_loader(_MODE, _loaded, exceptions=(yaml.YAMLError,))
    set_dumper(_MODE, lambda data: yaml.safe_dump(data, sort_keys=False))
    return ArgumentParser(
        prog=f"pyro-vae {command}",
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
        parser_mode=_MODE,
    )


def _loaded(text: str) -> Any:
    """YAML, but `None` is null: jsonargparse writes a null so where it hands an option on to a class within a class."""
    return None if text.strip() == "None" else load_yaml(text)


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


def named(options: Any) -> tuple[str, ...]:
    """The modules of all classes named in the options."""
    if isinstance(options, Namespace):
        own = [options.class_path.rpartition(".")[0]] if "class_path" in options else []
        return tuple(dict.fromkeys([*own, *(m for value in vars(options).values() for m in named(value))]))
    return ()


def explain(message: str, parser: ArgumentParser) -> str:
    """The message of jsonargparse, with the nearest and all known names where one was mistyped."""
    options = [option for action in parser._actions for option in action.option_strings]
    if match := re.search(r"unrecognized arguments: (--[\w.]+)", message):
        shown = [option for option in options if not option.endswith(".help") and option != "--print_config"]
        return f"unknown option {match[1]!r}{_suggest(match[1], shown)}"
    if match := re.search(r"unrecognized arguments: (.*)", message):
        return f"unexpected argument {match[1]!r}: options are written --name value"
    classes = re.findall(r"given class_path '([\w.]+)'", message)
    message = re.sub(
        r"(Parser key \"[\w.]+)\":\s+Problem with given class_path '[\w.]+':\s+Parser key \"", r"\1.", message
    )
    keys = re.findall(r'[Pp]arser key "([\w.]+)"', message)
    bases = _bases_of(".".join(keys), classes, message)
    if bases and (match := re.search(r"Option '(\w+)' is not accepted", message)):
        return _unknown_option(".".join(keys), match[1], message)
    if bases and (match := re.search(r"Expected a dot import path string: (\S+)", message)):
        names = [cls.__name__ for base in bases for cls in known_classes(base)]
        return f"{'.'.join(keys)}: unknown class {match[1]!r}{_suggest(match[1], names)}"
    if Network in bases and (match := re.search(r"Expected '[\w.]*?(\w+)' to be a subclass", message)):
        return (
            f"{'.'.join(keys)}: {match[1]} can't be a network: expected a torch.nn.Module that is built as "
            f"{match[1]}(in_shape, out_shape, ...)"
        )
    if keys and (match := re.search(r"typing\.Literal\[(.*?)\]", message)):
        return _unknown_value(".".join(keys), re.findall(r"'(\w+)'", match[1]), message)
    return _plain(message)


def known_classes(base: type) -> list[type]:
    """The concrete classes of an axis that are imported, by name."""
    found = [c for cls in base.__subclasses__() for c in [cls, *known_classes(cls)]]
    return sorted({c for c in found if not isabstract(c) and not c.__name__.startswith("_")}, key=lambda c: c.__name__)


def _bases_of(key: str, classes: list[str], message: str) -> list[type]:
    """The base classes behind an option: by its name, by the annotation in the class that has it, or as it is told."""
    name = key.rpartition(".")[2]
    if name in _BASES:
        return [_BASES[name]]
    for cls in filter(None, map(_imported, classes)):
        if get_origin(hint := get_type_hints(cls.__init__).get(name)) is Callable:
            made = get_args(hint)[-1]
            return [Network if made is FromShapes else made]
    union = re.search(r"Subtypes: \[(.*?)\]", message)
    told = re.findall(r"<class '([\w.]+)'>", union[1]) if union else []
    return [cls for cls in map(_imported, told) if isinstance(cls, type) and isabstract(cls)]


def _imported(path: str) -> Any:
    """The class at an import path, if its module is imported."""
    module, _, name = path.rpartition(".")
    return getattr(sys.modules.get(module), name, None)


def _unknown_option(key: str, option: str, message: str) -> str:
    paths = re.findall(r"class_path[= ]'([\w.]+)'", message)
    cls, name = (_imported(paths[-1]), paths[-1].rpartition(".")[2]) if paths else (None, "")
    accepted = (
        [p for p in signature(cls).parameters if p not in ("shapes", "event_shape", "in_shape", "out_shape", "params")]
        if cls
        else []
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
    """The message without Python's notation, nor the guess that a class's name might be a file's."""
    message = re.sub(r"- Expected a path but \S+ either not accessible or invalid\s+", "", message)
    message = re.sub(r"Type collections\.abc\.Callable\[.*?\] expects a function or a callable class: ", "", message)
    message = re.sub(r"\.? Got value: Namespace\(.*\)$", "", message)
    message = re.sub(r'Parser key "([\w.]+)":', r"\1:", message)
    return re.sub(r"a <class '(\w+)'>", lambda match: _WORDS.get(match[1], match[0]), message)
