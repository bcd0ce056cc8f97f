"""`AnnData` objects, known by their attributes: that library is not imported. Sparse matrices are read by blocks."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from pyro_vae.data.streams.elements import array_of
from pyro_vae.data.streams.fields import Block, Fields, Key, block_of
from pyro_vae.data.streams.stream import Stream, ranges, rows_of_block
from pyro_vae.errors import DataError, UsageError


def is_annotated(source: Any) -> bool:
    """Whether it is an `AnnData`."""
    return all(hasattr(source, name) for name in ("X", "obs", "obsm", "layers", "n_obs"))


def annotated_stream(source: Any, fields: Fields | None, split: str) -> Stream:
    """The stream of an `AnnData`: its cells as data.

    Args:
        source: the object, in memory or backed by a file.
        fields: `x` is `"X"` (as without `fields`) or the name of a layer; `labels` a column of `obs`, whose categories
            are numbered in their order; `context` a column of `obs`, categories as one-hot, or an entry of `obsm`.
        split: what the data are part of, for messages.

    Raises:
        DataError: if one of them is not there, or a cell has none.
    """
    chosen = {"x": "X"} if fields is None else fields
    if "mask" in chosen:
        raise UsageError("an AnnData has no mask: pass missing=..., what stands for a value that was not observed")
    matrix = _matrix(source, chosen["x"])
    others = {role: _annotation(source, role, key, split) for role, key in chosen.items() if role != "x"}
    size, genes = matrix.shape

    def blocks() -> Iterator[Block]:
        for rows in ranges(size, rows_of_block(genes)):
            where = f"{split} data[{rows.start}:{rows.stop}]"
            x = array_of(matrix[rows.start : rows.stop], f"x of {where}")
            yield block_of({"x": x, **{role: array[rows] for role, array in others.items()}}, where)

    return Stream("AnnData", blocks, size=size)


def _matrix(source: Any, key: Key) -> Any:
    """The matrix of counts, once: of a view each access of it copies it."""
    found = source.X if key == "X" else source.layers.get(key)
    if found is None:
        there = ", ".join(map(repr, ["X", *source.layers]))
        raise DataError(f"the AnnData has no {key!r} for x: expected one of {there}, with numbers in it")
    return found


def _annotation(source: Any, role: str, key: Key, split: str) -> np.ndarray:
    """Labels or a context, for all cells."""
    if role == "context" and key in source.obsm:
        return array_of(source.obsm[key], f"obsm[{key!r}]")
    if key not in source.obs:
        there = ", ".join(map(repr, [*source.obs, *(source.obsm if role == "context" else ())]))
        raise DataError(f"the AnnData has no {key!r} for the {role}: it has {there or 'nothing'}")
    column = source.obs[key]
    if column.isna().any():
        row = int(column.isna().to_numpy().argmax())
        raise DataError(f"{split} data[{row}] has no {key!r} in obs, its {role}: leave such cells out, or fill it in")
    if hasattr(column, "cat"):
        codes = column.cat.codes.to_numpy(np.int64)
        return codes if role == "labels" else np.eye(len(column.cat.categories), dtype=np.uint8)[codes]
    if column.dtype.kind not in "fiub":
        remedy = f"make categories of it: adata.obs[{key!r}] = adata.obs[{key!r}].astype('category')"
        raise DataError(f"obs[{key!r}] has texts, not classes: {remedy}")
    return column.to_numpy()
