"""What the stored numbers of a source mean: by which number they are divided, or why that is not known."""

from collections.abc import Mapping

import numpy as np
import torch

from pyro_vae.arguments.remedies import option, part, spoken
from pyro_vae.data.storage import Stored, check_real, to_floats
from pyro_vae.errors import DataError


def scaled(arrays: Mapping[str, np.ndarray], divide_by: float | None) -> tuple[dict[str, Stored], float, str]:
    """The splits as a `Dataset` keeps them, its divisor, and both in words for the protocol."""
    for split, array in arrays.items():
        check_real(split, array)
    divisor, note = _divisor(arrays, divide_by)
    arrays = {split: x.view(np.uint8) if x.dtype == np.bool_ else x for split, x in arrays.items()}
    if all(isinstance(x, np.memmap) or x.dtype == np.uint8 for x in arrays.values()):
        return {split: _kept(x) for split, x in arrays.items()}, divisor, note
    return {split: to_floats(x).div_(divisor) for split, x in arrays.items()}, 1.0, note


def _kept(array: np.ndarray) -> Stored:
    if isinstance(array, np.memmap):
        return array
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _divisor(arrays: Mapping[str, np.ndarray], divide_by: float | None) -> tuple[float, str]:
    if divide_by is not None:
        return divide_by, f"divided by {divide_by:g}"
    filled = [array for array in arrays.values() if array.size]
    dtypes = {array.dtype for array in filled}
    if all(dtype.kind == "f" for dtype in dtypes):
        return 1, "values as given"
    if any(dtype.kind == "f" for dtype in dtypes):
        raise DataError(
            f"some splits are integers and some floats: store them in one type, or pass {option('divide_by', 'n')}"
        )
    low, high = min(array.min() for array in filled), max(array.max() for array in filled)
    if low >= 0 and high <= 1:
        return 1, "0/1 values as given"
    if dtypes == {np.dtype(np.uint8)}:
        return 255, "divided by 255"
    types = ", ".join(sorted(map(str, dtypes)))
    scales = _scales(int(low), int(high))
    raise DataError(f"integers ({types}) from {low} to {high} have no known scale: pass {scales}, or give floats")


def _scales(low: int, high: int) -> str:
    """Which `divide_by` integers can have, and the likelihoods that fit then."""
    if low < 0:
        return f"{option('divide_by', 1)} for a likelihood of reals ({part('likelihood', 'Normal')})"
    levels = f"{spoken('levels=', '--vae.likelihood.levels ')}{high + 1}"
    return (
        f"{option('divide_by', 1)} for counts ({part('likelihood', 'Poisson')} or NegativeBinomial), "
        f"{option('divide_by', high)} for levels from 0 to {high} "
        f"({part('likelihood', 'Categorical')} or BetaBinomial, with {levels})"
    )


def refuse_unscaled(x: np.ndarray) -> None:
    """Refuse some integers of a source if the scale of all will not be known.

    Raises:
        DataError: if so.
    """
    if x.dtype.kind in "iu" and x.dtype != np.uint8 and not bool(((x == 0) | (x == 1)).all()):
        raise DataError(
            f"integers ({x.dtype}) have no known scale: pass {option('divide_by', 1)} for counts "
            f"({part('likelihood', 'Poisson')} or NegativeBinomial) and for reals ({part('likelihood', 'Normal')}), "
            f"{option('divide_by', 'the highest')} for levels; or give floats"
        )
