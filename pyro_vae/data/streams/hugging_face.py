"""Data sets of Hugging Face's `datasets`, known by their attributes: that library is not imported."""

from collections.abc import Iterator, Sequence
from typing import Any

from pyro_vae.data.streams.elements import array_of
from pyro_vae.data.streams.fields import HOW, Block, Fields, block_of
from pyro_vae.data.streams.stream import Stream, rows_of_block
from pyro_vae.errors import DataError, UsageError

_ROWS = 256
"""The most data that are read at a time; fewer where they are large."""


def is_hugging_face(source: Any) -> bool:
    """Whether it is one split, with its rows by number."""
    return all(hasattr(source, name) for name in ("column_names", "features", "with_format", "__getitem__", "__len__"))


def hugging_face_stream(source: Any, fields: Fields | None, split: str) -> Stream:
    """The stream of a `datasets.Dataset`.

    Args:
        source: the data set. Its format, or transform, is kept where the user has set one.
        fields: which column is what; by default the only column of images or arrays is x, and that of classes the
            labels.
        split: what the data are part of, for messages.

    Raises:
        UsageError: if it is not clear which column is what, or x is a column of numbers.
    """
    chosen = _chosen(source) if fields is None else fields
    for role, name in chosen.items():
        if name not in source.column_names:
            raise DataError(f"the data set has no column {name!r}, its {role}: it has {_listed(source.column_names)}")
    view = source.select_columns(list(dict.fromkeys(chosen.values())))
    if view.format["type"] is None and not any(_is_image(source, name) for name in chosen.values()):
        view = view.with_format("numpy")  # without it arrays would be lists of Python's numbers

    def blocks() -> Iterator[Block]:
        start, rows = 0, 1  # the first one says how large they are
        while start < len(view):
            found = view[start : start + rows]
            where = f"{split} data[{start}:{min(start + rows, len(view))}]"
            yield block_of({role: found[name] for role, name in chosen.items()}, where)
            start, rows = start + rows, min(_ROWS, rows_of_block(_size(found[chosen["x"]][0])))

    return Stream("data set of Hugging Face", blocks, size=len(source))


def _size(datum: Any) -> int:
    """How many elements a datum has."""
    return array_of(datum, "x").size


def _chosen(source: Any) -> Fields:
    """The roles of the columns by their features."""
    kinds = {name: _kind(feature) for name, feature in source.features.items()}
    arrays = [name for name, kind in kinds.items() if kind == "array"]
    labels = [name for name, kind in kinds.items() if kind == "classes"]
    if not arrays:
        raise UsageError(
            f"the data set is a table, with the columns {_listed(source.column_names)}: pass it as one, by to_pandas()"
        )
    if len(arrays) > 1 or len(labels) > 1:
        raise UsageError(f"the data set has the columns {_listed(source.column_names)}: {HOW}")
    return {"x": arrays[0], **({"labels": labels[0]} if labels else {})}


def _kind(feature: Any) -> str:
    """What a column has: an array (an image, a sequence) for each datum, classes, or one value."""
    name = type(feature).__name__
    if name == "ClassLabel":
        return "classes"
    return "value" if name in ("Value", "dict", "Translation") else "array"


def _is_image(source: Any, name: Any) -> bool:
    return type(source.features.get(name)).__name__ == "Image"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))
