"""`Jointly`: a pair for y in which x is a latent site too, for channels without an exact p(y|z)."""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_vae.channels.base import Channel
from pyro_vae.channels.through import Through
from pyro_vae.inference.programs import sample_sites
from pyro_vae.inference.weighing import propose, sites_at


class GivenX(dist.TorchDistribution):
    """p(y|x) of one datum, for x at hand.

    Args:
        channel: p(y|x), with `log_density`.
        x: `[*leading, *event]`.
        x_dims: number of dimensions of one datum x.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 - torch's name, and torch's type for it

    def __init__(self, channel: Channel, x: Tensor, x_dims: int) -> None:
        self.channel, self.x, self.x_dims = channel, x, x_dims
        shape = channel.observed_shape(tuple(x.shape[-x_dims:]))
        super().__init__(x.shape[:-x_dims], torch.Size(shape), validate_args=False)

    @property
    def support(self) -> Any:
        """Real numbers; a nan is a gap."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log p(y|x), `[*leading]`, nats; gaps count 0."""
        return log_terms(self.channel, value, self.x).flatten(-self.x_dims).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 - torch's own default
        """Draws of y."""
        return self.channel.draw(self.x.expand(*sample_shape, *self.x.shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "GivenX":
        """The same with a larger batch shape."""
        return GivenX(self.channel, self.x.expand(*batch_shape, *self.x.shape[-self.x_dims :]), self.x_dims)


def log_terms(channel: Channel, y: Tensor, x: Tensor) -> Tensor:
    """Log p(y|x) of each element, 0 where y is nan.

    Example:
        >>> from pyro_vae.channels import BitFlip
        >>> log_terms(BitFlip(0.25), torch.ones(2, 3), torch.ones(2, 3)).shape
        torch.Size([2, 3])
    """
    seen = ~y.isnan()
    return torch.where(seen, channel.log_density(torch.where(seen, y, 0.0), x), 0.0)


class _Hiding(Messenger):
    """Makes the observed site `"x"` a latent one."""

    value: Any = None

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == "x" and msg["is_observed"]:
            msg.update(is_observed=False, value=None)

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] == "x":
            self.value = msg["value"]


class Jointly(nn.Module):
    r"""A pair of Pyro programs for y, with x as a latent site beside the codes.

    .. math:: p(y, x, z) = p(z) \, p(x|z) \, p(y|x); \qquad q(x, z|y) = q(z|\hat x(y)) \, p(x|z)

    Its weights are p(y|x) p(z) / q(z| a fill-in of y): right in the limit of many draws, and of little use where y says
    much of x. Chains over (x, z) do not need the guide to be near.

    Args:
        pair: the pair through the channel, which has no exact p(y|z).
    """

    code_site = None

    def __init__(self, pair: Through) -> None:
        super().__init__()
        self.through, self.site = pair, pair.site
        self.channel, self.event_shape = pair.channel, pair.event_shape

    @property
    def is_real(self) -> bool:
        """Whether x can be any real number, so that it has gradients."""
        likelihood = getattr(self.through.pair, "likelihood", None)
        return likelihood is None or likelihood.data_support is constraints.real

    def model(self, x: Tensor, **inputs: Any) -> Any:
        """The Pyro program of p(y, x, z); `x` is y."""
        y = x.to(self.through.example())
        with _Hiding() as hidden:
            self.through.pair.model(self._blank(len(y)), **inputs)
        with pyro.plate("observations", len(y), dim=-1):
            return pyro.sample(self.site, GivenX(self.channel, hidden.value, len(self.event_shape)), obs=y)

    def guide(self, x: Tensor, **inputs: Any) -> Any:
        """The Pyro program of q(x, z|y); `x` is y."""
        with poutine.trace() as found:
            self.through.guide(x, **inputs)
        latents: Any = {name: site["value"] for name, site in sample_sites(found.trace).items()}
        with poutine.block():
            trace = poutine.trace(poutine.condition(self.through.pair.model, data=latents))
            elements: Any = sample_sites(trace.get_trace(self._blank(len(x)), **inputs))["x"]["fn"]
        with pyro.plate("observations", len(x), dim=-1):
            return pyro.sample("x", elements)

    def of_x(self, x: Tensor, latents: dict[str, Tensor], **inputs: Any) -> dict[str, Any]:
        """The sites of p(x, z) at codes `[1, N, ...]`, for complete data x `[N, *event]`."""
        return sites_at(self.through.pair.model, latents, x, **inputs)

    def propose(self, x: Tensor, **inputs: Any) -> Any:
        """One draw of q(z|x) for each of complete data x."""
        return propose(self.through.pair.guide, x, num_particles=1, **inputs)

    def _blank(self, num: int) -> Tensor:
        return self.through.example().new_full((num, *self.event_shape), self.through.placeholder)
