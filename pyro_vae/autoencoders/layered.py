"""Guides of layers of latent variables: up from the data, down a ladder, or down given the data."""

from collections.abc import Callable
from math import prod
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.autoencoders.base import Conditional, start_near_prior
from pyro_vae.networks import Conditioned, FromShapes, conditioned

Factory = Callable[[tuple[int, ...], tuple[int, ...]], FromShapes]


class Layered(Conditional):
    """What the guides of `HierarchicalVAE` need of it; its docstring has their formulas."""

    latent_dims: tuple[int, ...]
    """Dimensions of each layer, from z1 up."""
    ladder: bool
    """Whether the guide merges the pass up with the model's pass down."""
    top_down: bool
    """Whether it draws the top first, and the lower layers given x and those above."""
    layers: nn.ModuleList
    """The normal of each layer."""
    encoders: nn.ModuleList
    """The guide's network of each layer."""
    upper_decoders: nn.ModuleList
    """The model's network from each layer to the next lower one."""

    def amortize(self, x: Tensor) -> dist.TorchDistribution:
        """q(zL|x), or in the guide that draws its way up q(zL|means of the layers below): `[*leading]`, `(latent,)`."""
        x = self._input(x, None)
        if self.ladder:
            return self._normal(-1, self._estimates(x, None)[-1])
        *lower, top = self.encoders
        for encoder in () if self.top_down else lower:
            x = self._run("guide", encoder, x, None).select(-2, 0)
        return self._normal(-1, self._run("guide", top, x, None))

    def _make_encoders(self, encoder: Factory, upper_encoder: Factory, width: int) -> nn.ModuleList:
        """One network a layer."""
        return self._encoders_of_x(encoder) if self.top_down else self._encoders_up(encoder, upper_encoder, width)

    def _encoders_up(self, encoder: Factory, upper_encoder: Factory, width: int) -> nn.ModuleList:
        """From what is below a layer to its normal's parameters, and to d in a ladder."""
        *lower, top = self.latent_dims
        if self.ladder:
            inputs = [self.likelihood.input_shape, *[(width,)] * len(lower)]
            outputs: list[tuple[int, ...]] = [*((2 * size + width,) for size in lower), (2 * top,)]
        else:
            inputs = [self.likelihood.input_shape, *((size,) for size in lower)]
            outputs = [(2, size) for size in self.latent_dims]
        made = zip([encoder, *[upper_encoder] * len(lower)], inputs, outputs, strict=True)
        encoders = [self._network("guide", *network) for network in made]
        for network, guide, shape in zip(encoders, self.layers, outputs, strict=True):
            start_near_prior(network, guide, prod(shape))  # pyright: ignore[reportArgumentType]
        return nn.ModuleList(encoders)

    def _encoders_of_x(self, encoder: Factory) -> nn.ModuleList:
        """From x, the codes above and the context to a layer's parameters."""
        x, (*lower, above) = self.likelihood.input_shape, self.latent_dims
        encoders = [self._network("guide", encoder, x, (2, above))]
        if isinstance(encoders[0], Conditioned):
            x = encoders[0].rule.joined_shape(x, encoders[0].context)
        for size in reversed(lower):
            encoders.insert(0, conditioned(encoder, x, (2, size), (above,)))
            above += size
        for network, guide in zip(encoders, self.layers, strict=True):
            start_near_prior(network, guide)  # pyright: ignore[reportArgumentType]
        return nn.ModuleList(encoders)

    def _below(self, index: int, z: Tensor, c: Tensor | None) -> Tensor:
        """What the model says of a layer, given the one above: mean and log standard deviation."""
        return self._run("decoder", self.upper_decoders[index], z, c)

    def _draw(self, x: Tensor, c: Tensor | None) -> Tensor:
        """Draw all layers, inside the plate; returns the last."""
        if self.top_down:
            return self._down(x, c)
        return self._down_the_ladder(x, c) if self.ladder else self._up(x, c)

    def _up(self, x: Tensor, c: Tensor | None) -> Tensor:
        """Draw each layer given the one below."""
        below = x
        for index, encoder in enumerate(self.encoders):
            below = pyro.sample(f"z{index + 1}", self._normal(index, self._run("guide", encoder, below, c)))
        return below

    def _down(self, x: Tensor, c: Tensor | None) -> Tensor:
        """Draw each layer given x, those above, and the context."""
        *lower, top = self.encoders
        z = above = pyro.sample(f"z{len(self.layers)}", self._normal(-1, self._run("guide", top, x, c)))
        if isinstance(top, Conditioned) and c is not None:
            x = top.rule.join(x, c, top.in_shape, top.context)
        for index in reversed(range(len(lower))):
            z = pyro.sample(f"z{index + 1}", self._normal(index, lower[index](x, above)))
            above = torch.cat([z, above], -1)
        return z

    def _down_the_ladder(self, x: Tensor, c: Tensor | None) -> Tensor:
        """Draw each layer given the one above and what came up from the data."""
        *lower, top = self._estimates(x, c)
        z = pyro.sample(f"z{len(self.layers)}", self._normal(-1, top))
        for index in reversed(range(len(lower))):
            merged = _merged(lower[index], self._below(index, z, c))
            z = pyro.sample(f"z{index + 1}", self._normal(index, merged))
        return z

    def _estimates(self, x: Tensor, c: Tensor | None) -> list[Tensor]:
        """What the data say of each layer: mean and log standard deviation, `[*leading, 2, latent]`."""
        found, below = [], x
        for encoder, size in zip(self.encoders, self.latent_dims, strict=True):
            out = self._run("guide", encoder, below, c)
            found.append(out[..., : 2 * size].unflatten(-1, (2, size)))
            below = out[..., 2 * size :]
        return found

    def _normal(self, index: int, params: Tensor) -> dist.TorchDistribution:
        """The distribution of a layer, from its parameters `[*leading, 2, latent]`."""
        layer: Any = self.layers[index]
        return layer.distribution(params)


def _merged(estimate: Tensor, above: Tensor) -> Tensor:
    """The product of two normals by mean and log standard deviation, `[*leading, 2, latent]`.

    In logarithms, so that a standard deviation that over- or underflows does not end in 0 / 0.
    """
    mean, log_scale = estimate.unbind(-2)
    mean_above, log_scale_above = above.unbind(-2)
    share = torch.sigmoid(2 * (log_scale_above - log_scale))
    merged_log_scale = -torch.logaddexp(-2 * log_scale, -2 * log_scale_above) / 2
    return torch.stack([mean_above + share * (mean - mean_above), merged_log_scale], -2)
