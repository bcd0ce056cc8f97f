"""Known factors of data, for `pyro-vae encode`: read from a file, and compared with codes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pyro_vae.data.sources.numpy_files import read_npy
from pyro_vae.data.storage import check_real, to_floats
from pyro_vae.errors import MissingPackage, UsageError
from pyro_vae.messages import remark
from pyro_vae.statistics.averages import number
from pyro_vae.tasks.codes import dci, mig, sap


def read_factors(path: str, num: int) -> Tensor:
    """The factors of the data, `[N, K]` or `[N]`.

    Args:
        path: the `.npy` file.
        num: N.

    Raises:
        UsageError: if there is not one row for each datum.
    """
    array = read_npy(Path(path))
    check_real(f"--factors {path}", array)
    if array.ndim not in (1, 2) or len(array) != num:
        raise UsageError(f"--factors {path}: expected {num} rows, one for each datum, got shape {list(array.shape)}")
    return to_floats(array).double()


def agreement(codes: Tensor, factors: Tensor, seed: int) -> dict[str, Any]:
    """MIG and SAP of codes, and DCI if scikit-learn is there."""
    found: dict[str, Any] = {"mig": vars(mig(codes, factors, seed=seed)), "sap": vars(sap(codes, factors, seed=seed))}
    try:
        return {**found, **dci(codes, factors, seed=seed).summary()}
    except MissingPackage as missing:
        remark(str(missing))
        return found


def agreement_lines(found: Mapping[str, Any]) -> dict[str, str]:
    """The same for readers."""
    names = {"mig": "MIG", "sap": "SAP"}
    return {
        names.get(name, name): f"{value['value']:.4f} (standard error {number(value['standard_error'], '.4f')})"
        for name, value in found.items()
        if isinstance(value, Mapping)
    }
