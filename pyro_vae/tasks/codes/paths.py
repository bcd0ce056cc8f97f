"""`interpolate`: paths between codes, straight, spherical, or shortest in the decoder's metric."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_vae.arguments.checked import checked
from pyro_vae.arguments.remedies import spoken
from pyro_vae.autoencoders import Autoencoder
from pyro_vae.errors import UsageError
from pyro_vae.evidence import log_marginal
from pyro_vae.inference.programs import evaluation_mode
from pyro_vae.process.isolation import isolated
from pyro_vae.process.seeding import seeded
from pyro_vae.statistics.averages import Averaged
from pyro_vae.tasks.codes.curves import Bent, Curve, Spherical, Straight
from pyro_vae.tasks.codes.decoding import context_of, decoded, mean_map
from pyro_vae.tasks.codes.geodesics import lengths, shortest, unevenness

Kind = Literal["straight", "spherical", "geodesic"]
KINDS = ("straight", "spherical", "geodesic")
_UNEVEN = 0.05
"""Largest relative variation of the speed along a path that counts as a geodesic."""


@dataclass(frozen=True, eq=False)
class Paths:
    r"""Paths between pairs of codes.

    Args:
        kind: straight | spherical | geodesic.
        z: the codes along each path, `[P, S, latent]`, double precision, at even times.
        x: E[x|z], `[P, S, *event]`.
        length: of each path in the decoder's metric, `[P]`: how far E[x|z] travels, in the units of x.
        straight_length: that of the straight path, `[P]`.
        unevenness: relative standard deviation of the speed of E[x|z] along each path, `[P]`; 0 for a geodesic.
        log_p: log p(x) of a draw x ~ p(x|z) at each code, `[P S]`, path after path, nats; None if not asked for.
        seed: of the draws.
    """

    kind: str
    z: Tensor
    x: Tensor
    length: Tensor
    straight_length: Tensor
    unevenness: Tensor
    log_p: Averaged | None = None
    seed: int = 0

    @property
    def flagged(self) -> Tensor:
        """Which paths were to be geodesics and are not: the speed varies by more than 5 %, `[P]` bool."""
        return (self.unevenness > _UNEVEN) if self.kind == "geodesic" else torch.zeros(len(self), dtype=torch.bool)

    @property
    def mean_log_p(self) -> Averaged | None:
        """The mean along each path of log p(x), `[P]`, nats, with the Monte Carlo errors."""
        if self.log_p is None:
            return None
        values = self.log_p.values.reshape(len(self), -1)
        errors = self.log_p.standard_errors.reshape(len(self), -1).square().sum(1).sqrt() / values.shape[1]
        return Averaged(values.mean(1), errors)

    def __len__(self) -> int:
        return len(self.z)

    def __repr__(self) -> str:
        length = f"mean length {self.length.mean():.4g} (straight {self.straight_length.mean():.4g})"
        log_p = "" if self.mean_log_p is None else f", mean log p(x) {self.mean_log_p} nats"
        flags = f", {int(self.flagged.sum())} flagged" if self.kind == "geodesic" else ""
        return f"Paths({len(self)} {self.kind}, {length}{log_p}{flags})"


@isolated
@checked
def interpolate(
    vae: Autoencoder,
    start: Tensor,
    end: Tensor,
    kind: Kind = "straight",
    *,
    steps: int = 10,
    bends: int = 8,
    num_particles: int | None = None,
    seed: int = 0,
    c: Tensor | None = None,
) -> Paths:
    r"""Paths between codes, and what they decode to.

    - `"straight"`: z(t) = z0 + t (z1 - z0).
    - `"spherical"`: the angle between z0 and z1 grows evenly. In many dimensions draws of N(0, I) lie near a sphere,
      and this path stays there, where the straight one passes through lengths that are rare.
    - `"geodesic"`: the shortest path in the metric that the decoder's mean f(z) = E[x|z] pulls back to codes. It
      minimises the energy over curves z(t) with ends held, a straight line plus t (1 - t) times a polynomial:

    .. math:: L[z] = \int_0^1 |J_f(z(t)) \, \dot z(t)| \, dt, \qquad
        E[z] = \frac12 \int_0^1 |J_f(z(t)) \, \dot z(t)|^2 dt

    The velocity J dz/dt is one forward-mode derivative (`torch.func.jvp`) of t -> f(z(t)), at 32 Gauss-Legendre points,
    for all pairs at once, in double precision. A path of least energy has even speed: `unevenness` says how near it is.
    It may be a local minimum. The metric is Euclidean in x and of the mean alone: it does not know where data are, and
    may cross regions without codes; `log_p` says what such a path is worth.

    Args:
        vae: a model with a `code_site`, e.g. a `VAE`; left as it is.
        start: z0, `[P, latent]`, e.g. `encode_data(vae, x).codes`.
        end: z1, `[P, latent]`.
        kind: straight | spherical | geodesic.
        steps: S, codes on each path with both ends, at least 2.
        bends: degrees of freedom of a geodesic for each coordinate, at least 1.
        num_particles: K of the importance sampling of log p(x) of a draw at each code; None to leave it out.
        seed: seed of the draws.
        c: the context of a conditional model, `[*context]`, the same for all paths.

    Returns:
        `Paths`, on the CPU.

    Raises:
        UsageError: if the model has no single continuous code, the codes do not fit, or an option is out of range.
        NumericalError: if the decoder's output is not finite.

    References:
        White 2016, Sampling generative networks (spherical). Arvanitidis et al. 2018, Latent space oddity. Shao et al.
        2018, The Riemannian geometry of deep generative models.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> paths = interpolate(VAE((8, 8), latent_dim=2), torch.zeros(3, 2), torch.ones(3, 2), "geodesic")
        >>> paths.x.shape, bool((paths.length <= paths.straight_length + 1e-6).all())
        (torch.Size([3, 10, 8, 8]), True)
    """
    z0, z1 = _ends(vae, start, end)
    _check(kind, steps, bends, num_particles)
    given = context_of(vae, c, 0)
    with evaluation_mode(vae):
        mean, straight = mean_map(vae, given), Straight(z0, z1)
        curve = _curve(kind, mean, z0, z1, bends)
        z = curve(torch.linspace(0, 1, steps, dtype=torch.float64, device=z0.device)).transpose(0, 1)
        length, of_straight = lengths(mean, curve).cpu(), lengths(mean, straight).cpu()
        uneven = unevenness(mean, curve).cpu()
        found = Paths(kind, z.cpu(), decoded(vae, z, given), length, of_straight, uneven, seed=seed)
    return found if num_particles is None else replace(found, log_p=_log_p(vae, found, num_particles, seed, given))


def _curve(kind: str, mean: Callable[[Tensor], Tensor], z0: Tensor, z1: Tensor, bends: int) -> Curve:
    if kind == "geodesic":
        return shortest(mean, Bent.straight(z0, z1, bends))
    return Straight(z0, z1) if kind == "straight" else Spherical(z0, z1)


def _log_p(vae: Autoencoder, paths: Paths, num_particles: int, seed: int, c: Tensor | None) -> Averaged:
    """Of a draw x ~ p(x|z) at each code."""
    z = paths.z.flatten(0, 1).to(next(vae.parameters()))
    with evaluation_mode(vae), seeded(seed, "interpolate"):
        x = vae.decode(z, c).sample()
    given: dict[str, Any] = {} if c is None else {"c": c.expand(len(x), *c.shape)}
    found = log_marginal(vae.model, vae.guide, x, num_particles=num_particles, seed=seed, **given)
    return Averaged(found.log_p, found.standard_error)


def _ends(vae: Autoencoder, start: Any, end: Any) -> tuple[Tensor, Tensor]:
    if vae.code_site is None:
        raise UsageError(f"interpolate needs the code z of a model with one latent site, got a {type(vae).__name__}")
    z0, z1 = torch.as_tensor(start), torch.as_tensor(end)
    expected = (len(z0) if z0.dim() else 0, vae.shapes.latent)
    if z0.shape != expected or z1.shape != expected or len(z0) == 0:
        raise UsageError(
            f"start and end: expected codes [P >= 1, {vae.shapes.latent}] each, got {list(z0.shape)} and "
            f"{list(z1.shape)}"
        )
    if not (z0.isfinite().all() and z1.isfinite().all()):
        raise UsageError("start and end: expected finite codes")
    device = next(vae.parameters()).device
    return z0.detach().to(device).double(), z1.detach().to(device).double()


def _check(kind: str, steps: int, bends: int, num_particles: int | None) -> None:
    if kind not in KINDS:
        raise UsageError(f"unknown kind {kind!r}: choose one of {', '.join(KINDS)}")
    if steps < 2 or bends < 1 or (num_particles is not None and num_particles < 1):
        dashes = spoken("", "--")
        raise UsageError(
            f"need {dashes}steps >= 2, {dashes}bends >= 1 and {dashes}num_particles >= 1, got {steps}, {bends} and "
            f"{num_particles}"
        )
