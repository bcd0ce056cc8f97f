"""Reads classes, their options and constants from source files, since importing them, and torch, takes seconds.

It reads what is needed to check a command line: names and annotations. It has the interface `library.Library`, as the
imported package has, and a test compares the two.
"""

import ast
import builtins
import collections.abc
import re
import typing
from abc import ABCMeta, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pyro_vae.cli.given import NOTHING
from pyro_vae.cli.library import Axis, Option, axis_of, is_named
from pyro_vae.runs.old_paths import current

_READ = ("pyro_vae", "torch.optim")
"""Packages whose files are read; a name imported from any other package is an empty stand-in class."""


class ElsewhereError(Exception):
    """A class that is neither in this package nor in torch.optim; it is checked when it is imported."""


def constant(module: str, name: str) -> Any:
    """The value of a module's constant: plain data, an annotation, or for a dictionary the tuple of its keys."""
    found = _Module.of(module)
    value = found.assigned[name]
    if isinstance(value, ast.Dict):
        return tuple(ast.literal_eval(key) for key in value.keys if key is not None)
    try:
        return ast.literal_eval(value)
    except ValueError:
        return found.evaluated(value)


def options_of(path: str) -> dict[str, Option]:
    """The options of the class at an import path, with their descriptions from its docstring."""
    module, _, name = path.rpartition(".")
    return _options(_Class(_Module.of(module).home_of(name) or module, name))


class Sources:
    """The `Library` of the source files of this package and of torch.optim; each class is represented by a stand-in."""

    def base(self, path: str) -> type:
        """The stand-in for the class at an import path."""
        module, _, name = path.rpartition(".")
        return _stand_in(_Module.of(module).home_of(name) or module, name)

    def below(self, base: type) -> dict[str, type]:
        """As in `Library`."""
        return _concrete_below(base.__name__)

    def at(self, path: str, axis: Axis, key: str) -> type:
        """The class at an import path, if it can also be named without the path.

        Raises:
            ElsewhereError: if it is not.
        """
        found = {name: cls for base in axis.bases for name, cls in self.below(base).items()}
        module, _, name = current(path).rpartition(".")
        if name not in found or not f"{found[name].__module__}.".startswith(f"{module}."):
            raise ElsewhereError(path)
        return found[name]

    def options(self, cls: type, built_with: int) -> dict[str, Option]:
        """As in `Library`."""
        options = _options(_Class(cls.__module__, cls.__name__))
        return dict(list(options.items())[built_with:])

    def path(self, cls: type) -> str:
        """The import path of the file that defines it."""
        return f"{cls.__module__}.{cls.__name__}"


# ---- files -----------------------------------------------------------------------------------------------------------


@cache
def _root(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None and spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))


@dataclass(frozen=True)
class _Module:
    """A source file, parsed on first use."""

    name: str
    path: Path

    @staticmethod
    @cache
    def of(name: str) -> "_Module":
        package, _, below = name.partition(".")
        path = _root(package).joinpath(*below.split(".")) if below else _root(package)
        return _Module(name, path / "__init__.py" if path.is_dir() else path.with_suffix(".py"))

    @cached_property
    def body(self) -> list[ast.stmt]:
        return ast.parse(self.path.read_text(encoding="utf-8")).body

    @cached_property
    def assigned(self) -> dict[str, ast.expr]:
        """Constants by name."""
        plain = {
            t.id: s.value for s in self.body if isinstance(s, ast.Assign) for t in s.targets if isinstance(t, ast.Name)
        }
        annotated = (s for s in self.body if isinstance(s, ast.AnnAssign) and s.value is not None)
        return plain | {s.target.id: s.value for s in annotated if isinstance(s.target, ast.Name)}  # pyright: ignore

    @cached_property
    def imported(self) -> dict[str, str]:
        """The module that each name is imported from."""
        found = [s for s in self.body if isinstance(s, ast.ImportFrom) and s.module]
        return {a.asname or a.name: self._absolute(s) for s in found for a in s.names}

    def _absolute(self, statement: ast.ImportFrom) -> str:
        if not statement.level:
            return statement.module or ""
        parts = self.name.split(".")
        own = parts if self.path.name == "__init__.py" else parts[:-1]
        return ".".join([*own[: len(own) - statement.level + 1], statement.module or ""])

    @cached_property
    def classes(self) -> dict[str, ast.ClassDef]:
        return {s.name: s for s in self.body if isinstance(s, ast.ClassDef)}

    def home_of(self, name: str) -> str | None:
        """The module that defines a class which this module defines or imports; None if it is not found."""
        if name in self.classes:
            return self.name
        module = self.imported.get(name, "")
        return _Module.of(module).home_of(name) if module.startswith(_READ) else None

    def evaluated(self, annotation: ast.expr) -> Any:
        """The value of an annotation, with stand-ins for classes; `Any` if it contains an unknown name."""
        try:
            code = compile(ast.Expression(annotation), self.name, "eval")
            return eval(code, {"__builtins__": {}}, _Names(self))  # annotations of this package or of torch
        except (NameError, TypeError, AttributeError, SyntaxError, OSError):
            return Any


class _Names(dict[str, Any]):
    """The meanings of names in a module's annotations."""

    def __init__(self, module: _Module) -> None:
        super().__init__()
        self.module = module

    def __missing__(self, name: str) -> Any:
        if name in self.module.assigned:
            return self.module.evaluated(self.module.assigned[name])
        for known in (collections.abc, typing, builtins):
            if hasattr(known, name):
                return getattr(known, name)
        if (home := self.module.home_of(name)) is not None:
            return _stand_in(home, name)
        source = self.module.imported.get(name, "")
        if source.startswith("pyro_vae") and name in _Module.of(source).assigned:
            return _Module.of(source).evaluated(_Module.of(source).assigned[name])
        if name in self.module.imported:
            return type(name, (), {"__module__": source})
        raise NameError(name)


# ---- classes ---------------------------------------------------------------------------------------------------------


@cache
def _written() -> list["_Class"]:
    """All classes of the package and of torch.optim, found by their `class` lines."""
    files = [("pyro_vae", path) for path in sorted(_root("pyro_vae").rglob("*.py")) if _is_library(path)]
    files += [("torch", path) for path in sorted(_root("torch").joinpath("optim").glob("*.py"))]
    found = []
    for package, path in files:
        parts = path.relative_to(_root(package)).with_suffix("").parts
        module = ".".join([package, *(part for part in parts if part != "__init__")])
        lines = re.findall(r"^class (\w+)(?:\(([^)]*)\))?:", path.read_text(encoding="utf-8"), re.MULTILINE)
        found += [_Class(module, name, tuple(re.findall(r"[\w.]+", bases))) for name, bases in lines]
    return found


def _is_library(path: Path) -> bool:
    return path.relative_to(_root("pyro_vae")).parts[0] not in (
        "cli",
        "testing",
        "plots",
        "evidence",
        "diagnostics",
        "report",
        "runs",
        "tasks",
    )


@dataclass(frozen=True)
class _Class:
    """A class in a source file."""

    module: str
    name: str
    bases: tuple[str, ...] = ()

    @property
    def node(self) -> ast.ClassDef:
        return _Module.of(self.module).classes[self.name]

    @property
    def stand_in(self) -> type:
        return _stand_in(self.module, self.name)

    @property
    def parents(self) -> list["_Class"]:
        """Its base classes, as far as their files are read."""
        names = [ast.unparse(base).rpartition(".")[2] for base in self.node.bases]
        homes = [(_Module.of(self.module).home_of(name), name) for name in names]
        return [_Class(home, name) for home, name in homes if home is not None]

    @property
    def abstract(self) -> set[str]:
        """Names of its abstract methods."""
        own = {s.name: s for s in self.node.body if isinstance(s, ast.FunctionDef)}
        written = own.keys() | {
            t.id for s in self.node.body if isinstance(s, ast.Assign) for t in s.targets if isinstance(t, ast.Name)
        }
        written |= {
            s.target.id for s in self.node.body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)
        }
        missing = {name for name, s in own.items() if any("abstractmethod" in ast.unparse(d) for d in s.decorator_list)}
        inherited = set[str]().union(*(parent.abstract for parent in self.parents))
        return (inherited - written) | missing

    @property
    def is_abstract(self) -> bool:
        return bool(self.abstract)


def _below(base: str) -> Iterator[_Class]:
    for cls in _written():
        if base in {name.rpartition(".")[2] for name in cls.bases}:
            yield cls
            yield from _below(cls.name)


@cache
def _concrete_below(base: str) -> dict[str, type]:
    found = {cls.name: cls for cls in _below(base)}
    return {n: c.stand_in for n, c in sorted(found.items()) if is_named(c.module, n) and not c.is_abstract}


@cache
def _stand_in(module: str, name: str) -> type:
    """An empty class of the same name, abstract if the original is."""
    abstract = name in _Module.of(module).classes and _Class(module, name).is_abstract
    methods = {"_": abstractmethod(lambda self: None)} if abstract else {}
    return ABCMeta(name, (), {"__module__": module, **methods})


# ---- options ---------------------------------------------------------------------------------------------------------


@cache
def _options(cls: _Class) -> dict[str, Option]:
    """The options of a class's constructor, in order."""
    own = next((s for s in cls.node.body if isinstance(s, ast.FunctionDef) and s.name == "__init__"), None)
    if own is not None:
        return dict(_arguments(own.args, _Module.of(cls.module), _documented(cls.node)))
    inherited = [_options(parent) for parent in cls.parents]
    if not any("dataclass" in ast.unparse(decorator) for decorator in cls.node.decorator_list):
        return next((options for options in inherited if options), {})
    merged: dict[str, Option] = {}
    for options in reversed(inherited):
        merged |= options
    return merged | dict(_fields(cls))


def _arguments(
    arguments: ast.arguments, module: _Module, documented: Mapping[str, str]
) -> Iterable[tuple[str, Option]]:
    positional = [*arguments.posonlyargs, *arguments.args][1:]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    pairs = [*zip(positional, defaults, strict=False), *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    return [(a.arg, _option(a.annotation, default, module, documented.get(a.arg, ""))) for a, default in pairs]


def _fields(cls: _Class) -> Iterable[tuple[str, Option]]:
    module, documented = _Module.of(cls.module), _documented(cls.node)
    for statement in cls.node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name = statement.target.id
            if "ClassVar" not in ast.unparse(statement.annotation):
                yield name, _option(statement.annotation, statement.value, module, documented.get(name, ""))


def _documented(node: ast.ClassDef) -> dict[str, str]:
    """The descriptions of the arguments in a Google-style docstring, each on one line."""
    section = re.search(r"\n *Args:\n(.*?)(?=\n\s*\n|\Z)", ast.get_docstring(node) or "", re.DOTALL)
    entries = re.findall(
        r"^ {4}(\w+): (.*?)(?=^ {4}\S|\Z)", f"{section[1]}\n" if section else "", re.DOTALL | re.MULTILINE
    )
    return {name: " ".join(text.split()) for name, text in entries}


def _option(annotation: ast.expr | None, default: ast.expr | None, module: _Module, documented: str) -> Option:
    kind = Any if annotation is None else module.evaluated(annotation)
    axis = axis_of(kind)
    return Option(
        kind, NOTHING if default is None else _default(default, axis, module), default is None, documented, axis
    )


def _default(node: ast.expr, axis: Axis | None, module: _Module) -> Any:
    """A default as plain data; a class, or an object, becomes the description of its class."""
    if axis is not None and isinstance(node, ast.Name):
        return {"class_path": node.id}
    if axis is not None and isinstance(node, ast.Call):
        return {"class_path": ast.unparse(node.func).rpartition(".")[2]}
    if isinstance(node, ast.Name) and node.id in module.assigned:
        return _default(module.assigned[node.id], axis, module)
    if isinstance(node, ast.Tuple):
        return tuple(_default(item, axis, module) for item in node.elts)
    try:
        return ast.literal_eval(node)
    except ValueError:
        return NOTHING
