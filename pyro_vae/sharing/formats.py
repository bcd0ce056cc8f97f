"""A part as a file of ONNX or of torch.export, and such a file run again."""

import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.errors import PyroVaeError, UsageError
from pyro_vae.process.switches import checking
from pyro_vae.process.torch_internals import traced_for_any_batch
from pyro_vae.sharing.extras import extra
from pyro_vae.sharing.parts import Named, Outputs, Part

ABOUT = "pyro_vae"
"""The key of what a file says of itself, as JSON: of ONNX's metadata, and of torch's extra files with the ending."""
_LARGEST = 2**31 - 1
"""Bytes of an ONNX file: a limit of its format, without files beside it."""
_NOISY = ("torch.onnx", "torch.export", "torch._dynamo", "onnxscript", "onnx_ir")


Run = Callable[[Mapping[str, Tensor]], Outputs]


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Args:
        ending: of the file's name.
        check: refuses where a package is absent.
        write: the bytes of a part, with what the file says of itself.
        open: what a file's bytes compute: outputs of inputs, both by name.
    """

    ending: str
    check: Callable[[], None]
    write: Callable[[Part, Mapping[str, Any]], bytes]
    open: Callable[[bytes], Run]


class NotExportable(Exception):  # noqa: N818 - not an error: the caller says which part it is
    """A part with operations that the exporter can't write; the message gives its reason."""


def _program(part: Part, decomposed: bool) -> Any:
    """The part as a graph of tensor operations, with any number of data.

    Args:
        part: the part.
        decomposed: whether the derivatives in it are written by simpler operations.
    """
    inputs = part.example()
    with _exporting():
        try:
            program = _exported(_Recorded(part, inputs, decomposed) if part.differentiates else part, inputs)
        except Exception:  # gradients inside of another kind: exporters take them only if they were recorded before
            if part.differentiates:
                raise
            program = _exported(_Recorded(part, inputs, decomposed), inputs)
        _leave_out_other_parts(program)
    for node in program.graph.nodes:  # names of files and lines of the machine that it was made on
        node.meta.pop("stack_trace", None)
    return program


def _exported(module: nn.Module, inputs: Mapping[str, Tensor]) -> Any:
    batch = torch.export.Dim("batch", min=1)
    sizes = {name: {0: batch} for name in inputs}
    return torch.export.export(module, (), kwargs=dict(inputs), dynamic_shapes=sizes, strict=False)


class _Recorded(Named):
    """A part as the operations that it made once, the derivatives of those among them."""

    def __init__(self, part: Part, inputs: Mapping[str, Tensor], decomposed: bool) -> None:
        super().__init__()
        self.names = tuple(inputs)
        rows = next(n for n in count(3) if all(n not in value.shape[1:] for value in inputs.values()))  # of its own
        some = [value[torch.arange(rows) % len(value)] for value in inputs.values()]
        recorded = traced_for_any_batch(self._by_place(part), *some, decomposed=decomposed)
        recorded.graph.eliminate_dead_code()
        recorded.recompile()
        self.recorded = recorded

    def _by_place(self, part: Part) -> Callable[..., Outputs]:
        return lambda *values: part(**dict(zip(self.names, values, strict=True)))

    def compute(self, inputs: Mapping[str, Tensor]) -> Outputs:
        return self.recorded(*(inputs[name] for name in self.names))


def _leave_out_other_parts(program: Any) -> None:
    """Remove the weights that the graph does not use: those of the autoencoder's other parts."""
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    specs = program.graph_signature.input_specs
    for node, spec in zip(placeholders, list(specs), strict=True):
        if spec.target is None or node.users:
            continue
        program.graph.erase_node(node)
        specs.remove(spec)
        program.state_dict.pop(spec.target, None)
        program.constants.pop(spec.target, None)


@contextmanager
def _exporting() -> Iterator[None]:
    """Run an exporter without its messages; whatever it raises becomes `NotExportable`."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), checking(False), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    except (PyroVaeError, MemoryError):
        raise
    except Exception as error:  # exporters raise anything
        raise NotExportable(_first_line(error)) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    """The first line of what went wrong first, without the colours of a terminal."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


# ---- torch.export ----------------------------------------------------------------------------------------------------


def _write_torch(part: Part, about: Mapping[str, Any]) -> bytes:
    program, file = _program(part, decomposed=False), io.BytesIO()
    with _exporting():
        torch.export.save(program, file, extra_files={f"{ABOUT}.json": json.dumps(about, indent=1)})
    return file.getvalue()


def _open_torch(data: bytes) -> Run:
    with _exporting():
        module = torch.export.load(io.BytesIO(data)).module()
    return lambda inputs: module(**inputs)


# ---- ONNX ------------------------------------------------------------------------------------------------------------


def _check_onnx() -> None:
    extra("onnx", "onnx", "onnxscript", "onnxruntime", what="export to ONNX")


def _write_onnx(part: Part, about: Mapping[str, Any]) -> bytes:
    program = _program(part, decomposed=True)
    with torch.no_grad(), checking(False):
        names = list(part(**part.example()))
    with _exporting():
        made: Any = torch.onnx.export(
            program, input_names=list(part.example()), output_names=names, dynamo=True, verbose=False
        )
        model = made.model_proto
    _forget_the_machine(model.graph)
    for function in model.functions:
        _forget_the_machine(function)
    model.metadata_props.add(key=ABOUT, value=json.dumps(about))
    if model.ByteSize() > _LARGEST:
        raise UsageError(
            f"the {part.network} has more than 2 GB of weights, which one ONNX file can't hold: take torch"
        )
    return model.SerializeToString()


def _forget_the_machine(graph: Any) -> None:
    """Leave out the names of files and lines that the exporter notes for each operation."""
    for node in graph.node:
        node.ClearField("doc_string")
        del node.metadata_props[:]


def _open_onnx(data: bytes) -> Run:
    runtime = extra("onnx", "onnxruntime", what="running an ONNX file")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [out.name for out in session.get_outputs()]

    def run(inputs: Mapping[str, Tensor]) -> Outputs:
        found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        return {name: torch.from_numpy(value) for name, value in zip(names, found, strict=True)}

    return run


FORMATS: Mapping[str, Format] = {
    "onnx": Format(".onnx", _check_onnx, _write_onnx, _open_onnx),
    "torch": Format(".pt2", lambda: None, _write_torch, _open_torch),
}
