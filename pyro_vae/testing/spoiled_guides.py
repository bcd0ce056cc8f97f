"""A model whose posterior is known, and guides that are wrong in one way each: to see what a check can see."""

from typing import Literal, get_args

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.data import LinearGaussian
from pyro_vae.errors import UsageError

Fault = Literal["exact", "narrow", "wide", "biased", "uncorrelated", "one class"]
FAULTS: tuple[Fault, ...] = get_args(Fault)
_WEIGHT = ((1.4, 1.2), (1.2, 1.4), (0.6, 0.5), (0.5, 0.6))
_UPPER_QUARTILE = 0.6745
"""Of a standard normal."""


class KnownPair:
    """Probabilistic PCA of 4 elements with a 2-dimensional code, and its posterior with a fault as the guide.

    The correlation of the two dimensions of the posterior is -0.79. The faults:

    - `"exact"`: none.
    - `"narrow"`, `"wide"`: standard deviations times 0.8, 1.25.
    - `"biased"`: mean shifted by 0.3 standard deviations in each dimension.
    - `"uncorrelated"`: the same means and standard deviations, without correlation.
    - `"one class"`: mean shifted by 0.8 standard deviations in each dimension for a quarter of the data, those whose
      first element is in its upper quartile; exact for the others.

    Args:
        fault: which one.

    Raises:
        UsageError: if there is no such fault.

    Example:
        >>> pair = KnownPair("narrow")
        >>> pair.guide_at(torch.zeros(3, 4)).stddev.shape
        torch.Size([3, 2])
    """

    def __init__(self, fault: Fault) -> None:
        if fault not in FAULTS:
            raise UsageError(f"fault must be one of {', '.join(map(repr, FAULTS))}, got {fault!r}")
        weight = torch.tensor(_WEIGHT, dtype=torch.float64)
        self.fault, self.process = fault, LinearGaussian(weight, torch.zeros(4, dtype=torch.float64), 1.0)

    def model(self, x: Tensor) -> None:
        """Program of p(x, z)."""
        weight = self.process.weight
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).to(weight), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ weight.T, self.process.scale).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """Program of q(z|x)."""
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", self.guide_at(x))

    def guide_at(self, x: Tensor) -> dist.MultivariateNormal:
        """The distribution q(z|x) of each datum."""
        mean, covariance = self.process.posterior(x.double())
        deviation = covariance.diagonal().sqrt()
        if self.fault in ("narrow", "wide"):
            covariance = covariance * {"narrow": 0.8, "wide": 1.25}[self.fault] ** 2
        if self.fault == "uncorrelated":
            covariance = deviation.square().diag()
        shift = {"biased": 0.3, "one class": 0.8 * self.in_class(x)[:, None]}.get(self.fault, 0.0)
        return dist.MultivariateNormal(mean + shift * deviation, covariance)

    def in_class(self, x: Tensor) -> Tensor:
        """Whether the fault `"one class"` is at each datum, `[N]`, 1 or 0."""
        spread = (self.process.weight[0].square().sum() + self.process.scale**2).sqrt()
        return (x[:, 0] > _UPPER_QUARTILE * spread).double()
