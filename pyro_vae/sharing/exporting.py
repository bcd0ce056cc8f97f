"""`export`: an autoencoder's encoder and decoder as files that other programs run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from pyro_vae.arguments.remedies import spoken
from pyro_vae.arguments.values import choice, number, truth
from pyro_vae.autoencoders import Autoencoder
from pyro_vae.data.checks import check_divisor
from pyro_vae.errors import NumericalError, UsageError
from pyro_vae.inference.programs import evaluation_mode
from pyro_vae.process.isolation import isolated
from pyro_vae.process.seeding import seeded
from pyro_vae.runs.files import write_all
from pyro_vae.sharing.about import about
from pyro_vae.sharing.formats import FORMATS, NotExportable
from pyro_vae.sharing.parts import PARTS, Outputs, Part, Prepared
from pyro_vae.sharing.source import Source, source_of

To = Literal["onnx", "torch"]

_MOST_DIFFERENT = 1e-4
"""Largest difference between a file's numbers and ours, over max(1, |number|), with which it is written."""


@dataclass(frozen=True)
class File:
    r"""A part that was exported.

    Args:
        name: of the file.
        data: its bytes.
        about: what it says of itself.
        largest_difference: between its numbers and the autoencoder's, over :math:`\max(1, |a|)` for a number a, on
            data that the model draws; for batches of other sizes than the one that it was recorded with.
    """

    name: str
    data: bytes
    about: Mapping[str, Any]
    largest_difference: float

    def __repr__(self) -> str:
        return f"File({self.name}, {len(self.data)} bytes, largest_difference={self.largest_difference:.1e})"


@dataclass(frozen=True)
class Exported:
    """Files for other programs.

    Args:
        files: by part: `encoder`, `draw`, `classifier`, `decoder`.
        left_out: why a part has no file, by part.
        folder: where they were written.
    """

    files: Mapping[str, File]
    left_out: Mapping[str, str]
    folder: Path | None = None


@isolated
def export(
    vae: Autoencoder | str | Path,
    folder: str | Path,
    to: To = "onnx",
    *,
    parts: Sequence[str] | None = None,
    raw: float | None = None,
    gaps: bool | None = None,
    trust: Sequence[str] = (),
) -> Exported:
    r"""Write an autoencoder's maps as files that need neither this package nor, as ONNX, torch.

    =========== ================== =======================================================
    file        inputs             outputs
    =========== ================== =======================================================
    encoder     `x`                `mean`, `stddev`, `covariance`, `params` of q(z|x)
    draw        `x`, `noise`       `z`, a draw of q(z|x) as a function of e ~ N(0, I)
    classifier  `x`                `probs` of q(y|x), for a model with classes
    decoder     `z`                `mean`, `stddev`, `best`, `params` of p(x|z)
    =========== ================== =======================================================

    Each has the batch as first dimension, of any size, and a further input `c` where the part takes a context. Outputs
    that the family has no formula for are left out. `params` are those that `guide.distribution` and
    `likelihood.distribution` take; all others are in the units of the data. A `VQVAE` has codes `k` in place of `z`.

    All that `encode` and `decode` do is in the files: standardisation, features of a table's columns, placeholders in
    gaps. What was done to the data before is not, unless `raw` says so; a file's metadata has it in words.

    Args:
        vae: the autoencoder, or the path of a run directory.
        folder: where to write; it is made if it is not there.
        to: `"onnx"` (the extra `onnx`), or `"torch"`: torch.export's programs, for torch without this package.
        parts: which files; None for all that there are.
        raw: the number by which numbers of the data file were divided (255 for bytes): then the file takes `raw` in
            place of `x`, divides by it, and binarises if the run did so by a threshold; a decoder has `raw_mean` too,
            where nothing was binarised.
        gaps: whether nan in x means that an element was not observed; None: if the run was trained so.
        trust: of a run directory, as for `load`.

    Returns:
        The files, each with the largest difference between its numbers and ours, over max(1, \|number\|), on data that
        the model draws.

    Raises:
        UsageError: for a part that can't be exported, by name, with what to do; nothing is written then.
        NumericalError: if a file's numbers are not ours.
        MissingPackage: without the extra.
        CheckpointError: as `load`.

    Example:
        >>> import tempfile
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = export(VAE((8, 8), latent_dim=2), folder, to="torch").files
        ...     encode = torch.export.load(f"{folder}/encoder.pt2").module()
        ...     encode(x=torch.zeros(5, 8, 8))["mean"].shape, [file.name for file in files.values()]
        (torch.Size([5, 2]), ['encoder.pt2', 'draw.pt2', 'decoder.pt2'])
    """
    choice("to", to, get_args(To))
    found = exported(source_of(vae, trust), to, parts, raw, gaps)
    folder = Path(folder)
    write_all({folder / file.name: file.data for file in found.files.values()})
    return Exported(found.files, found.left_out, folder)


def exported(
    source: Source,
    to: str,
    parts: Sequence[str] | None = None,
    raw: float | None = None,
    gaps: bool | None = None,
    progress: Callable[[int, int, str], object] = lambda done, total, name: None,
) -> Exported:
    """The files of `export`, not written yet; arguments as there.

    Args:
        source: the autoencoder and its run.
        to: as for `export`, as are `parts`, `raw` and `gaps`.
        parts: see there.
        raw: see there.
        gaps: see there.
        progress: called before each part with how many are done, how many there are, and its name.
    """
    FORMATS[to].check()
    prepared = _prepared(source, raw, gaps)
    names, files, left_out = _names(source.vae, parts), {}, {}
    for done, name in enumerate(names):
        progress(done, len(names), name)
        part = PARTS[name](source.vae, prepared)
        if not (reason := _reason_against(part)):
            files[name] = _file(source, name, part, to)
        elif parts is None:
            left_out[name] = reason
        else:
            raise UsageError(f"{name}: {reason}")
    if not files:
        raise UsageError(f"nothing of a {type(source.vae).__name__} can be exported: {next(iter(left_out.values()))}")
    return Exported(files, left_out)


def _names(vae: Autoencoder, parts: Sequence[str] | None) -> list[str]:
    """The parts to export: those asked for, or all that the model has."""
    there = [name for name in PARTS if _has(vae, name)]
    if parts is None:
        return there
    for name in [parts] if isinstance(parts, str) else parts:
        choice(f"{spoken('', '--')}parts", name, there)
    chosen = {parts} if isinstance(parts, str) else set(parts)
    if not chosen:
        raise UsageError(f"parts: expected some of {', '.join(there)}, got none")
    return [name for name in there if name in chosen]


def _has(vae: Autoencoder, name: str) -> bool:
    if name == "classifier":
        return bool(vae.classes)
    return name != "draw" or not vae.has_one_code or vae.code_site is not None  # a discrete code is not drawn


def _prepared(source: Source, raw: float | None, gaps: bool | None) -> Prepared:
    """What a file does to its input first."""
    config = source.config
    given = config.get("missing") is not None if gaps is None else truth("gaps", gaps)
    if raw is None:
        return Prepared(None, False, given)
    check_divisor("raw", number("raw", raw))
    binarize, noise = config.get("binarize", "none"), config.get("dequantize", False)
    if binarize in ("static", "dynamic") or noise:
        how = "dequantised by noise" if noise else f"binarised by draws ({binarize})"
        raise UsageError(
            f"{spoken('raw', '--raw')}: the run's data were {how}, and a file that draws nothing can't repeat that: "
            f"leave it out, and give the file x as load_data prepares it"
        )
    return Prepared(float(raw), binarize == "threshold", given)


def _reason_against(part: Part) -> str:
    """Why an autoencoder has no such map; empty if it has."""
    try:
        with evaluation_mode(part.vae), seeded(0, "export"):
            part.compute(part.example())
    except UsageError as reason:
        return str(reason)
    return ""


def _file(source: Source, name: str, part: Part, to: str) -> File:
    """One part, written and run again."""
    with evaluation_mode(part.vae), seeded(0, "export", name):
        said = about(source, name, part)
        try:
            data = FORMATS[to].write(part, said)
        except NotExportable as reason:
            raise UsageError(_refusal(part, name, to, reason)) from reason
        difference = _largest_difference(part, data, to)
    if not difference <= _MOST_DIFFERENT:
        raise NumericalError(
            f"{name}{FORMATS[to].ending} would have numbers that differ from ours by {difference:.2g} of max(1, "
            f"|number|): it is not written; {spoken('to=', '--to ')}{'torch' if to == 'onnx' else 'onnx'} may do better"
        )
    return File(f"{name}{FORMATS[to].ending}", data, said, difference)


def _refusal(part: Part, name: str, to: str, reason: Exception) -> str:
    network = getattr(part.vae, part.network, None)
    family = part.vae.likelihood if name == "decoder" else getattr(part.vae, "posterior", None)
    classes = [type(value).__name__ for value in (network, family) if value is not None]
    other = [option for option in PARTS if option != name and _has(part.vae, option)]
    remedy = (
        "a part of your own must be tensor operations without branches on values "
        f"(torch.export's rules); the others are exported by {spoken('parts=', '--parts ')}{' '.join(other)}"
    )
    return (
        f"the {name} ({', '.join(classes) or type(part.vae).__name__}) can't be exported to {to} ({reason}): {remedy}"
    )


def _largest_difference(part: Part, data: bytes, to: str) -> float:
    """Between a file's numbers and ours, on batches of one datum, of a few, and of many."""
    found, run = 0.0, FORMATS[to].open(data)
    for rows in (1, 2, 5):
        inputs = {name: _rows(value, rows) for name, value in part.example().items()}
        found = max(found, difference(run(inputs), part(**inputs)))
    return found


def _rows(value: Tensor, rows: int) -> Tensor:
    return value[torch.arange(rows) % len(value)].contiguous()


def difference(got: Outputs, expected: Outputs) -> float:
    """The largest difference over max(1, |expected|); infinite for other names or shapes, or nan in one alone."""
    if set(got) != set(expected) or any(got[name].shape != value.shape for name, value in expected.items()):
        return float("inf")
    return max((_difference(got[name].double(), value.double()) for name, value in expected.items()), default=0.0)


def _difference(got: Tensor, expected: Tensor) -> float:
    same = (got == expected) | (got.isnan() & expected.isnan())
    relative = torch.where(same, 0.0, (got - expected).abs() / expected.abs().clamp(min=1))
    return float(relative.nan_to_num(nan=float("inf"), posinf=float("inf")).max()) if got.numel() else 0.0
