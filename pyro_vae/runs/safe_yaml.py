"""YAML from other people as plain data: its size is checked before anything is built; errors are one line.

An alias (`*name`) stands for a copy. All limits hold for the data with aliases replaced by their copies, so that a few
lines can't stand for millions of values. The limits are far above what the description of a training needs.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import yaml

MAX_CHARACTERS = 200_000


MAX_VALUES = 10_000


MAX_DEPTH = 50


class YamlError(yaml.YAMLError):
    """Text that is not YAML, or not of the kind that is read here: one line, with the key if there is one."""


def load_yaml(text: str) -> Any:
    """Mappings with names as keys, lists, strings, numbers, booleans and null; no two places share an object.

    Numbers are read as in Python (1e-3 is one); dates and times stay strings.

    Raises:
        YamlError: for wrong syntax, a key that is given twice or is not a name, a tag, an alias within itself, and more
            than `MAX_CHARACTERS`, `MAX_VALUES` or `MAX_DEPTH`.

    Example:
        >>> load_yaml("optimizer: {lr: 1e-3}")
        {'optimizer': {'lr': 0.001}}
    """
    if len(text) > MAX_CHARACTERS:
        raise YamlError(f"expected at most {MAX_CHARACTERS} characters, got {len(text)}")
    try:
        _check(yaml.parse(text, Loader=_Loader))
        return _named(yaml.load(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise YamlError(f"{where}{', '.join(filter(None, (error.context, error.problem)))}") from None
    except YamlError:
        raise
    except yaml.YAMLError as error:
        raise YamlError(" ".join(str(error).split())) from None


def dump_yaml(value: Any) -> str:
    """Plain data as text that `load_yaml` reads back unchanged; without aliases, keys in their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)


# ---- numbers ---------------------------------------------------------------------------------------------------------

_INT, _FLOAT, _TIME = (f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp"))


_INTEGER = re.compile(r"[-+]?(?:0b[01]+|0o[0-7]+|0x[\da-fA-F]+|0|[1-9][\d_]*)$")


_NUMBER = re.compile(
    r"[-+]?(?:(?:\d[\d_]*\.[\d_]*|\.\d[\d_]*)(?:[eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.inf|\.Inf|\.INF)$"
    r"|\.(?:nan|NaN|NAN)$"
)


_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Safe):
    """PyYAML's safe loader with Python's numbers; a number that can't be built stays a string."""

    yaml_implicit_resolvers: ClassVar[dict[Any, Any]] = {
        first: [(tag, pattern) for tag, pattern in found if tag not in (_INT, _FLOAT, _TIME)]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def integer(self, node: yaml.ScalarNode) -> int | str:
        try:
            return int(node.value, 0)
        except ValueError:
            return node.value

    def number(self, node: yaml.ScalarNode) -> float | str:
        try:
            return self.construct_yaml_float(node)
        except ValueError:
            return node.value


_Loader.add_implicit_resolver(_FLOAT, _NUMBER, list("-+.0123456789"))


_Loader.add_implicit_resolver(_INT, _INTEGER, list("-+0123456789"))


_Loader.add_constructor(_INT, _Loader.integer)


_Loader.add_constructor(_FLOAT, _Loader.number)


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, with quotes around strings that the loader would read as numbers."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers

    def ignore_aliases(self, data: Any) -> bool:
        return True


# ---- limits, before anything is built --------------------------------------------------------------------------------


@dataclass
class _Open:
    """A mapping or list that is not complete yet.

    Args:
        path: where it is, e.g. `vae.encoder`.
        anchor: the name that aliases use for it.
        mapping: whether every other entry is a key.
        size: values so far, with aliases written out.
        depth: levels below it so far.
        keys: the keys so far.
        key: the key of the next value; None if a key comes next.
        count: entries so far.
    """

    path: str
    anchor: str | None
    mapping: bool
    size: int = 1
    depth: int = 1
    keys: set[str] = field(default_factory=set)
    key: str | None = None
    count: int = 0

    def next_path(self) -> str:
        """The path of the next value; of the mapping itself if a key comes next."""
        if not self.mapping:
            return f"{self.path}[{self.count}]"
        return ".".join(name for name in (self.path, self.key) if name)


class _Check:
    """Goes over the events of a text once, without recursion; each alias counts as its whole copy."""

    def __init__(self) -> None:
        self.open: list[_Open] = []
        self.anchors: dict[str, tuple[int, int]] = {}

    def __call__(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.NodeEvent):
            self._start(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            done = self.open.pop()
            self._add(done.size, done.depth, done.anchor)

    def _start(self, event: yaml.NodeEvent) -> None:
        if getattr(event, "tag", None) not in (None, "!", "tag:yaml.org,2002:str"):
            raise self._error(f"expected plain data, got the tag {event.tag}")  # pyright: ignore
        if isinstance(event, yaml.CollectionStartEvent):
            self._refuse_as_key("a mapping or a list")
            path = self.open[-1].next_path() if self.open else ""
            self.open.append(_Open(path, event.anchor, isinstance(event, yaml.MappingStartEvent)))
            self._refuse_large(0, len(self.open))
        elif isinstance(event, yaml.AliasEvent):
            self._alias(str(event.anchor))
        elif isinstance(event, yaml.ScalarEvent) and not self._is_key(event.value):
            self._add(1, 0, event.anchor)

    def _is_key(self, name: str) -> bool:
        """Records a key of the open mapping, if a key comes next."""
        if not self.open or not self.open[-1].mapping or self.open[-1].key is not None:
            return False
        within = self.open[-1]
        if name in within.keys:
            raise self._error(f"the key {name!r} is given twice")
        within.key = name
        within.keys.add(name)
        return True

    def _refuse_as_key(self, what: str) -> None:
        if self.open and self.open[-1].mapping and self.open[-1].key is None:
            raise self._error(f"expected a name as key, got {what}")

    def _alias(self, anchor: str) -> None:
        self._refuse_as_key(f"the alias *{anchor}")
        if any(entry.anchor == anchor for entry in self.open):
            raise self._error(f"the alias *{anchor} stands for something that it is part of")
        size, depth = self.anchors.get(anchor, (1, 0))  # an unknown alias is refused where it is built
        self._add(size, depth, None)

    def _add(self, size: int, depth: int, anchor: str | None) -> None:
        """A value is complete: add it to the size of the mapping or list around it."""
        if anchor is not None:
            self.anchors[anchor] = size, depth
        self._refuse_large(size, len(self.open) + depth)
        if not self.open:
            return
        within = self.open[-1]
        within.size, within.depth = within.size + size, max(within.depth, depth + 1)
        within.key, within.count = None, within.count + 1

    def _refuse_large(self, size: int, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise self._error(f"expected at most {MAX_DEPTH} levels, got more")
        if sum(entry.size for entry in self.open) + size > MAX_VALUES:
            raise self._error(f"expected at most {MAX_VALUES} values, with aliases written out, got more")

    def _error(self, problem: str) -> YamlError:
        path = self.open[-1].next_path() if self.open else ""
        return YamlError(f"{path}: {problem}" if path else problem)


def _check(events: Iterable[yaml.Event]) -> None:
    check = _Check()
    for event in events:
        check(event)


def _named(value: Any, path: str = "") -> Any:
    """A copy without shared objects, whose keys are all names."""
    if isinstance(value, list):
        return [_named(item, f"{path}[{n}]") for n, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if wrong := [key for key in value if not isinstance(key, str)]:
        raise YamlError(f"{f'{path}: ' if path else ''}expected a name as key, got {wrong[0]!r}")
    return {key: _named(item, f"{path}.{key}" if path else key) for key, item in value.items()}
