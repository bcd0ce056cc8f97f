"""Torch's `Dataset` and `DataLoader`, anything with their methods, and iterables of batches."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, RandomSampler

from pyro_vae.data.streams.fields import Block, Fields, block_of, item_of, parts_of, stacked
from pyro_vae.data.streams.stream import Stream, rows_of_block
from pyro_vae.errors import UsageError

_ITEMS = 256
"""The most single data that become a block; fewer where they are large."""

_REMEDY = "say how many to take by num_data=N, of as_dataset or store_data"


def torch_stream(source: Any, fields: Fields | None, split: str, num_data: int | None) -> Stream:
    """The stream of a `Dataset`, a `DataLoader`, another object with length and items, or an iterable of batches.

    Args:
        source: what to pass over.
        fields: which part of a datum, or of a batch, is what.
        split: what the data are part of, for messages.
        num_data: how many to take; needed of what has no length.

    Raises:
        UsageError: for what has no length, without `num_data`.
    """
    name = type(source).__name__
    if isinstance(source, DataLoader):
        stream = _of_loader(source, fields, split)
    elif isinstance(source, IterableDataset) or is_streamed(source):
        stream = Stream(name, lambda: _grouped(iter(source), fields, split), size=_length(source))
    elif hasattr(source, "__getitem__") and _length(source) is not None:
        stream = Stream(name, lambda: _grouped(_items(source), fields, split), size=_length(source))
    elif hasattr(source, "__iter__"):
        stream = Stream(name, lambda: _batches(source, fields, split), batches=_length(source))
    elif hasattr(source, "__getitem__"):
        stream = Stream(name, lambda: _grouped(_items(source, num_data), fields, split))
    else:
        raise UsageError(f"expected data, a Dataset, a DataLoader or an iterable of batches, got {name}{_hint(source)}")
    if stream.size is None and stream.batches is None and num_data is None:
        raise UsageError(f"the {name} has no length, so its end, and the space it needs, are not known: {_REMEDY}")
    return stream


def is_streamed(source: Any) -> bool:
    """Whether it is a data set of Hugging Face that is read while it is downloaded: one datum after another."""
    return hasattr(source, "column_names") and hasattr(source, "take") and not hasattr(source, "__len__")


def _hint(source: Any) -> str:
    return ": call it, and pass what it returns" if callable(source) else ""


def _length(source: Any) -> int | None:
    """Its `len`; None where it has none.

    Raises:
        UsageError: if it is no number of data.
    """
    try:
        return len(source)
    except (TypeError, NotImplementedError):  # torch raises these for a loader of what has no length
        return None
    except (ValueError, OverflowError) as error:
        problem = f"the length of the {type(source).__name__} is no number of data ({error})"
        raise UsageError(f"{problem}: correct its __len__") from error


def _of_loader(loader: Any, fields: Fields | None, split: str) -> Stream:
    """The batches of a `DataLoader`; how many data they have, as far as its samplers say so."""
    size, batches = None, _length(loader)
    if loader.batch_size is not None:  # batches are made by the loader, of single data
        of_each = loader.dataset if isinstance(loader.dataset, IterableDataset) else loader.sampler
        size = _length(of_each)
        if size is not None and loader.drop_last:
            size -= size % loader.batch_size
    notes = [] if size is None or not loader.drop_last else [_dropped(loader)]
    notes += ["its order is that of this pass, since it shuffles"] if isinstance(loader.sampler, RandomSampler) else []
    return Stream(
        "DataLoader",
        lambda: _batches(loader, fields, split),
        size=size,
        batches=batches if size is None else None,
        note="; ".join(note for note in notes if note),
    )


def _dropped(loader: Any) -> str:
    of_each = loader.dataset if isinstance(loader.dataset, IterableDataset) else loader.sampler
    left = (_length(of_each) or 0) % loader.batch_size
    return f"drop_last leaves out {left} data" if left else ""


def _items(source: Any, num: int | None = None) -> Iterator[Any]:
    """The data of what has items by number."""
    for index in range(len(source)) if num is None else range(num):
        yield source[index]


def _grouped(items: Iterable[Any], fields: Fields | None, split: str) -> Iterator[Block]:
    """Single data as blocks."""
    group: list[Block] = []
    start = 0
    for index, item in enumerate(items):
        where = f"{split} data[{index}]"
        group.append(item_of(parts_of(item, fields, where), where))
        if len(group) == min(_ITEMS, rows_of_block(group[0]["x"].size)):
            yield stacked(group, start, split)
            group, start = [], index + 1
    if group:
        yield stacked(group, start, split)


def _batches(source: Iterable[Any], fields: Fields | None, split: str) -> Iterator[Block]:
    """Batches as blocks."""
    start = 0
    for batch in source:
        where = f"the batch of {split} from datum {start}"
        block = block_of(parts_of(batch, fields, where), where)
        yield block
        start += len(block["x"])
