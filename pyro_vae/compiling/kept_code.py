"""Compiled code kept on disk, by the name of the operations that it was compiled from (`listening.py`).

A later process loads it without importing torch's compiler, which takes most of the time of a first compiled step
(docs/performance.md). The folder is in that of torch's compiler, and as safe to delete.
"""

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyro_vae.process import torch_internals
from pyro_vae.process.torch_cache import cache_folder

_CODE, _ABOUT, _WHY = "code.so", "constants.json", "not-kept.txt"


_VARIABLES = ("CXX", "AOT_INDUCTOR_COMPILE_WRAPPER_OPT_LEVEL", "AOT_INDUCTOR_ENABLE_LINE_TABLES")
"""Of the environment: by these torch chooses the C++ compiler and its options."""


_MOST = 200
"""Codes that are kept, each about 2 MB; the one that was not used for longest is deleted."""


class NotKept(ValueError):  # noqa: N818 - not an error: the code is compiled, and not kept
    """Code that another process could not run; the message gives the reason."""


@dataclass(frozen=True)
class Place:
    """Where the code of some operations is kept, or would be.

    Args:
        key: the name of the operations and of all else that the code depends on.
        constants: what the operations take beside their inputs, in order of appearance; given to the code as inputs.
    """

    key: str
    constants: Sequence[Tensor]

    @property
    def folder(self) -> Path:
        """A folder of the name `key`."""
        return cache_folder() / "pyro_vae" / self.key

    def find(self) -> Callable[..., Sequence[Tensor]] | None:
        """The code as a function of the inputs; None if there is none, or it can't be read."""
        try:
            if not _is_ours(self.folder):
                return None
            taken = json.loads((self.folder / _ABOUT).read_text())
            found = _bound(self.folder / _CODE, [self.constants[number] for number in taken])
            os.utime(self.folder)
            return found
        except (OSError, ValueError, TypeError, IndexError, RuntimeError):  # deleted meanwhile, or damaged
            return None

    def compile(
        self, graph: GraphModule, example: Sequence[Tensor], options: Mapping[str, Any]
    ) -> Callable[..., Sequence[Tensor]]:
        """Compile a graph of these operations, and keep the code.

        Args:
            graph: the operations; changed in place.
            example: inputs.
            options: of inductor.

        Raises:
            Exception: whatever torch raises where it can't.
            NotKept: if the graph takes constants that are not among those of the operations, or an operation needs
                Python, which the code can't call. That is noted in the folder, so that it is found out once.
        """
        if (reason := self._refused()) is not None:
            raise NotKept(reason)
        values = _constants_as_inputs(graph)
        taken = _numbers(values, self.constants)
        try:
            with _new_folder(self.folder) as folder:
                torch_internals.compile_library(graph, [*example, *values], options, folder / _CODE)
                if torch_internals.calls_python(folder / _CODE):
                    raise NotKept("an operation has no code of its own, such as a triangular solve")
                run = _bound(folder / _CODE, values)
                run(*example)
                (folder / _ABOUT).write_text(json.dumps(taken))
        except NotKept as error:
            with _new_folder(self.folder) as folder:
                (folder / _WHY).write_text(str(error))
            raise
        return run

    def _refused(self) -> str | None:
        """Why an earlier attempt could not keep the code; None if there was none."""
        try:
            reason = (self.folder / _WHY).read_text() if _is_ours(self.folder) else None
            os.utime(self.folder)
            return reason
        except OSError:
            return None


def depends_on(options: Mapping[str, Any]) -> tuple[object, ...]:
    """What code depends on beside the operations: torch, the CPU, the compiler, its options, and these files."""
    torchs = torch.__version__, torch.version.git_version
    variables = [os.environ.get(name) for name in _VARIABLES]
    return (*torchs, *variables, _cpu(), _sources(), sorted(options.items()))


def _bound(file: Path, constants: Sequence[Tensor]) -> Callable[..., Sequence[Tensor]]:
    """A file of code as a function of the inputs."""
    run, rest = torch_internals.load_library(file), list(constants)
    return lambda *inputs: run([*inputs, *rest])


def _constants_as_inputs(graph: GraphModule) -> list[Tensor]:
    """Make inputs, the last ones, of the tensors that a graph holds; returns them."""
    nodes = graph.graph
    last = [node for node in nodes.nodes if node.op == "placeholder"][-1]
    made: dict[int, Any] = {}
    values: list[Tensor] = []
    for node in [node for node in nodes.nodes if node.op == "get_attr"]:
        value = getattr(graph, str(node.target))
        if id(value) not in made:
            with nodes.inserting_after(last):
                last = made[id(value)] = nodes.placeholder(f"constant_{len(values)}")
            last.meta = dict(node.meta)
            values.append(value)
        node.replace_all_uses_with(made[id(value)])
        nodes.erase_node(node)
    graph.recompile()
    return values


def _numbers(values: Sequence[Tensor], constants: Sequence[Tensor]) -> list[int]:
    """Which of the constants a graph takes: the same tensors; those that each run makes anew by their order."""
    known = {id(constant): number for number, constant in enumerate(constants)}
    anew = [number for number, constant in enumerate(constants) if all(constant is not value for value in values)]
    unknown = [value for value in values if id(value) not in known]
    if len(anew) != len(unknown) or not all(_same(value, constants[i]) for value, i in zip(unknown, anew, strict=True)):
        raise NotKept("the graph takes other constants than the operations")
    known |= {id(value): number for value, number in zip(unknown, anew, strict=True)}
    return [known[id(value)] for value in values]


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)


@contextmanager
def _new_folder(final: Path) -> Iterator[Path]:
    """A folder that gets its name when the block ends well, so that nobody finds a half-written one."""
    final.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="new-", dir=final.parent))
    try:
        yield folder
        shutil.rmtree(final, ignore_errors=True)  # damaged, or made by another process meanwhile: either will do
        folder.replace(final)
        _tidy(final.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _tidy(parent: Path) -> None:
    """Delete what was not used for longest."""
    kept = sorted((folder for folder in parent.iterdir() if folder.is_dir()), key=lambda folder: folder.stat().st_mtime)
    for folder in kept[:-_MOST]:
        shutil.rmtree(folder, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    """Whether this user made it: what is loaded from it is run."""
    return not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()


@cache
def _cpu() -> str:
    """The CPU and its instructions: code is compiled for this one."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        found = [line for line in lines if line.startswith(("flags", "Features"))][:1]
    except OSError:
        found = []
    return " ".join([platform.machine(), platform.processor(), torch.backends.cpu.get_cpu_capability(), *found])


@cache
def _sources() -> str:
    """Of what makes the code from the operations."""
    files = [*Path(__file__).parent.glob("*.py"), Path(torch_internals.__file__)]
    return sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()
