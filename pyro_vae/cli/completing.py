"""Completion in the shell: what can stand at the cursor, found by the parser of the command and the sources.

The shell runs `pyro-vae` with the line typed so far in its environment (extra `completion`: argcomplete, whose code is
in `pyro-vae completion`). The whole parser is translated to one of the standard library, which argcomplete can walk:
the commands, their options, and the options of classes that can be named at this place. Torch is not imported.
"""

import argparse
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pyro_vae.cli.class_options import ClassOption
from pyro_vae.cli.finding import command_names, summary_of
from pyro_vae.cli.given import NOTHING, Given, given_of
from pyro_vae.errors import UsageError

ASKED = "_ARGCOMPLETE"
"""The variable of the environment by which the shell asks for completions."""

_FOLDERS, _FILES = ("FOLDER", "DIR", "RUN"), ("FILE", "HTML", "PNG", "CONFIG")
"""Placeholders in help of values that are paths."""


def complete() -> int:
    """Answer the shell, and end the process; 1 if argcomplete is not installed."""
    try:
        import argcomplete  # pyright: ignore[reportMissingImports]
    except ImportError:
        return 1
    line, point = os.environ.get("COMP_LINE", ""), int(os.environ.get("COMP_POINT", "0"))
    _, prefix, _, words, _ = argcomplete.split_line(line, point)
    words = words[int(os.environ[ASKED]) :]
    parser = whole_parser(words, prefix)
    argcomplete.autocomplete(parser, always_complete_options=not _takes_words(words), default_completer=_nothing)
    return 1


def whole_parser(words: Sequence[str], prefix: str) -> argparse.ArgumentParser:
    """A parser of all commands by name, and of the command at hand with all that can follow.

    Args:
        words: the words before the cursor, without the program.
        prefix: the word at the cursor, as far as it is typed.
    """
    parser = argparse.ArgumentParser("pyro-vae", allow_abbrev=False)
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers()
    for name in command_names():
        below = commands.add_parser(name, help=summary_of(name), allow_abbrev=False)
        if words[:1] == [name]:
            _add_options(below, name, words[1:], prefix)
    return parser


def _takes_words(words: Sequence[str]) -> bool:
    """Whether the command takes words that are no options, which then come first."""
    from pyro_vae.cli.parsing import parser_of

    known = words[:1] and words[0] in command_names()
    return bool(known) and any(not action.option_strings for action in parser_of(words[0])._actions)


def _add_options(below: argparse.ArgumentParser, command: str, words: Sequence[str], prefix: str) -> None:
    from pyro_vae.cli.parsing import parser_of

    parser = parser_of(command)
    known = {"-h", "--help"}  # which every parser has
    for action in parser._actions:
        if known.isdisjoint(action.option_strings) and action.help != argparse.SUPPRESS:
            _add(below, action)
            known.update(action.option_strings)
    named = {word.partition("=")[0] for word in words if word.startswith("--")}
    touched = [name for name in parser.classes if any(f"{word}.".startswith(f"--{name}.") for word in (*named, prefix))]
    given = _given(parser.classes, words)
    for name in touched:
        for option, values, help in _below(name, parser.classes[name], given[name]):
            _complete(below.add_argument(option, action="append", metavar="VALUE", help=_brief(help)), values)
            known.add(option)
    for word in sorted(named):  # what was typed of a class that can't be looked up: its value is no other argument
        if any(word.startswith(f"--{name}.") for name in touched) and word not in known:
            below.add_argument(word)


def _add(below: argparse.ArgumentParser, action: argparse.Action) -> None:
    """Add an option or an argument like this one of ours."""
    if action.nargs == 0:
        below.add_argument(*action.option_strings, action="store_true", help=_brief(action.help))
        return
    names = action.option_strings or [action.dest]
    repeated: Any = {"action": "append"} if action.option_strings else {}  # of two the later one counts
    added = below.add_argument(*names, nargs=action.nargs, help=_brief(action.help), metavar=action.metavar, **repeated)
    _complete(added, values_of(action))


def _brief(help: str | None) -> str:
    """The first clause of a help, which some shells show."""
    text = (help or "").replace("{classes}", "a class of the package")
    return re.split(r"[.;:] |$", " ".join(text.split()), maxsplit=1)[0].replace("%", "%%")


Values = Sequence[str] | Literal["data", "files", "folders"]


def values_of(action: argparse.Action) -> Values:
    """What the value of an option can be: words, or paths; nothing where that can't be told."""
    option, metavar = getattr(action, "of_classes", None), str(action.metavar or "")
    if option is not None:
        return _classes(option)
    if action.dest in ("run", "runs") or metavar in _FOLDERS:
        return "folders"
    if metavar in _FILES or metavar == "NAME|PATH":
        return "files" if metavar in _FILES else "data"
    return list(map(str, action.choices)) if action.choices else _words(getattr(action, "_typehint", None))


def _words(kind: Any) -> list[str]:
    """The words that a type allows."""
    if kind is bool:
        return ["true", "false"]
    if get_origin(kind) is Literal:
        return [str(choice) for choice in get_args(kind)]
    parts = () if get_origin(kind) in (list, tuple, dict) else get_args(kind)
    found = [word for part in parts for word in _words(part)]
    return [*found, "null"] if found and NoneType in parts else found


def _complete(action: argparse.Action, values: Values) -> None:
    from argcomplete import DirectoriesCompleter, FilesCompleter  # pyright: ignore[reportMissingImports]

    by_paths = {"files": FilesCompleter, "data": FilesCompleter, "folders": DirectoriesCompleter}
    paths = by_paths[values]() if isinstance(values, str) else None
    found = _Choices(_data_sets() if values == "data" else () if paths else values, paths)
    action.completer = found  # pyright: ignore[reportAttributeAccessIssue]


def _data_sets() -> list[str]:
    from pyro_vae.cli.sources import constant

    return ["digits", "linear_gaussian", *constant("pyro_vae.data.sources", "_TORCHVISION")]


class _Choices:
    """A completer of some words, and of paths."""

    def __init__(self, words: Sequence[str] = (), paths: Any = None) -> None:
        self.words, self.paths = words, paths

    def __call__(self, prefix: str, **others: Any) -> list[str]:
        paths = [] if self.paths is None else self.paths(prefix=prefix, **others)
        return [*(word for word in self.words if word.startswith(prefix)), *paths]


_nothing: Any = _Choices()


# ---- classes ---------------------------------------------------------------------------------------------------------


def _given(classes: Any, words: Sequence[str]) -> dict[str, Given]:
    """What was typed for each option that names a class, as far as it can be read."""
    given = {name: Given() for name in classes}
    for word, following in pairwise([*words, ""]):
        name, equals, value = word.removeprefix("--").partition("=")
        path = name.split(".")
        if word.startswith("--") and path[0] in given and path[-1] != "help":
            with suppress(UsageError):
                given[path[0]].assign(path[1:], value if equals else following, path[0])
    return given


def _classes(option: ClassOption) -> list[str]:
    from pyro_vae.cli.library import Axis, names_of
    from pyro_vae.cli.sources import Sources

    return names_of(Sources(), Axis(tuple(map(Sources().base, option.bases))))


def _below(name: str, option: ClassOption, given: Given) -> Iterator[tuple[str, Values, str]]:
    """Of the class that is named, or of the default one, and of the classes in it: options, their values, and help."""
    from pyro_vae.cli.library import Axis
    from pyro_vae.cli.sources import Sources

    sources = Sources()
    axis = Axis(tuple(map(sources.base, option.bases)), option.built_with, None, option.later)
    whole = given if option.default is None else given.over(given_of(option.default))
    yield from _walk(f"--{name}", axis, whole, sources)


def _walk(key: str, axis: Any, given: Given, sources: Any) -> Iterator[tuple[str, Values, str]]:
    from pyro_vae.cli.described import find
    from pyro_vae.cli.library import names_of
    from pyro_vae.cli.sources import ElsewhereError

    yield f"{key}.help", names_of(sources, axis), "list the options of a class"
    try:
        options = sources.options(find(given.value, axis, key, sources), axis.built_with)
    except (UsageError, ElsewhereError):  # a class of the user's, or a name that is not typed to its end
        return
    for name, option in options.items():
        if name in axis.later:
            continue
        if option.axis is None:
            yield f"{key}.{name}", _words(option.kind), option.help
            continue
        yield f"{key}.{name}", [*names_of(sources, option.axis), *_words(option.axis.plain)], option.help
        inner = given.options.get(name, Given())
        whole = inner if option.default is NOTHING else inner.over(given_of(option.default))
        yield from _walk(f"{key}.{name}", option.axis, whole, sources)
