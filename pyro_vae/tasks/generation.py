"""What a trained VAE is for: drawing data, reconstructing data, and looking over its latent space.

`sample` and `reconstruct` run the Pyro programs of any `Autoencoder` and read their sites.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import attrgetter
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.arguments.checked import checked
from pyro_vae.arguments.remedies import spoken
from pyro_vae.autoencoders import Autoencoder
from pyro_vae.errors import DataError, NumericalError, UsageError
from pyro_vae.inference.programs import evaluation_mode, sample_sites
from pyro_vae.process.isolation import isolated
from pyro_vae.process.seeding import seeded

_TILE = 100
"""Data are processed, and noise is drawn, in tiles of this size: bounds memory, and few draws are the first of many."""


@dataclass(frozen=True, eq=False)
class Generated:
    """Draws from a VAE.

    Args:
        latents: draws of the latent sites by name, `[num, *site]`; those of a `VAE` are the codes `"z"`.
        mean: E[x|z], `[num, *event]`; of a category (`Mixed`) the most probable class.
        x: data x ~ p(x|z), `[num, *event]`.
    """

    latents: Mapping[str, Tensor]
    mean: Tensor
    x: Tensor

    @property
    def z(self) -> Tensor:
        """The codes z ~ p(z), `[num, latent]`, where `"z"` is the one latent site.

        Raises:
            UsageError: if there are others.
        """
        if set(self.latents) != {"z"}:
            raise UsageError(f"this model draws {', '.join(self.latents)}: take latents[name]")
        return self.latents["z"]

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} of {list(z.shape[1:])}" for name, z in self.latents.items())
        return f"Generated({len(self.x)} draws of x of {list(self.x.shape[1:])}, {sizes})"


@isolated
@checked
def sample(vae: Autoencoder, num: int, seed: int = 0, c: Tensor | None = None, **inputs: Tensor) -> Generated:
    r"""Draw data from the model.

    .. math:: z \sim p(z|c), \qquad x \sim p(x|z, c)

    The draws are a function of `seed`, and a few are the first of many. Evaluation mode; the caller's generators are
    left alone.

    Args:
        vae: the VAE, or any other `Autoencoder`; left as it is.
        num: number of draws, at least 1.
        seed: seed of the draws.
        c: the context of a conditional VAE: one for all draws, `[*context]`, or one for each, `[num, *context]`.
        **inputs: what else the model is to be given by name, `[num, ...]`. One by the name of a latent site is the
            site's value, not drawn: `y=classes` draws data of these classes from a `SemiSupervisedVAE`.

    Returns:
        A `Generated`, on the CPU.

    Raises:
        UsageError: if `num` is below 1, the context or the value of a site does not fit, or the likelihood's mean is
            not known.
        NumericalError: if the decoder's output is not finite.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> sample(VAE((8, 8), latent_dim=2), 5).x.shape
        torch.Size([5, 8, 8])
    """
    if num < 1:
        raise UsageError(f"num must be at least 1, got {num}")
    inputs = inputs_of(vae, num, inputs, c)
    with evaluation_mode(vae):
        tiles = [_sample_tile(vae, inputs, start, seed) for start in range(0, num, _TILE)]
    latents = {name: torch.cat([tile.latents[name] for tile in tiles])[:num] for name in tiles[0].latents}
    return Generated(latents, *(torch.cat([getattr(tile, name) for tile in tiles])[:num] for name in ("mean", "x")))


def _sample_tile(vae: Autoencoder, inputs: Mapping[str, Tensor], start: int, seed: int) -> Generated:
    """`_TILE` draws; x is drawn by hand, once its distribution is known to be in order."""
    weights = next(vae.parameters())
    blank = torch.zeros(_TILE, *vae.shapes.event, dtype=weights.dtype, device=weights.device)
    with seeded(seed, "sample", start):
        given = _on(weights.device, inputs, start)
        sites = _sites(poutine.condition(vae.model, given), blank, **given)
        likelihood = sites.pop("x")["fn"]
        _check_given({name: sites[name] for name in given if name in sites})
        mean = vae.likelihood.best(averages_of(vae, likelihood)).cpu()
        latents = {name: site["value"].cpu() for name, site in sites.items() if not site["is_observed"]}
        return Generated(latents, mean, likelihood.sample().cpu())


def _check_given(sites: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse values that their sites can't have."""
    for name, site in sites.items():
        possible = site["fn"].support.check(site["value"])
        if not possible.all():
            came = site["value"][~possible][0].tolist()
            raise UsageError(f"{name}: expected values of {site['fn'].support}, got {came}")


@isolated
@checked
def reconstruct(
    vae: Autoencoder,
    x: Tensor,
    mask: Tensor | None = None,
    num_particles: int = 1,
    seed: int = 0,
    c: Tensor | None = None,
    **inputs: Tensor,
) -> Tensor:
    r"""Reconstruct data through their codes.

    .. math:: \hat x = \frac1K \sum_{k=1}^K E[x|z_k], \qquad z_k \sim q(z|x)

    Of a category (`Mixed`) it is the class whose probability is highest on average over the codes.

    With a mask the elements that are not observed are filled in from the others. The result is a function of
    `(x, mask, num_particles, seed)`, and does not depend on the data that follow. Evaluation mode; the caller's
    generators are left alone.

    Args:
        vae: the VAE, or any other `Autoencoder`; left as it is.
        x: data `[N, *event]`; any value, also nan, where not observed.
        mask: True where an element of `x` is observed, broadcastable to `x`; None where all are.
        num_particles: K, draws of the code for each datum, at least 1.
        seed: seed of the draws.
        c: the context of a conditional VAE, `[N, *context]` or `[*context]`.
        **inputs: what else the programs are to be given by name, `[N, ...]`.

    Returns:
        The reconstructions, `[N, *event]`, on the CPU.

    Raises:
        UsageError: if `num_particles` is below 1, the mask does not fit, or the likelihood's mean is not known.
        DataError: if the data have another shape than the VAE's, or there are none.
        NumericalError: if the decoder's output is not finite.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> reconstruct(VAE((8, 8), latent_dim=2), torch.zeros(5, 8, 8), num_particles=3).shape
        torch.Size([5, 8, 8])
    """
    _check(vae, x, num_particles)
    observed = {} if mask is None else {"mask": fitted_mask(mask, x)}
    inputs = {"x": x, **observed, **inputs_of(vae, len(x), inputs, c)}
    with evaluation_mode(vae):
        return torch.cat(
            [
                _reconstruct_tile(vae, inputs, start, num_particles, seed)[: len(x) - start]
                for start in range(0, len(x), _TILE)
            ]
        )


def _reconstruct_tile(
    vae: Autoencoder, inputs: Mapping[str, Tensor], start: int, num_particles: int, seed: int
) -> Tensor:
    """The reconstructions of one tile: the model run on each of the guide's draws."""
    given = _on(next(vae.parameters()).device, inputs, start)

    def particle(k: int) -> Tensor:
        with seeded(seed, "reconstruct", start, k):
            drawn = {name: site["value"] for name, site in _sites(vae.guide, **given).items()}
            return averages_of(vae, _sites(poutine.condition(vae.model, data=drawn), **given)["x"]["fn"])

    averages = reduce(torch.add, map(particle, range(num_particles))) / num_particles
    return vae.likelihood.best(averages).cpu()


def _sites(program: Any, *args: Tensor, **kwargs: Tensor) -> dict[str, Any]:
    """The sample sites of one run of a program, by name."""
    return sample_sites(poutine.trace(program).get_trace(*args, **kwargs))


@isolated
@checked
def manifold(vae: Autoencoder, side: int = 20, margin: float = 0.05, c: Tensor | None = None) -> Tensor:
    r"""Decode a grid over a two-dimensional latent space.

    .. math:: x_{rc} = E[x | z_{rc}], \qquad z_{rc} = (\Phi^{-1}(u_c), \Phi^{-1}(u_{side-1-r}))

    with u evenly spaced from `margin` to `1 - margin` and Phi the distribution function of the standard normal, so that
    tiles are spread as the standard normal prior spreads its draws. Rows run from top to bottom, in descending second
    coordinate; columns from left to right, in ascending first coordinate.

    Args:
        vae: a `VAE` with `latent_dim=2`, or another `Autoencoder` with a `code_site` of 2 dimensions; left as it is.
        side: tiles along each side, at least 2.
        margin: probability left out on each side, between 0 and 0.5.
        c: the context of a conditional VAE, `[*context]`, the same for all tiles.

    Returns:
        The decoder's means, `[side, side, *event]`, on the CPU.

    Raises:
        UsageError: if the latent space is not two-dimensional, or `side` or `margin` is out of range.
        NumericalError: if the decoder's output is not finite.

    References:
        Kingma & Welling 2013, Auto-encoding variational Bayes, figure 4.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> manifold(VAE((8, 8), latent_dim=2), side=3).shape
        torch.Size([3, 3, 8, 8])
    """
    if vae.code_site is None or vae.shapes.latent != 2:
        found = vae.shapes.latent if vae.code_site is not None else f"a {type(vae).__name__}"
        raise UsageError(f"a manifold needs a VAE with latent_dim=2, got {found}: train one, or use sample")
    if side < 2 or not 0 < margin < 0.5:
        dashes = spoken("", "--")
        raise UsageError(f"manifold needs {dashes}side >= 2 and 0 < margin < 0.5, got side {side} and margin {margin}")
    quantiles = torch.special.ndtri(torch.linspace(margin, 1 - margin, side, dtype=torch.float64))
    second, first = torch.meshgrid(quantiles.flip(0), quantiles, indexing="ij")
    z = torch.stack([first, second], -1).reshape(-1, 2).to(next(vae.parameters()))
    with evaluation_mode(vae):
        given = None if c is None else c.to(z.device)
        averages = (averages_of(vae, vae.decode(tile, given)) for tile in z.split(_TILE))
        means = torch.cat([vae.likelihood.best(of_tile).cpu() for of_tile in averages])
    return means.reshape(side, side, *vae.shapes.event)


def _check(vae: Autoencoder, x: Tensor, num_particles: int) -> None:
    if tuple(x.shape[1:]) != vae.shapes.event or len(x) == 0:
        raise DataError(f"x: expected shape [N >= 1, {', '.join(map(str, vae.shapes.event))}], got {list(x.shape)}")
    if num_particles < 1:
        raise UsageError(f"num_particles must be at least 1, got {num_particles}")


def fitted_mask(mask: Tensor, x: Tensor) -> Tensor:
    """The mask, `[N, *event]`."""
    try:
        fitted = mask.expand(x.shape)
    except RuntimeError as error:
        raise UsageError(f"mask: expected a shape broadcastable to {list(x.shape)}, got {list(mask.shape)}") from error
    if mask.dtype != torch.bool:
        raise UsageError(f"mask: expected bool (True where observed), got {mask.dtype}: convert it with .bool()")
    return fitted


def inputs_of(vae: Autoencoder, num: int, inputs: Mapping[str, Tensor], c: Tensor | None) -> dict[str, Tensor]:
    """The inputs of the programs in addition to x, by name, `[num, ...]`."""
    for name, value in inputs.items():
        if len(value) != num:
            raise UsageError(f"{name}: expected one for each of {num} data, got {list(value.shape)}")
    return {**inputs, **({} if c is None else {"c": _for_each(c, num, vae)})}


def _on(device: torch.device, inputs: Mapping[str, Tensor], start: int) -> dict[str, Tensor]:
    """A tile of each, on the device."""
    return {name: _tile(value, start).to(device) for name, value in inputs.items()}


def _for_each(c: Tensor, num: int, vae: Autoencoder) -> Tensor:
    """The context of each datum, `[num, *context]`."""
    shape = vae.shapes.context
    if shape is None:
        raise UsageError("this VAE takes no context: make it with VAE(..., context=shape)")
    try:
        return c.expand(num, *shape)
    except RuntimeError as error:
        expected = f"{list(shape)} or {[num, *shape]}"
        raise UsageError(f"c: expected shape {expected}, got {list(c.shape)}") from error


def _tile(a: Tensor, start: int) -> Tensor:
    """A tile, filled up with its last datum: the noise of a datum must not depend on how many follow it."""
    tile = a[start : start + _TILE]
    return torch.cat([tile, tile[-1:].expand(_TILE - len(tile), *tile.shape[1:])])


def averages_of(vae: Autoencoder, likelihood: torch.distributions.Distribution) -> Tensor:
    """What is averaged over codes to report x: E[x|z], or the numbers that the likelihood takes in its place."""
    return mean_of(likelihood, vae.likelihood.averaged)


def mean_of(
    likelihood: torch.distributions.Distribution, averaged: Callable[[Any], Tensor] = attrgetter("mean")
) -> Tensor:
    """E[x|z], `[*leading, *event]`, or other averages."""
    try:
        mean = averaged(likelihood)
    except NotImplementedError as error:
        base = getattr(likelihood, "base_dist", likelihood)
        raise UsageError(
            f"p(x|z) is a {type(base).__name__}, whose mean is not known in closed form: give the distribution a `mean`"
        ) from error
    if not mean.isfinite().all():
        raise NumericalError("the decoder's mean E[x|z] is not finite: look at its weights and at its input")
    return mean


def variance_of(likelihood: torch.distributions.Distribution) -> Tensor:
    """Var[x|z]; where no closed form is known, the squared distance of a draw from the mean, which is so on average."""
    try:
        return likelihood.variance
    except NotImplementedError:
        return (likelihood.sample() - mean_of(likelihood)).square()
