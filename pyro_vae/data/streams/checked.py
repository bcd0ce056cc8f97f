"""`Continued`: what a pass refuses of a block, given the blocks before; and what it makes of missing values."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np

from pyro_vae.arguments.remedies import option
from pyro_vae.data.gaps import Missing
from pyro_vae.data.streams.fields import Block, check_continues
from pyro_vae.errors import DataError, UsageError


@dataclass
class Continued:
    """Checks blocks one after another: the same parts, types and shapes, and values that are finite where observed.

    Args:
        split: what the blocks are part of, for messages.
        missing: `"nan"` or the number that stands for an element that was not observed; None where all were.
    """

    split: str
    missing: Missing = None

    def of(self, blocks: Iterator[Block]) -> Generator[Block, None, None]:
        """The blocks, with a mask if elements may be missing, and 0 where they are; empty ones are left out.

        Raises:
            DataError: if a block does not continue those before.
            UsageError: for a mask beside `missing`.
        """
        first, start = None, 0
        for block in blocks:
            size = len(block["x"])
            if size == 0:
                continue
            where = f"{self.split} data[{start}:{start + size}]"
            if first is None:
                first = _kinds(block, where)
            _check(block, first, where)
            yield self._observed(block, where, start)
            start += size

    def _observed(self, block: Block, where: str, start: int) -> Block:
        x, mask = block["x"], block.get("mask")
        if self.missing is not None:
            if mask is not None:
                raise UsageError(f"give one of {option('missing', self.missing)} and a mask, which say the same")
            mask = ~np.isnan(x) if self.missing == "nan" else x != _exact(self.missing, x.dtype)
        if mask is not None and mask.shape != x.shape:
            raise DataError(f"mask of {where} has shape {list(mask.shape)}, expected that of x, {list(x.shape)}")
        filled = x if mask is None else np.where(mask, x, x.dtype.type(0))
        self._check_finite("x", filled, start)
        if "context" in block:
            self._check_finite("context", block["context"], start)
        return {**block, "x": filled, **({} if mask is None else {"mask": mask})}

    def _check_finite(self, role: str, array: np.ndarray, start: int) -> None:
        if array.dtype.kind != "f" or (finite := np.isfinite(array)).all():
            return
        row = int(np.argmin(finite.reshape(len(array), -1).all(1)))
        value = array[row][~finite[row]].flat[0]
        advice = "replace it, or leave the datum out"
        if role == "x" and np.isnan(value):
            advice = f"if it means not observed, pass {option('missing', repr('nan'))}; else {advice}"
        raise DataError(f"{role} of {self.split} data[{start + row}] has the value {value}: {advice}")


def _exact(missing: float | str | None, dtype: np.dtype) -> object:
    """The number as an element has it: single precision has another -99.9."""
    return dtype.type(missing) if dtype.kind == "f" else missing


def _kinds(block: Block, where: str) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Type and shape of a datum by role, once they are found to be usable."""
    x = block["x"]
    if x.ndim < 2 or 0 in x.shape:
        single = ": one number for each datum is [B, 1], e.g. by x.reshape(-1, 1)" if x.ndim == 1 else ""
        raise DataError(f"x of {where} has shape {list(x.shape)}, expected [B, *event] with no size 0{single}")
    return {role: (array.dtype, array.shape[1:]) for role, array in block.items()}


def _check(block: Block, first: dict[str, tuple[np.dtype, tuple[int, ...]]], where: str) -> None:
    if set(block) != set(first):
        came, before = (" and ".join(sorted(parts, reverse=True)) for parts in (block, first))
        raise DataError(f"{where} has {came}, and the data before {before}: give all data the same parts")
    for role, (dtype, shape) in first.items():
        check_continues(f"each datum of {role} of {where}", block[role][0], dtype, shape)
