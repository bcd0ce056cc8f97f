"""Recognises distributions that put all probability on one point."""

from typing import Any

import pyro.distributions as dist


def is_point_mass(distribution: Any) -> bool:
    """Whether a distribution is a `Delta`, possibly with masks, events and transforms around it."""
    while not isinstance(distribution, dist.Delta) and hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return isinstance(distribution, dist.Delta)
