"""What a user gave for an option that names a class, on the command line and in YAML; later values win.

    --objective Renyi --objective.alpha 0.3        objective: {class_path: Renyi, init_args: {alpha: 0.3}}

give the same `Given`. No class is looked up here, so nothing heavy is imported before names are checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyro_vae.errors import UsageError
from pyro_vae.runs.safe_yaml import MAX_DEPTH, YamlError, load_yaml

_SPEC = {"class_path", "init_args"}
NOTHING: Any = type("_Nothing", (), {"__repr__": lambda _: "NOTHING"})()


@dataclass
class Given:
    """A value for an option, and values for the options below it.

    Args:
        value: a class's name or import path, or a plain value; `NOTHING` if only options are given, which then are
            those of the default class.
        options: what was given for each option of the class, by name.
    """

    value: Any = NOTHING
    options: dict[str, Given] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.value is not NOTHING or bool(self.options)

    def assign(self, path: Sequence[str], value: Any, key: str) -> None:
        """Set the option at a path below this one; a later value replaces an earlier one.

        Naming another class than before removes the options given so far; naming the same one keeps them.

        Args:
            path: names of options, from the outer to the inner one; `init_args` between them may be left out.
            value: a word of the command line or plain data; a mapping gives several options at once.
            key: the full name of the option, for messages.

        Raises:
            UsageError: if the value does not describe a class.
        """
        names = [name for name in path if name != "init_args"]
        if len(names) > MAX_DEPTH:
            raise UsageError(f"{key}: expected at most {MAX_DEPTH} names one below the other, got {len(names)}")
        if names and names[0] != "class_path":
            self.options.setdefault(names[0], Given()).assign(names[1:], value, f"{key}.{names[0]}")
        elif isinstance(value := _mapping(value), Mapping):
            self._describe(value, key)
        else:
            self._set(value)

    def _set(self, value: Any) -> None:
        if self.value is not NOTHING and _short(self.value) != _short(value):
            self.options = {}
        self.value = value

    def _describe(self, given: Mapping[str, Any], key: str) -> None:
        """Set from a mapping: `class_path` and `init_args`, or options by name."""
        options = given
        if _SPEC & set(given):
            if other := set(given) - _SPEC:
                raise UsageError(f"{key}: expected class_path and init_args alone, got {', '.join(sorted(other))} too")
            if not isinstance(given.get("class_path", ""), str):
                raise UsageError(f"{key}.class_path: expected the name of a class, got {given['class_path']!r}")
            options = given.get("init_args") or {}
            if not isinstance(options, Mapping):
                raise UsageError(f"{key}.init_args: expected options by name, got {options!r}")
            if "class_path" in given:
                self._set(given["class_path"])
        for name, value in options.items():
            self.assign(name.split("."), value, key)

    def over(self, default: Given) -> Given:
        """Merge with a default. If a class is named here, even the default's own, nothing of the default is used."""
        if self.value is not NOTHING:
            return self
        names = dict.fromkeys([*default.options, *self.options])
        none = Given()
        return Given(default.value, {n: self.options.get(n, none).over(default.options.get(n, none)) for n in names})

    def plain(self) -> Any:
        """As plain data, for an option whose value is a mapping."""
        options = {name: given.plain() for name, given in self.options.items()}
        if self.value is NOTHING:
            return options
        return {"class_path": self.value, "init_args": options} if options else self.value


def given_of(description: Any, key: str = "") -> Given:
    """The `Given` that plain data describe."""
    found = Given()
    found.assign([], description, key)
    return found


def _mapping(value: Any) -> Any:
    """The mapping that a word of the command line spells in YAML or JSON; any other value unchanged."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            return load_yaml(value)
        except YamlError:
            return value
    return value


def _short(name: Any) -> Any:
    return name.rpartition(".")[2] if isinstance(name, str) else name
