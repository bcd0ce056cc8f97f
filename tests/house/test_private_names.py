"""The private names of dependencies: each with the files that may use it, and each there in what is installed.

A private name of a dependency begins with an underscore and is defined nowhere in the package. torch and Pyro have a
seam each, `process/torch_internals.py` and `process/pyro_internals.py`; `pyproject.toml` bounds the versions.
"""

import ast
import importlib
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

import pyro_vae

PACKAGE = Path(pyro_vae.__file__).parent
TORCH, PYRO = "process/torch_internals.py", "process/pyro_internals.py"
DISTRIBUTION = "torch.distributions.Distribution"
CHECKED = {
    "distributions/aggregate.py",
    "distributions/elements.py",
    "distributions/from_noise.py",
    "distributions/mixture.py",
    "likelihoods/unit.py",
}

USED = {
    # torch's compiler and dispatch
    "torch._decomp": {TORCH},
    "torch._inductor": {TORCH},
    "torch._inductor.config": {TORCH},
    "torch._guards": {TORCH},
    "torch._subclasses": {TORCH},
    "torch.utils._python_dispatch": {TORCH},
    "torch.utils._python_dispatch._disable_current_modes": {TORCH},
    "torch.Tensor._version": {TORCH},
    "torch._C": {TORCH},
    "torch._C._aoti": {TORCH},
    "torch._fused_adam_": {TORCH},
    "torch._fused_adamw_": {TORCH},
    "torch.ops.aten.add.Tensor._schema": {TORCH},
    "torch.distributed.distributed_c10d._abort_process_group": {TORCH},
    # what torch's distributions offer to their subclasses
    f"{DISTRIBUTION}._validate_args": {*CHECKED, "distributions/zuko_flows.py", "process/switches.py"},
    f"{DISTRIBUTION}._validate_sample": CHECKED,
    f"{DISTRIBUTION}._extended_shape": {
        "distributions/aggregate.py",
        "distributions/elements.py",
        "distributions/mixture.py",
        "guides/normal.py",
        "likelihoods/real.py",
    },
    "torch.distributions.MultivariateNormal(torch.zeros(1), torch.eye(1))._batch_shape": {
        "distributions/elements.py",
        "distributions/from_noise.py",
    },
    "torch.distributions.MultivariateNormal(torch.zeros(1), torch.eye(1))._unbroadcasted_scale_tril": {
        "guides/normal.py"
    },
    # Pyro
    "pyro.poutine.runtime._PYRO_STACK": {PYRO},
    "pyro.poutine.runtime._DIM_ALLOCATOR": {PYRO},
    "pyro.poutine.runtime._DIM_ALLOCATOR._stack": {PYRO},
    "pyro.infer.Trace_ELBO._vectorized_num_particles": {PYRO},
    "pyro.poutine.enum_messenger:_enumerate_dim": {PYRO},
    "pyro.primitives:_deterministic": {PYRO},
    # tqdm
    "tqdm.std:_lock": {"messages.py"},
    # argparse and jsonargparse
    "argparse.ArgumentParser()._actions": {"cli/completing.py", "cli/library.py", "cli/mistakes.py", "cli/parsing.py"},
    "argparse._StoreTrueAction": {"cli/parsing.py"},
    "argparse.HelpFormatter('')._prog": {"cli/helping.py"},
    "jsonargparse._typehints:_typehint": {
        "cli/completing.py",
        "cli/helping.py",
        "cli/library.py",
        "cli/mistakes.py",
        "cli/parsing.py",
    },
    "os._exit": {"cli/__init__.py"},  # a documented function
}
"""By its path, or `module:name` for a name that only the module's source holds: the files that may use it."""


def last(path):
    """The private part of a path."""
    return re.split(r"[.:]", path)[-1]


def is_private(name):
    return re.fullmatch(r"_[A-Za-z]\w*", name) is not None


NAMES = {last(path) for path in USED}


@cache
def all_nodes():
    """The syntax of the package: (file, node)."""
    files = {str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
    return [(file, node) for file, tree in files.items() for node in ast.walk(tree)]


def defined():
    """The private names that the package defines: functions, classes, variables, attributes of `self` and `cls`."""
    for _, node in all_nodes():
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif is_own_store(node):
            yield node.attr
        elif is_call(node, "register_buffer", "register_parameter"):
            yield from (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))


def is_own_store(node):
    """Whether it is `self.name = ...`."""
    is_store = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    return is_store and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def is_call(node, *names):
    return isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", None)) in names


def mentioned(node):
    """The names, private or not, by which a node may reach into a dependency."""
    if isinstance(node, ast.Attribute):
        return [node.attr]
    if isinstance(node, ast.ImportFrom) and not node.module.startswith("pyro_vae"):
        return [*node.module.split("."), *(alias.name for alias in node.names)]
    if isinstance(node, ast.Import):
        return [part for alias in node.names for part in alias.name.split(".")]
    if is_call(node, "getattr", "hasattr", "setattr", "delattr"):
        return [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    if isinstance(node, ast.Constant) and node.value in NAMES:
        return [node.value]
    return []


def uses():
    """The files by private name of a dependency."""
    own, found = set(defined()) - NAMES, {}
    stored = {(file, node.attr) for file, node in all_nodes() if is_own_store(node)}
    for file, node in all_nodes():
        for name in mentioned(node):
            if is_private(name) and name not in own and (file, name) not in stored:
                found.setdefault(name, set()).add(file)
    return found


def test_each_private_name_has_its_files():
    """A new one fails: use what is public, or put it into the seam and on the list."""
    allowed = {}
    for path, files in USED.items():
        if is_private(last(path)):
            allowed.setdefault(last(path), set()).update(files)
    found = uses()
    assert found == allowed


@pytest.mark.parametrize("path", USED)
def test_each_is_there(path):
    module, _, name = path.partition(":")
    try:
        found = importlib.import_module(module)
    except ImportError:  # a name in a module
        root = path.split(".")[0]
        found = eval(path, {root: importlib.import_module(root)})
    assert not name or name in Path(found.__file__).read_text()


def test_the_versions_are_bounded():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    bounded = {re.match(r"[\w-]+", d).group() for d in project["dependencies"] if "<" in d}
    assert {"torch", "pyro-ppl", "zuko", "jsonargparse", "tqdm"} <= bounded
