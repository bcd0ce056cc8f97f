"""Latent sites in the model's order, independent of the order in the guide.

All code that joins values of several sites uses this order, so that columns of the truth and of the draws match.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def in_order(values: Mapping[str, T], order: Iterable[str]) -> dict[str, T]:
    """The same values by site name, in the given order.

    Args:
        values: by site name.
        order: names of sites, those of `values` among them.

    Raises:
        KeyError: if a site of `values` is not in `order`.

    Example:
        >>> in_order({"b": 1, "a": 2}, ["a", "x", "b"])
        {'a': 2, 'b': 1}
    """
    places = {name: place for place, name in enumerate(order)}
    return {name: values[name] for name in sorted(values, key=lambda name: places[name])}


def flattened(values: Mapping[str, Tensor], order: Iterable[str], nesting: int = 1) -> Tensor:
    """One vector for each draw of each datum: all elements of all sites, site after site in the given order.

    Args:
        values: draws by site name, `[S, *inner plates, N, *event]`.
        order: names of sites.
        nesting: plate dimensions the program uses, the data's among them.

    Returns:
        `[S, N, size]`.

    Example:
        >>> flattened({"b": torch.zeros(1, 3), "a": torch.ones(1, 3, 2)}, ["a", "b"])[0, 0]
        tensor([1., 1., 0.])
    """
    rows = [value.movedim(nesting, 1) for value in in_order(values, order).values()]
    return torch.cat([row.reshape(*row.shape[:2], -1) for row in rows], -1)


def element_names(values: Mapping[str, Tensor], order: Iterable[str], nesting: int = 1) -> list[str]:
    """The names of the columns of `flattened`: `"z[0]"`, `"z[1]"`, ...; arguments as there."""
    sizes = {name: value.movedim(nesting, 1)[0, 0].numel() for name, value in in_order(values, order).items()}
    return [f"{name}[{i}]" for name, size in sizes.items() for i in range(size)]


def is_discrete(fn: Any) -> bool:
    """Whether a distribution has discrete values; False where it does not say."""
    try:
        return bool(fn.support.is_discrete)
    except NotImplementedError:
        return False
