"""`load`: a saved run, and its tensors."""

import hashlib
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from pyro_vae.arguments.values import shown
from pyro_vae.errors import CheckpointError, FileError, UsageError
from pyro_vae.process.isolation import isolated
from pyro_vae.process.seeding import seeded
from pyro_vae.runs import files as run_files
from pyro_vae.runs.describing import build_vae
from pyro_vae.runs.restoring import SizedLike, as_precise, restore_weights
from pyro_vae.runs.texts import MALFORMED, missing, read_config, read_manifest, read_metrics

__all__ = ["load", "read_config", "read_manifest", "read_metrics", "read_tensors", "read_weights"]


# ---- reading a run -------------------------------------------------------------------------------------------------


@isolated
def load(path: str | Path, *, trust: Sequence[str] = (), device: str = "cpu", which: str = "best") -> Any:
    """Build the VAE of a run with its trained weights, in evaluation mode.

    Args:
        path: the run directory, or the file that `pyro-vae pack` made of one.
        trust: further modules whose classes may be imported and built; `pyro_vae` always is.
        device: where to put it.
        which: `"best"` (by the objective's value on the validation data; the last if there were none, or if the run
            keeps the last) or `"last"`.

    Returns:
        The VAE, of the class it was trained as: a `VAE`, or any other `Autoencoder`.

    Raises:
        CheckpointError: if the run is missing, damaged, or names a class outside the trusted modules.
        UsageError: if `which` is neither.

    Example:
        >>> import tempfile
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> from pyro_vae.training.fitting import fit
        >>> with tempfile.TemporaryDirectory() as run:
        ...     history = fit(VAE((4,), latent_dim=2), torch.ones(20, 4), epochs=1, run=run, progress=False)
        ...     load(run).encode(torch.ones(3, 4)).mean.shape
        torch.Size([3, 2])
    """
    if not isinstance(path, str | PathLike):
        raise UsageError(f"path: expected the path of a run directory, got {shown(path)}")
    if which not in ("best", "last"):
        raise UsageError(f"expected which to be 'best' or 'last', got {which!r}")
    (weights, file), config = read_weights(Path(path), which), read_config(Path(path))
    where = f"{file}: the weights do not fit the VAE of config.yaml"
    try:
        # these first weights are replaced, and drawing them must not advance the caller's generator
        with seeded(0, "load"), SizedLike(weights, where):
            vae = build_vae(config.get("vae", {}), trust)
    except UsageError as error:
        raise CheckpointError(f"{path}/config.yaml describes no VAE: {error}") from error
    as_precise(vae, weights)
    restore_weights(vae, weights, where)
    return vae.to(device).eval()


def read_weights(path: Path, which: str) -> tuple[dict[str, Tensor], str]:
    """The weights of a run, and their file; read again if a training just replaced them.

    Args:
        path: the run directory.
        which: as for `load`.

    Raises:
        CheckpointError: if it is missing or damaged.
    """
    manifest = read_manifest(path)
    try:
        best = read_tensors(path, manifest, "best") if which == "best" else {}
        kind = "best" if best else "weights"
        weights = best or read_tensors(path, manifest, "weights")
    except CheckpointError:
        if read_manifest(path) == manifest:
            raise
        return read_weights(path, which)
    return weights, f"{path}/{manifest['files'][kind]['name']}"


def read_tensors(path: Path, manifest: Mapping[str, Any], kind: str) -> dict[str, Tensor]:
    """The tensors of one kind, e.g. `"weights"`, checked against the manifest."""
    entry = manifest["files"][kind]
    where = f"{path}/{entry['name']}"
    try:
        data = run_files.read(path, entry["name"], entry.get("size"))
    except FileError as error:
        raise missing(error, f"the {kind} named by manifest.json can't be read: {where} is not there") from error
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise CheckpointError(f"{where} is damaged: its sha256 is not the one in manifest.json; restore a copy")
    try:
        tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, RuntimeError, TypeError, *MALFORMED) as error:
        raise CheckpointError(f"{where} is damaged: {error}") from error
    if odd := set(tensors) ^ set(entry.get("tensors", tensors)):
        raise CheckpointError(f"{where} is damaged: the tensor {min(odd)!r} is in it or in manifest.json, not in both")
    return tensors
