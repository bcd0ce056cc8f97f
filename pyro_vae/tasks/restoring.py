"""`restore`: x given what was observed of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

from pyro_vae.arguments.checked import checked, tensor
from pyro_vae.arguments.values import choice
from pyro_vae.channels import Channel, Jointly, NotExactError, Through, check_observed, through
from pyro_vae.errors import DataError, UsageError
from pyro_vae.evidence import Evidence, log_marginal
from pyro_vae.inference.best_member import Search
from pyro_vae.inference.hamiltonian import HMC
from pyro_vae.inference.members import WithMembers, refined_params
from pyro_vae.inference.posteriors import Posterior, posterior
from pyro_vae.inference.programs import evaluation_mode, takes
from pyro_vae.inference.tiles import TILE_DATA, pieces
from pyro_vae.inference.weighing import importance, sites_at
from pyro_vae.process.isolation import isolated
from pyro_vae.process.seeding import seeded
from pyro_vae.tasks.chains import CHAIN_DATA, Chains, chain_length, hamiltonian_chains, rows_of
from pyro_vae.tasks.generation import mean_of, variance_of
from pyro_vae.tasks.gibbs import metropolis_within_gibbs
from pyro_vae.tasks.restored import METHODS, Restored

Method = Literal["auto", "encoder", "refined", "gibbs", "hmc"]
_PIECE = 25
"""Draws of z that x is drawn from in one run of the model; each piece of draws and data has its own random stream."""


@isolated
@checked
def restore(
    vae: Any,
    y: Tensor,
    channel: Channel,
    num_draws: int = 100,
    num_particles: int = 1000,
    mask: Tensor | None = None,
    truth: Tensor | None = None,
    method: Method = "auto",
    search: Search | None = None,
    hmc: HMC | None = None,
    seed: int = 0,
    progress: Callable[[str, int], object] | None = None,
    **inputs: Tensor,
) -> Restored:
    r"""Draw x given y, what was observed of it through a channel: denoise, impute, in-paint, sharpen.

    .. math:: p(x|y) = \int p(x|y, z) \, p(z|y) \, dz, \qquad p(z|y) \propto p(z) \, p(y|z)

    No network is trained for it: restoring is conditioning. z given y is drawn in up to three ways, each for the data
    that the one before is not healthy for (Pareto's k above its threshold):

    1. `"encoder"`: K draws of q(z| a fill-in of y), weighed and resampled (PSIS);
    2. `"refined"`: the same with q's parameters refined for the datum, by its ELBO log p(y) >= ...;
    3. `"hmc"`: Hamiltonian Monte Carlo from draws of the refined q; healthy by R-hat and effective size.

    The result says which was used, and flags data for which none was healthy. Then x ~ p(x|y, z) is exact.

    Where the channel has no exact p(y|z), but a density p(y|x) of each element, x is drawn together with z, and the
    second way is `"gibbs"`: Metropolis-within-Gibbs, z ~ q(z|x) and x ~ p(x|z) in turn, each accepted or not (Mattei &
    Frellsen 2018); healthy by R-hat and effective size. `"encoder"` and, for real x, `"hmc"` are then over (z, x).

    Args:
        vae: an `Autoencoder`, or another module with programs `model` and `guide` whose observed site is `"x"`.
        y: observations `[N, *observed]`; nan where an element was not observed.
        channel: p(y|x), e.g. `Missing()`, `BitFlip(0.1)`.
        num_draws: draws of x for each datum.
        num_particles: K, draws of the guide that are weighed.
        mask: True where an element of y was observed, in place of nan.
        truth: x itself, `[N, *event]`, to compare with, nan where it is not known; it is not used to restore.
        method: `"auto"` for them in turn, or one of them.
        search: how q is refined; None for `Search(max_steps=500)`.
        hmc: settings of Hamiltonian Monte Carlo; None for `HMC()`.
        seed: seed of all draws. Which data go on to the next method depends on all data; what each gives does on them.
        progress: called with the method at work and the number of data done.
        **inputs: tensors with the data in front that both programs take by name, e.g. `c`.

    Returns:
        A `Restored`, on the CPU.

    Raises:
        UsageError: if an option is out of range, or the channel has neither an exact p(y|z) for this likelihood nor a
            density p(y|x).
        DataError: if the observations do not fit the channel, or the truth the model.

    References:
        Kingma & Welling 2013 (marginal inference of x). Mattei & Frellsen 2018, Leveraging the exact likelihood of deep
        latent variable models. Vehtari et al. 2024, Pareto smoothed importance sampling.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> from pyro_vae.channels import Missing
        >>> y = torch.tensor([[1.0, torch.nan, 0.0, torch.nan]])
        >>> restore(VAE((4,), latent_dim=2), y, Missing(), num_draws=10).draws.shape
        torch.Size([10, 1, 4])
    """
    pair: Any = through(vae, channel)
    y = with_gaps(y, mask)
    check_observed(pair, y)
    pair = pair if (reason := not_exact(pair, y, inputs)) is None else _jointly(pair, y, reason)
    _check(pair, y, truth, num_draws, num_particles, method)
    settings = _Settings(num_draws, num_particles, search or Search(max_steps=500), hmc or HMC(), seed)
    found = _codes(pair, y, inputs, settings, method, progress or (lambda method, done: None))
    draws, mean, sd = _draws_of_x(pair, y, found, inputs, seed)
    known = channel.known(y, pair.event_shape).cpu()
    restored = Restored(draws, mean, sd, known=known, channel=channel, seed=seed, **vars(found))
    return restored if truth is None else _compared(restored, vae, pair, y, truth, settings, inputs)


def with_gaps(y: Any, mask: Tensor | None) -> Tensor:
    """Observations with nan where the mask is False.

    Raises:
        DataError: if the mask has another shape.
    """
    y = tensor("y", y)
    y = y if y.is_floating_point() else y.to(torch.get_default_dtype())
    if mask is None:
        return y
    if mask.dtype != torch.bool or mask.shape[1:] != y.shape[1:] or len(mask) not in (1, len(y)):
        raise DataError(f"mask: expected bool of shape {list(y.shape)}, got {mask.dtype} of {list(mask.shape)}")
    return torch.where(mask.to(y.device), y, torch.nan)


def not_exact(pair: Through, y: Tensor, inputs: Mapping[str, Any]) -> NotExactError | None:
    """Why there is no exact p(y|z); None if there is one."""
    given = {name: value[:1] for name, value in inputs.items()}
    try:
        with evaluation_mode(pair.model, pair.guide), seeded(0, "exact"):
            importance(pair.model, pair.guide, y[:1], num_particles=1, **given)
    except NotExactError as reason:
        return reason
    return None


def _jointly(pair: Through, y: Tensor, reason: NotExactError) -> Jointly:
    """The pair with x as a latent site too.

    Raises:
        NotExactError: the given one, if the channel does not say log p(y|x) of an element either.
    """
    try:
        pair.channel.log_density(torch.zeros_like(y[:1]), y.new_full((1, *pair.event_shape), pair.placeholder))
    except NotExactError:
        raise reason from None
    return Jointly(pair)


def _check(pair: Any, y: Tensor, truth: Tensor | None, num_draws: int, num_particles: int, method: str) -> None:
    choice("method", method, ("auto", *METHODS))
    if num_draws < 1 or num_particles < 1:
        raise UsageError(f"need num_draws and num_particles of at least 1, got {num_draws} and {num_particles}")
    if truth is not None and truth.shape != (len(y), *pair.event_shape):
        raise DataError(f"truth: expected shape {[len(y), *pair.event_shape]}, got {list(truth.shape)}")
    if (method == "gibbs") != isinstance(pair, Jointly) and method in ("gibbs", "refined"):
        exact = "there is no exact p(y|z)" if method == "refined" else "p(y|z) is known"
        raise UsageError(f"method {method!r} is not for this channel and likelihood, as {exact}: take 'auto'")
    if method == "refined" and pair.code_site is None:
        raise UsageError("method 'refined' needs a model with one continuous code, whose guide it refines: take 'hmc'")


@dataclass(frozen=True)
class _Settings:
    num_draws: int
    num_particles: int
    search: Search
    hmc: HMC
    seed: int


@dataclass(frozen=True, eq=False)
class _Codes:
    """Draws of z given y, and their health; columns as `Restored`'s."""

    latents: dict[str, Tensor]
    used: Tensor
    ess: Tensor
    pareto_k: Tensor
    flagged: Tensor
    log_p: Tensor
    log_p_standard_error: Tensor
    log_p_flagged: Tensor

    @classmethod
    def of(cls, drawn: Posterior, evidence: Evidence, method: str) -> Self:
        """From the draws and log p(y) of one method."""
        k = torch.full_like(drawn.ess, torch.nan) if drawn.pareto_k is None else drawn.pareto_k
        used = torch.full_like(k, METHODS.index(method), dtype=torch.long)
        log_p = evidence.log_p, evidence.standard_error, evidence.flagged
        return cls(dict(drawn.draws), used, drawn.ess, k, drawn.flagged, *log_p)

    def withrows_of(self, rows: Tensor, other: Self) -> Self:
        """These, with the given rows replaced."""
        latents = {name: value.index_copy(1, rows, other.latents[name]) for name, value in self.latents.items()}
        names = [name for name in vars(self) if name != "latents"]
        return replace(
            self, latents=latents, **{n: getattr(self, n).index_copy(0, rows, getattr(other, n)) for n in names}
        )

    def rows(self, rows: Tensor) -> Self:
        """Some rows."""
        latents = {name: value[:, rows] for name, value in self.latents.items()}
        names = [name for name in vars(self) if name != "latents"]
        return replace(self, latents=latents, **{n: getattr(self, n)[rows] for n in names})


def _codes(
    pair: Any,
    y: Tensor,
    inputs: Mapping[str, Any],
    how: _Settings,
    method: str,
    tell: Callable[[str, int], object],
) -> _Codes:
    """Draws of z given y, by the methods in turn."""
    found = _by_weights(pair, y, inputs, how, "encoder", tell)
    if method == "encoder":
        return found
    rows = found.flagged.nonzero().squeeze(-1) if method == "auto" else torch.arange(len(y))
    if len(rows) == 0:
        return found
    if isinstance(pair, Jointly):
        return _codes_and_x(pair, y, inputs, how, method, found, rows, tell)
    members: Any = pair
    given, some = rows_of(inputs, rows), y[rows.to(y.device)]
    if pair.code_site is not None:
        tell("refining", 0)
        given = {"params": refined_params(pair, some, how.search, how.seed, **given), **given}
        members = WithMembers(pair)
        better = _by_weights(members, some, given, how, "refined", tell)
        keep = ~(better.pareto_k > found.pareto_k[rows]) if method == "auto" else torch.ones(len(rows)).bool()
        found = found.withrows_of(rows[keep], better.rows(keep.nonzero().squeeze(-1)))
    left = found.flagged[rows] if method == "auto" else torch.full((len(rows),), method == "hmc")
    if not left.any() or not _is_continuous(found.latents):
        return found
    chosen = left.nonzero().squeeze(-1)
    given, rows = rows_of(given, chosen), rows[chosen]
    return found.withrows_of(rows, _by_hmc(members, y[rows.to(y.device)], given, found.rows(rows), how, tell))


def _codes_and_x(
    pair: Jointly,
    y: Tensor,
    inputs: Mapping[str, Any],
    how: _Settings,
    method: str,
    found: _Codes,
    rows: Tensor,
    tell: Callable[[str, int], object],
) -> _Codes:
    """The given rows by Metropolis-within-Gibbs, and those that are not healthy then by Hamiltonian Monte Carlo."""
    if method != "hmc":
        given, some = rows_of(inputs, rows), y[rows.to(y.device)]
        better = _by_gibbs(pair, some, given, found.rows(rows), how, tell)
        found, rows = found.withrows_of(rows, better), rows[better.flagged]
    if method == "gibbs" or len(rows) == 0 or not pair.is_real:
        return found
    given, some = rows_of(inputs, rows), y[rows.to(y.device)]
    by_hmc = _by_hmc(pair, some, given, found.rows(rows), how, tell)
    keep = (~by_hmc.flagged if method == "auto" else torch.ones(len(rows)).bool()).nonzero().squeeze(-1)
    return found.withrows_of(rows[keep], by_hmc.rows(keep))


def _by_gibbs(
    pair: Jointly,
    y: Tensor,
    inputs: Mapping[str, Any],
    before: _Codes,
    how: _Settings,
    tell: Callable[[str, int], object],
) -> _Codes:
    """Draws of chains over (x, z)."""

    def chains(y: Tensor, given: Mapping[str, Any], seed: int, tell: Callable[[int], object]) -> Chains:
        sizes = how.num_draws, how.hmc.num_chains, how.hmc.num_warmup, chain_length(how.hmc.num_chains)
        return metropolis_within_gibbs(pair, y, given, *sizes, seed, lambda share: tell(int(share * len(y))))

    return _by_chains(chains, "gibbs", y, inputs, before, how.seed, tell)


def _by_chains(
    chains: Callable[..., Chains],
    method: str,
    y: Tensor,
    inputs: Mapping[str, Any],
    before: _Codes,
    seed: int,
    tell: Callable[[str, int], object],
) -> _Codes:
    """Draws of chains, for so many data at a time; log p(y) stays that of the weights, with its flag."""
    parts = []
    for start in range(0, len(y), CHAIN_DATA):
        part = slice(start, start + CHAIN_DATA)
        parts.append(chains(y[part], rows_of(inputs, part), seed + start, lambda done, s=start: tell(method, s + done)))
    joined = {name: torch.cat([part.latents[name] for part in parts], 1) for name in parts[0].latents}
    none, used = torch.full_like(before.pareto_k, torch.nan), torch.full_like(before.used, METHODS.index(method))
    ess, flagged = (torch.cat([getattr(part, name) for part in parts]) for name in ("ess", "flagged"))
    return replace(before, latents=joined, used=used, ess=ess.to(before.ess), pareto_k=none, flagged=flagged)


def _by_weights(
    pair: Any, y: Tensor, inputs: Mapping[str, Any], how: _Settings, method: str, tell: Callable[[str, int], object]
) -> _Codes:
    """Weighed draws of the guide, resampled, and log p(y) from the same weights."""
    sampling: dict[str, Any] = {"num_particles": how.num_particles, "seed": how.seed, **inputs}
    drawn = posterior(
        pair.model, pair.guide, y, num_draws=how.num_draws, progress=lambda done: tell(method, done), **sampling
    )
    return _Codes.of(drawn, log_marginal(pair.model, pair.guide, y, **sampling), method)


def _by_hmc(
    pair: Any,
    y: Tensor,
    inputs: Mapping[str, Any],
    before: _Codes,
    how: _Settings,
    tell: Callable[[str, int], object],
) -> _Codes:
    """Draws of Hamiltonian chains over the latent sites, evenly spread over them."""

    def chains(y: Tensor, given: Mapping[str, Any], seed: int, tell: Callable[[int], object]) -> Chains:
        return hamiltonian_chains(pair, y, given, how.num_draws, how.hmc, seed, tell)

    return _by_chains(chains, "hmc", y, inputs, before, how.seed, tell)


def _is_continuous(latents: Mapping[str, Tensor]) -> bool:
    return all(value.is_floating_point() for value in latents.values())


def _draws_of_x(
    pair: Any, y: Tensor, found: _Codes, inputs: Mapping[str, Any], seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws of x given z and y; those at hand, if x was drawn with z."""
    if not isinstance(pair, Jointly):
        return _draw_x(pair, y, found.latents, inputs, seed)
    draws = found.latents.pop("x")
    return draws, draws.double().mean(0).to(draws), draws.double().std(0, correction=0).to(draws)


def _draw_x(
    pair: Through, y: Tensor, latents: Mapping[str, Tensor], inputs: Mapping[str, Any], seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws of x, its mean and its standard deviation, tile by tile."""
    tiles = []
    with evaluation_mode(pair.model):
        for start in range(0, len(y), TILE_DATA):
            rows = slice(start, start + TILE_DATA)
            tile = {name: value[:, rows].to(y.device) for name, value in latents.items()}
            tiles.append(_tile(pair, y[rows], tile, rows_of(inputs, rows), start, seed))
    draws, mean, variance = zip(*tiles, strict=True)
    return torch.cat(draws, 1), torch.cat(mean), torch.cat(variance).clamp(min=0).sqrt()


def _tile(
    pair: Through, y: Tensor, latents: Mapping[str, Tensor], inputs: Mapping[str, Any], start: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Of some data: draws of x, the mean of its means, and the mean of its variances and the variance of its means."""
    draws, means, variances = [], [], []
    for first, piece in enumerate(pieces(latents, _PIECE)):
        with seeded(seed, "restore", start, first):
            site = sites_at(pair.model, piece, y, **inputs)[pair.site]
            p = site["fn"].restored(y.to(_floats(piece)))
            draws.append(p.sample().cpu())
            means.append(mean_of(p).double().cpu())
            variances.append(variance_of(p).double().cpu())
    mean, drawn = torch.cat(means), torch.cat(draws)
    variance = torch.cat(variances).mean(0) + mean.var(0, correction=0)
    return drawn, mean.mean(0).to(drawn.dtype), variance.to(drawn.dtype)


def _floats(latents: Mapping[str, Tensor]) -> torch.dtype:
    found = [value.dtype for value in latents.values() if value.is_floating_point()]
    return found[0] if found else torch.get_default_dtype()


def _compared(
    restored: Restored,
    vae: Any,
    pair: Through,
    y: Tensor,
    truth: Tensor,
    how: _Settings,
    inputs: Mapping[str, Any],
) -> Restored:
    """With the truth, and log p(x|y) = log p(x) + log p(y|x) - log p(y)."""
    truth = truth.to(y)
    restored, given = replace(restored, truth=truth.cpu()), dict(inputs)
    if (unknown := truth.isnan()).any():
        if not _can_leave_out(vae, unknown, y):
            return restored
        truth, given = truth.masked_fill(unknown, pair.placeholder), {**given, "mask": ~unknown}
    try:
        of_y = pair.channel.log_likelihood(y, truth).double().cpu()
    except NotExactError:
        return restored
    of_x = log_marginal(vae.model, vae.guide, truth, num_particles=how.num_particles, seed=how.seed, **given)
    error = (of_x.standard_error.square() + restored.log_p_standard_error.square()).sqrt()
    found = of_x.log_p + of_y - restored.log_p
    return replace(restored, log_p_truth=found, log_p_truth_standard_error=error)


def _can_leave_out(vae: Any, unknown: Tensor, y: Tensor) -> bool:
    """Whether log p(y|x) and log p(x) are defined without these elements of x: y says nothing of them either."""
    return takes(vae.model, "mask") and unknown.shape == y.shape and bool(y[unknown].isnan().all())
