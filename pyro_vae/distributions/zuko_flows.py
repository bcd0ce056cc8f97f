"""The one seam to zuko: the package, imported when a flow is made, and its flows as Pyro distributions."""

from typing import Any

import torch
from pyro.contrib.zuko import ZukoToPyro
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Distribution


def zuko() -> Any:
    """The package; its import switches the validation of all distributions off, which is undone here."""
    validated = Distribution._validate_args
    try:
        import zuko
    finally:
        Distribution.set_default_validate_args(validated)
    return zuko


class FlowDistribution(ZukoToPyro):
    """A flow of zuko as a Pyro distribution whose draws need no program and whose density is never remembered.

    Pyro's wrapper keeps the density of a draw. Of one made without gradients that would be one without a gradient.
    """

    support: Any = constraints.real_vector

    def __call__(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - immutable, and Pyro's own
        """Reparameterised draws."""
        return self.rsample(sample_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Reparameterised draws."""
        return self.dist.rsample(torch.Size(sample_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws without gradients."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def expand(self, batch_shape: Any, _instance: object = None) -> "FlowDistribution":
        """The same flow at another batch shape."""
        return FlowDistribution(self.dist.expand(torch.Size(batch_shape)))


@torch.no_grad()
def shrink(flow: Any) -> None:
    """Initialise a flow close to the identity, but with a gradient for every weight."""
    for transform in flow.transform.transforms:
        last = transform.hyper[-1] if hasattr(transform, "hyper") else transform
        for parameter in last.parameters():
            parameter.mul_(0.01)
