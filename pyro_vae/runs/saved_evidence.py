"""Reads the files of an evaluation: their form is checked, and that the arrays belong to the summary."""

import errno
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import Tensor

from pyro_vae.errors import FileError
from pyro_vae.runs.arrays import columns
from pyro_vae.runs.files import LARGEST_TEXT, read
from pyro_vae.runs.formats import SavedEvidence, parse_json

_ARRAYS = "arrays_sha256"
"""The entry of the summary that identifies its arrays, since a process may be killed between writing the two files."""


def proof_of(arrays: bytes) -> dict[str, str]:
    """The entry of a summary that identifies its arrays."""
    return {_ARRAYS: sha256(arrays).hexdigest()}


def read_saved(run: Path, split: str, names: Sequence[str]) -> tuple[dict[str, Any], list[Tensor]] | None:
    """Read what `evaluate` saved of importance sampling; None if there is nothing, or the files do not match.

    Args:
        run: the run directory.
        split: train | valid | test.
        names: the arrays wanted.

    Returns:
        The summary, and the arrays `[N]`.

    Raises:
        CheckpointError: if a file is damaged, with the key or the array.
    """
    where, remedy = f"{run}/evidence-{split}", "delete it, and it is estimated anew"
    try:
        summary = read(run, f"evidence-{split}.json", LARGEST_TEXT)
        data = read(run, f"evidence-{split}.npz")
    except FileError as error:
        if error.errno != errno.ENOENT:
            raise
        return None
    found = parse_json(summary, SavedEvidence, f"{where}.json ({remedy})")
    if found.get(_ARRAYS) != sha256(data).hexdigest():
        return None
    return found, columns(data, names, f"{where}.npz", remedy)
