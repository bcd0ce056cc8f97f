"""`through`: a pair of Pyro programs for x and a channel, as a pair for y."""

from collections.abc import Sequence
from inspect import signature
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_vae.channels.base import Channel
from pyro_vae.errors import DataError, UsageError
from pyro_vae.inference.programs import Program

Shape = tuple[int, ...]


class ThroughChannel(dist.TorchDistribution):
    """p(y|z) of one datum: a channel's observation of independent elements.

    Args:
        channel: p(y|x).
        elements: p(x|z), batch shape `[*leading, *event]`.
        x_dims: number of dimensions of one datum x.
        placeholder: a value of x that has a density.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 - torch's name, and torch's type for it

    def __init__(
        self, channel: Channel, elements: dist.TorchDistribution, x_dims: int, placeholder: float = 0.0
    ) -> None:
        self.channel, self.elements, self.x_dims, self.placeholder = channel, elements, x_dims, placeholder
        leading, event = elements.batch_shape[:-x_dims], elements.batch_shape[-x_dims:]
        super().__init__(leading, torch.Size(channel.observed_shape(tuple(event))), validate_args=False)

    @property
    def support(self) -> Any:
        """Real numbers; a nan is a gap."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log p(y|z), `[*leading]`, nats; gaps count 0."""
        terms = self.channel.observe(self.elements, value, self.placeholder)
        leading = max(len(self.batch_shape), value.dim() - len(self.event_shape))
        return terms.sum(tuple(range(leading, terms.dim()))) if terms.dim() > leading else terms

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 - torch's own default
        """Draws of y, by way of x."""
        return self.channel.draw(self.elements.sample(torch.Size(sample_shape)))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "ThroughChannel":
        """The same with a larger batch shape."""
        event = self.elements.batch_shape[-self.x_dims :]
        elements = self.elements.expand(torch.Size((*batch_shape, *event)))
        return ThroughChannel(self.channel, elements, self.x_dims, self.placeholder)

    def restored(self, y: Tensor) -> dist.TorchDistribution:
        """p(x|y, z), independent or not, batch shape `[*leading, *event]`."""
        return self.channel.recover(self.elements, y, self.placeholder)


class _Observing(Messenger):
    """Puts y, seen through a channel, in the place of the observed site `"x"`."""

    def __init__(self, pair: "Through", y: Tensor) -> None:
        super().__init__()
        self.pair, self.y = pair, y

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == "x" and msg["is_observed"]:
            elements, event_dim = _elements(msg["fn"])
            fn = ThroughChannel(self.pair.channel, elements, event_dim, self.pair.placeholder)
            msg.update(name=self.pair.site, fn=fn, value=self.y)


def _elements(fn: Any) -> tuple[dist.TorchDistribution, int]:
    """The elements of a distribution of one datum, and how many dimensions an event has."""
    event_dim = len(fn.event_shape)
    while isinstance(fn, torch.distributions.Independent):
        fn = fn.base_dist
    if event_dim == 0 or fn.event_shape:
        raise UsageError(
            f"a channel needs p(x|z) of independent elements, .to_event(...) of the event's dimensions; the site 'x' "
            f"has a {type(fn).__name__} of event shape {tuple(fn.event_shape)}"
        )
    return fn, event_dim


class Through(nn.Module):
    """A pair of Pyro programs for what was observed of x; made by `through`.

    `model` has the latent sites of the pair that it is made of, and the observed site `"y"` with p(y|z). `guide` is
    that of the pair at a fill-in of y. Both take y `[N, *observed]` in the place of x, with nan where it was not
    observed, and the same further inputs.

    Args:
        pair: an autoencoder, or a module with methods `model` and `guide`.
        channel: p(y|x).
        event_shape: shape of one datum x.
    """

    def __init__(self, pair: Any, channel: Channel, event_shape: Shape) -> None:
        super().__init__()
        self.pair, self.channel, self.event_shape = pair, channel, tuple(event_shape)
        self.observed_shape = tuple(channel.observed_shape(self.event_shape))
        self.site = "observed" if getattr(pair, "classes", 0) else "y"
        self.placeholder = float(getattr(getattr(pair, "likelihood", None), "placeholder", 0.0))
        self._takes_mask = "mask" in signature(pair.guide).parameters

    def model(self, x: Tensor, **inputs: Any) -> Any:
        """The Pyro program of p(y, z); `x` is y."""
        x = x.to(self.example())
        with _Observing(self, x):
            return self.pair.model(x.new_full((len(x), *self.event_shape), self.placeholder), **inputs)

    def guide(self, x: Tensor, **inputs: Any) -> Any:
        """The Pyro program of q(z|y); `x` is y."""
        return self.pair.guide(**self._filled(x), **inputs)

    def check_data(self, y: Tensor) -> None:
        """Refuse observations that the channel can't give; functions that take data ask for it."""
        check_observed(self, y)

    # ---- what a search for the best member of the guide's family asks for -------------------------------------------

    @property
    def posterior(self) -> Any:
        """The family of q."""
        return self.pair.posterior

    @property
    def code_site(self) -> str | None:
        """The site of the code, as of the pair."""
        return getattr(self.pair, "code_site", None)

    def guide_params(self, x: Tensor, mask: Tensor | None = None, c: Tensor | None = None) -> Tensor:
        """The parameters of q(z|y)."""
        return self.pair.guide_params(**self._filled(x), c=c)

    def _filled(self, y: Tensor) -> dict[str, Tensor]:
        x, mask = self.channel.fill_in(y.to(self.example()), self.event_shape)
        return {"x": x, "mask": mask} if self._takes_mask else {"x": x}

    def example(self) -> Tensor:
        """A tensor of the type and on the device of the weights."""
        return next(iter(self.pair.parameters()), torch.zeros(()))


class _Pair(nn.Module):
    """Two programs as one module."""

    def __init__(self, model: Program, guide: Program) -> None:
        super().__init__()
        self.model, self.guide = model, guide
        owners = [getattr(program, "__self__", program) for program in (model, guide)]
        self.owners = nn.ModuleList(dict.fromkeys(o for o in owners if isinstance(o, nn.Module)))


def through(vae: Any, channel: Channel, event_shape: Sequence[int] | None = None) -> Through:
    r"""The pair of Pyro programs for y, of a pair for x and a channel p(y|x).

    .. math:: p(y, z) = p(z) \, p(y|z), \quad p(y|z) = \int p(y|x) \, p(x|z) \, dx; \qquad q(z|y) = q(z|\hat x(y))

    An ordinary pair: `log_marginal`, `posterior`, `ais`, `bdmc` and the checks of a guide take it as any other. Its
    guide encodes a fill-in of y by the encoder of x, which was not trained for that: read its health.

    Args:
        vae: an `Autoencoder`, or a tuple of two programs `(model, guide)`; their observed site is `"x"`, a distribution
            of independent elements. It is not copied.
        channel: p(y|x).
        event_shape: shape of one datum x; None for that of the autoencoder.

    Returns:
        A module with the programs `model` and `guide`.

    Raises:
        UsageError: if the shape of x is not known, or the channel is not for it.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> from pyro_vae.evidence.importance_sampling import log_marginal
        >>> from pyro_vae.channels import BitFlip
        >>> pair = through(VAE((4,), latent_dim=2), BitFlip(0.1))
        >>> log_marginal(pair.model, pair.guide, torch.ones(3, 4), num_particles=10).log_p.shape
        torch.Size([3])
    """
    if not isinstance(channel, Channel):
        raise UsageError(f"channel: expected a Channel, e.g. pyro_vae.channels.BitFlip(0.1), got {channel!r}")
    if event_shape is None and not hasattr(vae, "shapes"):
        raise UsageError("event_shape: give the shape of one datum x of your own programs, e.g. event_shape=(28, 28)")
    shape = tuple(vae.shapes.event if event_shape is None else event_shape)
    return Through(_Pair(*vae) if isinstance(vae, tuple) else vae, channel, shape)


def check_observed(pair: Through, y: Tensor) -> None:
    """Refuse observations of another shape, or that the channel can't give.

    Raises:
        DataError: with what was expected.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> from pyro_vae.channels import BitFlip
        >>> pair = through(VAE((4,), latent_dim=2), BitFlip(0.1))
        >>> check_observed(pair, torch.ones(2, 4))
    """
    if tuple(y.shape[1:]) != pair.observed_shape or len(y) == 0:
        wanted = ", ".join(map(str, pair.observed_shape))
        raise DataError(f"y: expected shape [N >= 1, {wanted}] through {pair.channel}, got {list(y.shape)}")
    if y.isinf().any():
        raise DataError("y: expected finite numbers, or nan for a gap, got an infinite one")
    if (likelihood := getattr(pair.pair, "likelihood", None)) is not None:
        pair.channel.check(y, likelihood)
