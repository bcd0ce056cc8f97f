"""The parser of a command: plain options, and options that name a class; from the command line and from YAML.

All names are checked before torch is imported, so that help and mistakes appear at once.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

from jsonargparse import ArgumentParser, Namespace, set_dumper, set_loader

from pyro_vae.cli.class_options import ClassOption
from pyro_vae.cli.finding import docstring_of, load_command
from pyro_vae.cli.given import Given, given_of
from pyro_vae.cli.helping import HelpFormatter
from pyro_vae.cli.home import expanded, with_home
from pyro_vae.cli.mistakes import explain, where_typed
from pyro_vae.cli.streams import say
from pyro_vae.cli.values import loaded, shown, suggest, whole_number
from pyro_vae.errors import UsageError
from pyro_vae.runs.formats import MADE_BY
from pyro_vae.runs.safe_yaml import MAX_CHARACTERS, YamlError, dump_yaml, load_yaml

_MODE = "pyro-vae"

_PATHS = {"DIR", "FILE", "FOLDER", "HTML", "MD", "PNG", "RUN"}
"""What a path is called in the help."""


class CommandParser(ArgumentParser):
    """The parser of one command.

    If the user names no class for a class option, the command's default is used, changed by the options given. If the
    user names a class, only the defaults of the class itself apply.
    """

    takes_config = False

    def add_class(self, group: Any, name: str, option: ClassOption, help: str) -> None:
        """Add `--NAME CLASS` and `--NAME.OPTION VALUE`; its help, see `class_options.filled`, appears in `group`."""
        self.classes[name] = option
        group.add_argument(f"--{name}", type=str, default=None, metavar="CLASS", help=help).of_classes = option

    def add_config(self, group: Any, help: str) -> None:
        """Add `--config FILE` and `--print_config`."""
        self.takes_config = True
        group.add_argument("--config", type=str, default=None, metavar="FILE", help=help)
        group.add_argument("--print_config", action="store_true", help="print all options as YAML, and do nothing else")

    @property
    def classes(self) -> dict[str, ClassOption]:
        """The options that name a class."""
        return self.__dict__.setdefault("_class_options", {})

    def parse_args(self, args: Sequence[str] | None = None, *others: Any, **keywords: Any) -> Namespace:  # pyright: ignore
        """Parse all options; a class option becomes a complete description with `class_path` and `init_args`.

        Raises:
            UsageError: for a mistake in a class option or in a configuration.
            ArgumentError: for a mistake in another option.
        """
        words = _Words(self, sys.argv[1:] if args is None else args)
        options = super().parse_args(words.left, *others, **keywords)
        self._refuse_empty_paths(options)
        if self.classes:
            from pyro_vae.cli.library import Imported

            self._describe(options, words.given, Imported())
        if words.print_config:
            _show_config(options)
        return options

    def check(self, args: Sequence[str]) -> None:
        """Report a mistake, or print help, without importing the classes that the options name."""
        words = _Words(self, args)
        options = super().parse_args(words.left)
        self._refuse_empty_paths(options)
        if any(words.given.values()):
            from pyro_vae.cli.sources import ElsewhereError, Sources

            for name in self.classes:
                try:
                    self._describe(options, {name: words.given[name]}, Sources())
                except ElsewhereError:  # a class of the user: checked when it is imported
                    continue

    def _refuse_empty_paths(self, options: Namespace) -> None:
        """An empty path is that of the folder one is in: what a variable of the shell gives that is not set."""
        for action in self._actions:
            value = options.get(action.dest)
            is_path = action.metavar in _PATHS or action.dest in ("run", "runs")
            if is_path and "" in (value if isinstance(value, list) else [value]):
                name = action.option_strings[-1] if action.option_strings else action.dest.upper()
                raise UsageError(f"{name}: expected a path, got an empty text")

    def _describe(self, options: Namespace, given: Mapping[str, Given], library: Any) -> None:
        from pyro_vae.cli.described import described
        from pyro_vae.cli.library import Axis

        for name, found in given.items():
            option = self.classes[name]
            whole = found if option.default is None else found.over(given_of(option.default))
            axis = Axis(tuple(map(library.base, option.bases)), option.built_with, None, option.later)
            empty = not whole or (option.default is None and loaded(whole.value) is None)
            options[name] = None if empty else _namespace(described(whole, axis, name, library))


def _show_config(options: Namespace) -> NoReturn:
    plain = {name: value for name, value in options.as_dict().items() if name not in ("config", "print_config")}
    say(dump_yaml(plain).rstrip("\n"))
    raise SystemExit(0)


def _namespace(value: Any) -> Any:
    """Mappings as namespaces, at every depth."""
    if isinstance(value, Mapping):
        return Namespace(**{name: _namespace(inner) for name, inner in value.items()})
    return value


class _Words:
    """The words of a command line, split into class options and others. Later words, also in files, win.

    Args:
        parser: the parser of the command.
        words: the words.

    Attributes:
        given: what was given for each option that names a class.
        left: all other words, and the entries of configurations written as such words.
        print_config: whether `--print_config` was given.
    """

    def __init__(self, parser: CommandParser, words: Sequence[str]) -> None:
        self.parser = parser
        self.given = {name: Given() for name in parser.classes}
        self.left: list[str] = []
        self.print_config = False
        self._part(iter(words))

    def _part(self, remaining: Iterator[str]) -> None:
        for word in remaining:
            name, equals, value = word.removeprefix("--").partition("=")
            path = name.split(".") if word.startswith("--") else [""]
            if path[0] in self.given:
                self._class_word(path, value if equals else next(remaining, None))
            elif path == ["config"] and self.parser.takes_config:
                self._config(value if equals else next(remaining, None))
            elif path == ["print_config"] and self.parser.takes_config:
                self.print_config = True
            else:
                self.left += self._plain_word(word, remaining)

    def _plain_word(self, word: str, remaining: Iterator[str]) -> list[str]:
        """A word; if its option takes a whole number, with the value rewritten: 1e3 as 1000."""
        name, equals, value = word.partition("=")
        if not any(name in action.option_strings and _is_whole(action) for action in self.parser._actions):
            return [word]
        if equals:
            return [f"{name}={whole_number(value)}"]
        return [word, *(whole_number(value) for value in [next(remaining, None)] if value is not None)]

    def _class_word(self, path: list[str], value: str | None) -> None:
        key = ".".join(path)
        if path[-1] == "help":
            self._help(path[:-1], value)
        if value is None:
            raise UsageError(f"--{key}: expected a value after it")
        self.given[path[0]].assign(path[1:], value if path[1:] else _file_or_word(value, key), path[0])

    def _help(self, path: list[str], name: str | None) -> NoReturn:
        from pyro_vae.cli.helping import class_help

        say(class_help(self.parser.classes[path[0]], self.given[path[0]], path, name).rstrip("\n"))
        raise SystemExit(0)

    def _config(self, source: str | None) -> None:
        if source is None:
            raise UsageError("--config: expected a file after it")
        config = read_yaml(source, "--config")
        if not isinstance(config, Mapping):
            raise UsageError(f"--config {_short(source)}: expected options by name, got {_shown(config)}")
        for key, value in config.items():
            self._config_key(key, value, source)

    def _config_key(self, key: str, value: Any, source: str) -> None:
        path, known = key.split("."), options_of(self.parser)
        if path[0] in self.given:
            self.given[path[0]].assign(path[1:], value, path[0])
        elif key == MADE_BY:
            raise UsageError(
                f"--config {_short(source)}: it is of a refitted run, which was not trained as a whole: take the "
                f"config.yaml of the run that it was made from{_made_from(value)}"
            )
        elif key not in known:
            raise UsageError(f"--config {_short(source)}: unknown key {key!r}{suggest(key, [*self.given, *known])}")
        elif isinstance(known[key], argparse._StoreTrueAction) or known[key].nargs == 0:
            self.left += _flag(key, value)
        elif isinstance(value, Mapping | list) and str in _kinds(known[key]):
            raise UsageError(f"{key}: expected text, got {shown(value)}")
        else:
            self.left.append(f"--{key}={_word(value)}")


def options_of(parser: ArgumentParser) -> dict[str, argparse.Action]:
    """The plain options that a configuration may contain."""
    hidden = ("help", "config", "print_config")
    return {a.dest: a for a in parser._actions if a.option_strings and a.dest not in hidden}


def _is_whole(action: argparse.Action) -> bool:
    kinds = _kinds(action)
    return int in kinds and float not in kinds


def _kinds(action: argparse.Action) -> tuple[Any, ...]:
    """The type of an option's values; of a union, also each of its types."""
    kind = getattr(action, "_typehint", None) or action.type
    return (kind, *get_args(kind))


def _made_from(record: Any) -> str:
    """The source of a refitted run, where its config names one."""
    run = record.get("run") if isinstance(record, Mapping) else None
    return f", {run}" if isinstance(run, str) else ""


def _flag(key: str, value: Any) -> list[str]:
    if not isinstance(value, bool):
        raise UsageError(f"{key}: expected true or false, got {value!r}")
    return [f"--{key}"] if value else []


def _word(value: Any) -> str:
    """A value from YAML as a word of the command line."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return dump_yaml(value).splitlines()[0]
    return json.dumps(value)


def _file_or_word(value: str, key: str) -> Any:
    """The word itself, or the content of the YAML file that it names."""
    return read_yaml(value, f"--{key}") if value.endswith((".yaml", ".yml", ".json")) else value


def read_yaml(source: str, option: str) -> Any:
    """Plain data from a file, or from the text itself if it is a mapping."""
    text = source if source.lstrip().startswith("{") else _text(source, option)
    try:
        return load_yaml(text)
    except YamlError as error:
        raise UsageError(f"{option} {_short(source)}: {error}") from None


def _text(path: str, option: str) -> str:
    """The text of a file, up to the largest length that is accepted."""
    try:
        with Path(with_home(path)).open(encoding="utf-8") as file:
            return file.read(MAX_CHARACTERS + 1)
    except FileNotFoundError:
        raise UsageError(f"{option}: there is no file {path!r}") from None
    except IsADirectoryError:
        raise UsageError(f"{option}: expected a file, got {f'the folder {path!r}' if path else 'no name'}") from None
    except (UnicodeDecodeError, ValueError) as error:
        raise UsageError(f"{option} {path}: expected text in UTF-8: {error}") from None


def _shown(config: Any) -> str:
    return "nothing" if config is None else shown(config)


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def parser_of(command: str) -> CommandParser:
    """The parser of `pyro-vae COMMAND`, with the options that the command's file adds; it raises instead of exiting."""
    set_loader(_MODE, _loaded, exceptions=(YamlError,))
    set_dumper(_MODE, dump_yaml)
    parser = CommandParser(
        prog=f"pyro-vae {command}",
        description=docstring_of(command),
        exit_on_error=False,
        allow_abbrev=False,
        parser_mode=_MODE,
        formatter_class=HelpFormatter,
    )
    load_command(command).add_options(parser)
    return parser


def _loaded(text: str) -> Any:
    """YAML, but `None` is null, as Python writes it."""
    return None if text.strip() == "None" else load_yaml(text)


def parse(parser: CommandParser, argv: Sequence[str]) -> Namespace:
    """Parse a command line; `~` in paths becomes the home folder.

    Names are checked against the source files first, so that help and mistakes appear before torch is imported.

    Raises:
        UsageError: for an unknown option or class, or a value of the wrong type: one line that names what is known.
    """
    try:
        parser.check(argv)
        _allow_own_modules()
        return expanded(parser.parse_args(argv))
    except argparse.ArgumentError as error:  # its cause may be an error in the user's module
        raise UsageError(where_typed(explain(str(error), parser, argv), argv)) from error
    except UsageError as error:
        if type(error) is not UsageError or where_typed(str(error), argv) == str(error):
            raise
        raise UsageError(where_typed(str(error), argv)) from error


def _allow_own_modules() -> None:
    """Allow a user's class to be in a file of the current folder."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def named(options: Any) -> tuple[str, ...]:
    """The modules of all classes that the options name."""
    if isinstance(options, Namespace):
        own = [options.class_path.rpartition(".")[0]] if "class_path" in options else []
        return tuple(dict.fromkeys([*own, *(m for value in vars(options).values() for m in named(value))]))
    return ()
