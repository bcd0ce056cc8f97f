"""A Pyro pair at given data as log-densities of one flat, unconstrained real vector for each datum, for samplers.

Every log-density includes the Jacobian of the map from the real vector to the latent sites' supports, so its integral
over the vector equals that of the program over its latent sites.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from math import prod
from typing import Any, Self

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.transforms import ComposeTransform, IndependentTransform, Transform

from pyro_vae.errors import DataError, UsageError
from pyro_vae.inference.programs import Called, Program, evaluation_mode
from pyro_vae.inference.sites import flattened, in_order, is_discrete
from pyro_vae.inference.tiles import TILE_DATA, padded
from pyro_vae.inference.weighing import log_density, propose, sites_at, weigh
from pyro_vae.process.isolation import isolated
from pyro_vae.process.seeding import seeded


class Target:
    r"""The densities of a (model, guide) pair at given data, over a real vector z of `size` numbers for each datum.

    .. math:: \log p(x, z) = \log p(x, l(z)) + \log |\det l'(z)|

    with l the map from z to the latent sites, in the order in which the model draws them: torch's `biject_to` of each
    site's support in the model (the identity for real numbers). Programs run in evaluation mode; z gets gradients.

    Args:
        model: Pyro program of p(x, z), with one data plate at dimension -1 and continuous latent sites.
        guide: Pyro program of q(z|x), with the model's latent sites in the same plate.
        x: data `[N, *event]`.
        *args: further tensors with the data in front, passed to both programs.
        max_plate_nesting: number of plate dimensions the programs use.
        **inputs: tensors with the data in front that both programs take by name, e.g. `c`.

    Raises:
        DataError: if there are no data, or an input does not have one row for each datum.
        UsageError: if a latent site is discrete, its support depends on another site, or no bijection to it is known.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> target = Target(vae.model, vae.guide, torch.ones(3, 4))
        >>> z, log_q = target.draw_guide(7)
        >>> z.shape, target.log_joint(z).shape
        (torch.Size([7, 3, 2]), torch.Size([7, 3]))
    """

    @isolated
    def __init__(
        self, model: Program, guide: Program, x: Tensor, *args: Any, max_plate_nesting: int = 1, **inputs: Tensor
    ) -> None:
        self.model, self.guide = Called(model, list(inputs)), Called(guide, list(inputs))
        self.data: tuple[Tensor, ...] = (x, *args, *inputs.values())
        _check_rows(self.data)
        self.nesting, self.num_data = max_plate_nesting, len(x)
        self.sites = self._find_sites()
        self.size = sum(site.size for site in self.sites)

    def flat(self, latents: Mapping[str, Tensor]) -> Tensor:
        """The vectors z of latents; the inverse of `latents`.

        Args:
            latents: values by site name, `[S, N, *event]`, with inner plates between S and N.

        Returns:
            `[S, N, size]`.

        Raises:
            UsageError: if a site is missing.
        """
        missing = [site.name for site in self.sites if site.name not in latents]
        if missing:
            raise UsageError(f"latents: expected {[site.name for site in self.sites]}, got {list(latents)}")
        free = {site.name: site.free(latents[site.name]) for site in self.sites}
        return flattened(free, free, self.nesting)

    def latents(self, z: Tensor) -> dict[str, Tensor]:
        """The latents of vectors `[S, N, size]`, by site name, `[S, N, *event]`."""
        return self._split(z)[0]

    def log_likelihood(self, z: Tensor) -> Tensor:
        """Log p(x|z), `[S, N]`, nats."""
        return self.log_terms(z)[0]

    def log_prior(self, z: Tensor) -> Tensor:
        """Log p(z), `[S, N]`, nats."""
        return self.log_terms(z)[1]

    def log_joint(self, z: Tensor) -> Tensor:
        """Log p(x, z), `[S, N]`, nats."""
        log_likelihood, log_prior = self.log_terms(z)
        return log_likelihood + log_prior

    def log_terms(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """`(log p(x|z), log p(z))`, each `[S, N]`, nats, from one run of the model."""
        latents, log_det = self._split(z)
        with self._evaluated():
            log_likelihood, log_prior = weigh(self.model, latents, *self.data, max_plate_nesting=self.nesting)
        return log_likelihood.expand(z.shape[:2]), log_prior.expand(z.shape[:2]) + log_det

    def log_guide(self, z: Tensor) -> Tensor:
        """Log q(z|x), `[S, N]`, nats. It runs the guide with its encoder."""
        latents, log_det = self._split(z)
        with self._evaluated():
            sites = sites_at(self.guide, latents, *self.data, max_plate_nesting=self.nesting, role="guide")
            return log_density(sites.values(), self.nesting).expand(z.shape[:2]) + log_det

    def draw_guide(self, num: int, seed: int = 0, first: int = 0) -> tuple[Tensor, Tensor]:
        """Draws from q(z|x) and their log-densities. Those of a datum do not depend on the data after it.

        Args:
            num: draws for each datum.
            seed: seed of the draws; the caller's generators do not change.
            first: the position of the first datum in the whole set, a multiple of 50; part of the seeds.

        Returns:
            z `[num, N, size]` and log q(z|x) `[num, N]`, nats.
        """
        z, log_q = self._draw(self.guide, num, "draw guide", seed, first)
        return z, log_q + self._split(z)[1]

    def draw_prior(self, num: int, seed: int = 0, first: int = 0) -> Tensor:
        """Draws from p(z), `[num, N, size]`; arguments as for `draw_guide`."""
        return self._draw(self.model, num, "draw prior", seed, first)[0]

    def at(self, *data: Tensor) -> Self:
        """The same target with other data of the same shapes and supports, in any number."""
        other = copy(self)
        other.data, other.num_data = data, len(data[0])
        return other

    @property
    def is_same_for_all_data(self) -> bool:
        """Whether every site has the same support for all data."""
        origins = [site.origin.movedim(self.nesting, 0) for site in self.sites]
        return all(torch.equal(origin, origin[:1].expand_as(origin)) for origin in origins)

    def has_supports_of(self, other: "Target") -> bool:
        """Whether the sites of both targets have the same supports, and their data the same shapes and dtypes."""
        shapes = [(x.shape, x.dtype) for x in self.data] == [(x.shape, x.dtype) for x in other.data]
        return shapes and all(torch.equal(a.origin, b.origin) for a, b in zip(self.sites, other.sites, strict=True))

    def _draw(self, program: Program, num: int, name: str, seed: int, first: int) -> tuple[Tensor, Tensor]:
        """Draws of the latent sites, and the log-density of all sites of the program, in tiles of 50 data."""
        tiles = []
        for start in range(0, self.num_data, TILE_DATA):
            block = padded([x[start : start + TILE_DATA] for x in self.data])
            with self._evaluated(), torch.no_grad(), seeded(seed, name, first + start):
                tiles.append(propose(program, *block, num_particles=num, max_plate_nesting=self.nesting))
        names = [site.name for site in self.sites]
        latents = {name: torch.cat([tile.latents[name] for tile in tiles], self.nesting) for name in names}
        cut = {name: value.narrow(self.nesting, 0, self.num_data) for name, value in latents.items()}
        return self.flat(cut), torch.cat([tile.log_guide for tile in tiles], 1)[:, : self.num_data]

    def _split(self, z: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Latents by name, and the log-determinant of the map to them, `[S, N]`."""
        latents, log_det = {}, z.new_zeros(z.shape[:2])
        for site, part in zip(self.sites, z.split([site.size for site in self.sites], -1), strict=True):
            raw = part.reshape(*z.shape[:2], *site.shape).movedim(1, self.nesting)
            latents[site.name] = site.transform(raw)
            if not _is_identity(site.transform):
                each = site.transform.log_abs_det_jacobian(raw, latents[site.name]).movedim(self.nesting, 1)
                log_det = log_det + each.reshape(*z.shape[:2], -1).sum(-1)
        return latents, log_det

    def _find_sites(self) -> list["_Site"]:
        """The latent sites, from two draws: if a support differs between them, it depends on another site."""
        with self._evaluated(), torch.no_grad():
            first, second = (self._sites_of_draw(number) for number in range(2))
        for one, other in zip(first, second, strict=True):
            if (one.origin != other.origin).any():
                raise UsageError(
                    f"the support of site {one.name!r} depends on another latent site: the range of z would change "
                    "with z. Make it a function of a site with a fixed support, e.g. u ~ Uniform(0, 1), w = u * z"
                )
        return first

    def _sites_of_draw(self, number: int) -> list["_Site"]:
        with seeded(0, "structure", number):
            drawn = propose(self.guide, *self.data, num_particles=1, max_plate_nesting=self.nesting)
            found = sites_at(self.model, drawn.latents, *self.data, max_plate_nesting=self.nesting)
        return [
            _site(name, value, _transform(name, found[name]["fn"], drawn.sites[name]["fn"]), self.nesting)
            for name, value in in_order(drawn.latents, found).items()
        ]

    @contextmanager
    def _evaluated(self) -> Iterator[None]:
        """Evaluation mode; gradients are on if the caller has them on."""
        enabled = torch.is_grad_enabled()
        with evaluation_mode(self.model, self.guide), torch.set_grad_enabled(enabled):
            yield


@dataclass(frozen=True, eq=False)
class _Site:
    """A latent site.

    Args:
        name: its name.
        shape: shape of the unconstrained value of one datum, inner plates in front.
        transform: map from the unconstrained value to the site's support.
        origin: the transform of zero, `[1, *inner, N, *event]`; two supports are compared by it.
    """

    name: str
    shape: tuple[int, ...]
    transform: Transform
    origin: Tensor

    @property
    def size(self) -> int:
        return prod(self.shape)

    def free(self, value: Tensor) -> Tensor:
        """The unconstrained value of a value of the site."""
        free: Any = self.transform.inv(value)
        return free


def _site(name: str, value: Tensor, transform: Transform, nesting: int) -> _Site:
    free = torch.zeros(transform.inverse_shape(value.shape), dtype=value.dtype, device=value.device)
    origin: Any = transform(free)
    return _Site(name, tuple(free.movedim(nesting, 1).shape[2:]), transform, origin)


def _transform(name: str, model: Any, guide: Any) -> Transform:
    """The bijection from real numbers to the support of a site in the model, or, if none is known, in the guide."""
    if any(is_discrete(fn) for fn in (model, guide)):
        raise UsageError(
            f"latent site {name!r} is discrete, so there is no gradient. Sum over it in the model, or give "
            "its values as an input; log_marginal (importance sampling) accepts discrete sites"
        )
    for fn in (model, guide):
        try:
            return biject_to(_plain(fn.support))
        except NotImplementedError:
            continue
    raise UsageError(
        f"no bijection is known between the real numbers and the support of latent site {name!r} "
        f"({type(model).__name__}): give the distribution a `support` that torch.distributions.biject_to takes"
    )


def _plain(support: constraints.Constraint) -> constraints.Constraint:
    """The support of a mixture is that of its components."""
    return getattr(support, "base_constraint", support) if "MixtureSameFamily" in type(support).__name__ else support


def _is_identity(transform: Transform) -> bool:
    while isinstance(transform, IndependentTransform):
        transform = transform.base_transform
    return isinstance(transform, ComposeTransform) and not transform.parts


def _check_rows(data: tuple[Tensor, ...]) -> None:
    lengths = [len(tensor) for tensor in data]
    if lengths[0] == 0 or any(length != lengths[0] for length in lengths):
        raise DataError(f"expected data, and inputs with one row for each datum, got {lengths} rows")
