"""A part as plain data (import path and keywords), and back: a class is built only where its module is trusted."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import partial
from importlib import import_module
from inspect import Parameter, isabstract, signature
from typing import Any

from torch import nn

from pyro_vae.arguments.values import plain
from pyro_vae.autoencoders import VAE, Autoencoder
from pyro_vae.errors import CheckpointError, PyroVaeError, UsageError
from pyro_vae.runs.old_paths import current

_MANY = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
_PARTS = ("prior", "likelihood", "guide", "encoder", "decoder")


def describe(value: Any) -> Any:
    """A part as plain data: a class, a `functools.partial` of one, or a frozen dataclass value.

    Returns:
        `{"class_path": ..., "init_args": {...}}` for a part; numbers, strings, None and sequences of them as they are.

    Raises:
        UsageError: for what can't be rebuilt by import path and keywords: lambdas, local classes, positional arguments.

    Example:
        >>> from pyro_vae.networks import MLP
        >>> describe(partial(MLP, hidden=(200, 200)))
        {'class_path': 'pyro_vae.networks.MLP', 'init_args': {'hidden': [200, 200]}}
    """
    value = plain(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if isinstance(value, type):
        return {"class_path": _path_of(value)}
    if isinstance(value, partial) and isinstance(value.func, type) and not value.args:
        return {"class_path": _path_of(value.func), "init_args": {k: describe(v) for k, v in value.keywords.items()}}
    if is_dataclass(value):
        init_args = {f.name: describe(getattr(value, f.name)) for f in fields(value)}
        return {"class_path": _path_of(type(value)), "init_args": init_args}
    raise UsageError(
        f"can't save {value!r}: a run directory holds class paths and keywords, so pass a class or "
        "functools.partial(Class, keyword=...) (or train without a run directory)"
    )


def resolve(description: Any, trust: Sequence[str]) -> Any:
    """The inverse of `describe`: classes and partials of them, values for frozen dataclasses, tuples for lists.

    Args:
        description: plain data.
        trust: modules whose classes may be built, with all below them; anything else is refused before import.

    Raises:
        CheckpointError: if a class is outside the trusted modules or can't be found.
    """
    if isinstance(description, list | tuple):
        return tuple(resolve(item, trust) for item in description)
    if not isinstance(description, Mapping):
        return description
    if "class_path" not in description:
        return {key: resolve(value, trust) for key, value in description.items()}
    cls = import_class(description["class_path"], trust)
    init_args = resolve(description.get("init_args") or {}, trust)
    if not isinstance(init_args, dict):
        raise CheckpointError(f"init_args of {description['class_path']} must be a mapping, got {init_args!r}")
    if is_dataclass(cls):
        try:
            return cls(**init_args)
        except TypeError as error:
            raise CheckpointError(f"can't build {description['class_path']} from its description: {error}") from error
    return partial(cls, **init_args) if init_args else cls


def describe_vae(vae: Autoencoder) -> dict[str, Any]:
    """An autoencoder as plain data: a `VAE` by its keywords alone, any other class by class path and keywords.

    Example:
        >>> describe_vae(VAE((8, 8), latent_dim=2))["latent_dim"]
        2
    """
    arguments = {name: describe(value) for name, value in vae.arguments.items()}
    return arguments if type(vae) is VAE else {"class_path": _path_of(type(vae)), "init_args": arguments}


def vae_parts(description: Any) -> tuple[str, dict[str, Any]]:
    """Class path and keywords of a description of an autoencoder in either form.

    Raises:
        CheckpointError: if it is neither.
    """
    if isinstance(description, Mapping) and "class_path" not in description:
        description = {"class_path": "pyro_vae.autoencoders.VAE", "init_args": description}
    if not isinstance(description, Mapping) or not isinstance(description.get("init_args") or {}, Mapping):
        raise CheckpointError(f"can't build the VAE from its description: expected a mapping, got {description!r}")
    if unknown := set(description) - {"class_path", "init_args"}:
        raise CheckpointError(
            f"can't build the VAE from its description: {sorted(map(str, unknown))} next to class_path"
        )
    return description["class_path"], dict(description.get("init_args") or {})


def build_vae(description: Mapping[str, Any], trust: Sequence[str] = ()) -> Any:
    """A VAE with fresh weights from its description: sizes, and a class path with keywords for each part.

    Args:
        description: the keywords of a `VAE`; or `class_path` and `init_args` of any `Autoencoder`.
        trust: further modules whose classes may be imported and built.

    Returns:
        The `Autoencoder`.

    Raises:
        CheckpointError: if there is no such class, or it can't be built so.
    """
    path, keywords = vae_parts(description)
    cls, arguments = import_class(path, ("pyro_vae", *trust)), resolve(keywords, ("pyro_vae", *trust))
    if not issubclass(cls, Autoencoder) or isabstract(cls):
        raise CheckpointError(f"vae: {path!r} is no autoencoder: expected a class like VAE, derived from Autoencoder")
    for name, value in arguments.items():
        factory = getattr(value, "func", value)
        is_part = isinstance(factory, type) or (name in _PARTS and value is not None)
        if is_part and not (isinstance(factory, type) and issubclass(factory, nn.Module)):
            raise CheckpointError(f"vae.{name} must be a module class, got {factory!r}")
    needed = [name for name, p in signature(cls).parameters.items() if p.default is p.empty and p.kind not in _MANY]
    if missing := [name for name in needed if name not in arguments]:
        raise CheckpointError(f"can't build the VAE from its description: it lacks {', '.join(missing)}")
    try:
        return cls(**arguments)
    except PyroVaeError:
        raise
    except Exception as error:  # a part used as another kind of part can fail in any way
        raise CheckpointError(f"can't build the VAE from its description: {type(error).__name__}: {error}") from error


def with_defaults(description: Any) -> Any:
    """A description in which options of the package's classes that are missing have their defaults.

    So that descriptions of two versions can be compared: a version without an option did what its default does.

    Args:
        description: plain data; a mapping under the key `vae` may be the keywords of a `VAE`.
    """
    if isinstance(description, list | tuple):
        return [with_defaults(item) for item in description]
    if not isinstance(description, Mapping):
        return description
    completed = {key: with_defaults(value) for key, value in description.items()}
    if isinstance(vae := completed.get("vae"), dict) and "class_path" not in vae:
        completed["vae"] = with_defaults({"class_path": "pyro_vae.autoencoders.VAE", "init_args": vae})["init_args"]
    if isinstance(path := completed.get("class_path"), str) and path.startswith("pyro_vae."):
        completed["class_path"] = current(path)
        defaults = _defaults(import_class(completed["class_path"], ("pyro_vae",)))
        completed["init_args"] = {**defaults, **(completed.get("init_args") or {})}
    return completed


def _defaults(cls: type) -> dict[str, Any]:
    """The defaults of a class's options, as plain data."""
    try:
        parameters = signature(cls).parameters
    except ValueError:  # not a class of the package, but one that a module of the package imports
        return {}
    found = {}
    for name, parameter in parameters.items():
        if parameter.default is not Parameter.empty:
            with suppress(UsageError):  # not plain data, so it can't have been saved
                found[name] = describe(parameter.default)
    return found


def import_class(path: Any, trust: Sequence[str]) -> type:
    """The class at an import path, if its module is one of `trust` or below; nothing is imported otherwise."""
    path = current(str(path))
    module, _, name = path.rpartition(".")
    if not any(module == trusted or module.startswith(trusted + ".") for trusted in trust):
        raise CheckpointError(
            f"refused to import {path!r}: only classes of {', '.join(trust)} are built unless you name the module: "
            f"load(..., trust=[{module.split('.')[0]!r}]), or --trust {module.split('.')[0]} on the command line"
        )
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(f"can't find {path!r}: {error}; is its folder on the Python path?") from error
    except Exception as error:  # a user's module can fail in any way
        raise CheckpointError(f"can't import {path!r}: {type(error).__name__}: {error}") from error
    if not isinstance(found, type):
        raise CheckpointError(f"{path!r} is not a class")
    return found


def _path_of(cls: type) -> str:
    if "." in cls.__qualname__ or cls.__module__ == "__main__":
        raise UsageError(
            f"can't save {cls.__qualname__}: define it in a module that can be imported (a file next to the notebook), "
            "outside of functions and classes"
        )
    module = cls.__module__
    if module.startswith(("torch.optim.", "pyro_vae.")):  # by the public name, for every file of the package
        module = ".".join(module.split(".")[:2])
    return f"{module}.{cls.__qualname__}"
