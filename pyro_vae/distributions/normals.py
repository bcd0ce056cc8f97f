"""Independent normal elements, also where their units were changed, and what linear observations say of them."""

from typing import Any

import pyro.distributions as dist

from pyro_vae.distributions.elements import Rescaled


def as_normal(elements: Any) -> dist.Normal | None:
    """The same elements as a `Normal`, if they are normal; None otherwise."""
    if isinstance(elements, dist.Normal):
        return elements
    if isinstance(elements, Rescaled) and (inner := as_normal(elements.elements)) is not None:
        return dist.Normal(elements.shift + elements.factor * inner.loc, elements.factor * inner.scale)
    return None
