"""The ELBO with its KL treated differently. The value is the objective that is minimised; `History` has the ELBO."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import log
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from pyro_vae.errors import UsageError
from pyro_vae.inference.programs import Program
from pyro_vae.inference.weighing import Proposal, log_density, per_datum, sites_at
from pyro_vae.objectives.base import Objective
from pyro_vae.objectives.paths import draw_along_path
from pyro_vae.schedules import Schedule

Sites = Mapping[str, Any]


@dataclass(frozen=True)
class FreeBits(Objective):
    r"""The ELBO whose KL costs nothing below a number of nats.

    .. math:: E_q[-\log p(x|z)] + \sum_j \max(\lambda, KL_j)

    Below lambda the KL has no gradient, so a latent dimension is not switched off early for the few nats it would save.
    The KL is in closed form where torch knows one, else estimated from the draws; max of a noisy estimate is biased
    upwards. Scales on sites are ignored, masks count.

    Args:
        nats: lambda, not negative; a number, or a schedule. For each dimension, or for all together.
        per: `"dimension"`: j runs over the latent dimensions, for which both p(z) and q(z|x) must be elementwise (such
            as `DiagonalNormal` and `StandardNormal`); `"total"`: one KL of the whole code, for any pair.
        over: `"batch"`: KL_j is the mean over the batch, as published; this couples the rows, so a batch can't be
            shared out over processes. `"datum"`: each datum has its own.
        num_particles: draws of z for each datum, at least 1.
        max_plate_nesting: number of plate dimensions the programs use.

    Raises:
        UsageError: for an option out of range; if called while `nats` is a schedule, with a guide that is not
            reparameterised, or per dimension with distributions that have none.

    References:
        Kingma et al. 2016, Improving variational inference with inverse autoregressive flow, section C.8.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> FreeBits(nats=0.5)(vae.model, vae.guide, torch.ones(3, 4)).shape
        torch.Size([])
    """

    nats: float | Schedule = 0.25
    per: Literal["dimension", "total"] = "dimension"
    over: Literal["batch", "datum"] = "batch"
    num_particles: int = 1
    max_plate_nesting: int = 1

    def __post_init__(self) -> None:
        self._require(nats=0, num_particles=1)
        _check_choice(self, "per", ("dimension", "total"))
        _check_choice(self, "over", ("batch", "datum"))

    @property
    def is_bound(self) -> bool:
        """Only if `nats` is 0."""
        return self.nats == 0

    @property
    def couples_rows(self) -> bool:
        """If the KL is averaged over the batch."""
        return self.over == "batch"

    def __call__(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The loss, summed over the batch, nats."""
        nesting, nats = self.max_plate_nesting, self._number("nats")
        proposal, scored = _run(self, model, guide, *args, **kwargs)
        kl = _kl_of_dimensions if self.per == "dimension" else _kl_of_sites
        groups = kl(self, proposal.sites, scored)
        groups = groups if self.per == "dimension" else groups.sum(-1, keepdim=True)
        paid = _averaged(groups, self.over).clamp(min=nats).sum()
        return paid - _log_likelihood(proposal, scored, nesting).mean(0).sum()


@dataclass(frozen=True)
class CapacityELBO(Objective):
    r"""The ELBO whose KL is held near a capacity, which a schedule may let grow.

    .. math:: E_q[-\log p(x|z)] + \gamma \, |KL(q(z|x) \| p(z)) - C|

    The KL is in closed form where torch knows one, else estimated from the draws; the absolute value of a noisy
    estimate is biased upwards. Scales on sites are ignored, masks count.

    Args:
        gamma: weight of the distance, not negative.
        capacity: C in nats, not negative; a number, or a schedule (published: 0 to 25 over the training).
        over: `"datum"`: each datum's KL is held near C, as published; `"batch"`: their mean over the batch, as many
            implementations do; this couples the rows, so a batch can't be shared out over processes.
        num_particles: draws of z for each datum, at least 1.
        max_plate_nesting: number of plate dimensions the programs use.

    Raises:
        UsageError: for an option out of range; if called while `capacity` is a schedule, or with a guide that is not
            reparameterised.

    References:
        Burgess et al. 2018, Understanding disentangling in beta-VAE, eq. 8.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> CapacityELBO(gamma=100.0, capacity=5.0)(vae.model, vae.guide, torch.ones(3, 4)).shape
        torch.Size([])
    """

    gamma: float = 1000.0
    capacity: float | Schedule = 25.0
    over: Literal["datum", "batch"] = "datum"
    num_particles: int = 1
    max_plate_nesting: int = 1

    def __post_init__(self) -> None:
        self._require(gamma=0, capacity=0, num_particles=1)
        _check_choice(self, "over", ("datum", "batch"))

    @property
    def is_bound(self) -> bool:
        """Only where the KL is weighed by 1 from 0 on."""
        return self.gamma == 1 and self.capacity == 0

    @property
    def couples_rows(self) -> bool:
        """If the KL is averaged over the batch."""
        return self.over == "batch"

    def __call__(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The loss, summed over the batch, nats."""
        capacity = self._number("capacity")
        proposal, scored = _run(self, model, guide, *args, **kwargs)
        kl = _averaged(_kl_of_sites(self, proposal.sites, scored).sum(-1), self.over)
        distance = (kl - capacity).abs().sum()
        return self.gamma * distance - _log_likelihood(proposal, scored, self.max_plate_nesting).mean(0).sum()


@dataclass(frozen=True)
class BetaTC(Objective):
    r"""The ELBO with the KL in three parts, each with a weight: information, total correlation, dimensions' KL.

    .. math:: E_q[-\log p(x|z)] + \alpha \, E\left[\log \frac{q(z|x)}{q(z)}\right]
        + \beta \, E\left[\log \frac{q(z)}{\prod_j q(z_j)}\right]
        + \gamma \, E\left[\log \frac{\prod_j q(z_j)}{p(z)}\right], \quad q(z) = \frac1N \sum_n q(z|x_n)

    With all weights 1 it is the ELBO, draw for draw. q(z) of all N data is estimated from the batch of B at each of its
    draws z ~ q(z|x_i). `"stratified"` weighs the datum that z came from with 1/N and each other one with
    (N - 1) / (N (B - 1)): unbiased for q(z) (the published estimator, averaged over which datum it gives the odd weight
    to). `"weighted"` weighs all by 1 / (N B): far too low, by about log N, so only its gradient is useful. In
    both, the logarithm of the estimate is biased downwards.

    The rows of a batch are coupled, so it can't be shared out over processes. One latent site, whose q(z|x) is
    elementwise (such as `DiagonalNormal`), drawn once; any prior. A batch of one contains no information on q(z): its
    loss is the ELBO.

    Args:
        beta: weight of the total correlation, not negative; a number, or a schedule.
        alpha: weight of the information between x and z, not negative.
        gamma: weight of the dimensions' KL, not negative.
        sampling: `"stratified"` or `"weighted"`.
        num_data: N; None for the number that `fit` trains on, and elsewhere for the batch as all there is.
        max_plate_nesting: number of plate dimensions the programs use.

    Raises:
        UsageError: for an option out of range; if called while `beta` is a schedule, with fewer data than are in the
            batch, or with a guide that is not one elementwise, reparameterised site.

    References:
        Chen et al. 2018, Isolating sources of disentanglement in variational autoencoders, eq. 2, 5, S5.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> BetaTC(beta=4.0, num_data=1000)(vae.model, vae.guide, torch.ones(3, 4)).shape
        torch.Size([])
    """

    beta: float | Schedule = 4.0
    alpha: float = 1.0
    gamma: float = 1.0
    sampling: Literal["stratified", "weighted"] = "stratified"
    num_data: int | None = None
    max_plate_nesting: int = 1

    num_particles: ClassVar[int] = 1

    def __post_init__(self) -> None:
        self._require(beta=0, alpha=0, gamma=0)
        _check_choice(self, "sampling", ("stratified", "weighted"))
        if self.num_data is not None and self.num_data < 1:
            raise UsageError(f"BetaTC needs num_data >= 1, or None for what fit trains on, got {self.num_data}")

    @property
    def is_bound(self) -> bool:
        """Only where all weights are 1."""
        return self.alpha == self.beta == self.gamma == 1

    @property
    def couples_rows(self) -> bool:
        """Always: q(z) is estimated from the batch."""
        return True

    def for_data(self, num_data: int, inputs: Mapping[str, Tensor] | None = None) -> Self:
        """With N, where it was left open."""
        return self if self.num_data is not None else replace(self, num_data=num_data)

    def __call__(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The loss, summed over the batch, nats."""
        beta = self._number("beta")
        proposal, scored = _run(self, model, guide, *args, **kwargs)
        information, correlation, dimensions = self._parts(proposal, scored)
        kl = self.alpha * information + beta * correlation + self.gamma * dimensions
        return (kl - _log_likelihood(proposal, scored, self.max_plate_nesting).squeeze(0)).sum()

    def _parts(self, proposal: Proposal, scored: Sites) -> tuple[Tensor, Tensor, Tensor]:
        """Logarithms of q(z|x) / q(z), q(z) / prod q(z_j) and prod q(z_j) / p(z) at each datum's draw, `[batch]`."""
        if len(proposal.sites) != 1:
            raise UsageError(
                f"BetaTC needs a guide with one latent site, got {sorted(proposal.sites)}: of a chain, q(z|x) of one "
                "datum at another's draw is not known; take ELBO(beta=...)"
            )
        ((name, site),) = proposal.sites.items()
        log_qz, log_dimensions = self._aggregate(_pairwise(self, site))
        log_p = log_density([scored[name]], self.max_plate_nesting).squeeze(0)
        return proposal.log_guide.squeeze(0) - log_qz, log_qz - log_dimensions, log_dimensions - log_p

    def _aggregate(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Log q(z) and log prod_j q(z_j), `[batch]`, from log q(z_ij|x_n) for datum n, draw i, `[draw, datum, j]`."""
        own, other = self._log_weights(len(pairs))
        same = torch.eye(len(pairs), dtype=torch.bool, device=pairs.device)
        log_weights = torch.full_like(pairs[..., 0], other).masked_fill(same, own)
        log_qz = torch.logsumexp(pairs.sum(-1) + log_weights, 1)
        return log_qz, torch.logsumexp(pairs + log_weights.unsqueeze(-1), 1).sum(-1)

    def _log_weights(self, batch: int) -> tuple[float, float]:
        """Logarithms of the weights in q(z) of the datum that a draw came from, and of each other one of the batch."""
        total = batch if self.num_data is None else self.num_data
        if total < batch:
            raise UsageError(f"BetaTC has num_data={total}, got a batch of {batch}: give the number of training data")
        if batch == 1:
            return 0.0, 0.0
        if self.sampling == "weighted":
            return -log(total * batch), -log(total * batch)
        return -log(total), log((total - 1) / (total * (batch - 1)))


def _check_choice(objective: Objective, name: str, choices: tuple[str, ...]) -> None:
    value = getattr(objective, name)
    if value not in choices:
        expected = " or ".join(map(repr, choices))
        raise UsageError(f"{type(objective).__name__} needs {name} to be {expected}, got {value!r}")


def _run(objective: Any, model: Program, guide: Program, *args: Any, **kwargs: Any) -> tuple[Proposal, Sites]:
    """Draws of the guide that carry their path, and the model's sites at them."""
    kwargs["max_plate_nesting"] = objective.max_plate_nesting
    proposal = draw_along_path(guide, *args, num_particles=objective.num_particles, **kwargs)
    return proposal, sites_at(model, proposal.latents, *args, **kwargs)


def _log_likelihood(proposal: Proposal, scored: Sites, nesting: int) -> Tensor:
    """Log p(x|z), `[particles, batch]`, nats."""
    observed = [site for name, site in scored.items() if name not in proposal.latents]
    return log_density(observed, nesting) if observed else torch.zeros_like(proposal.log_guide)


def _averaged(kl: Tensor, over: str) -> Tensor:
    """Each datum's KL, or in its place the batch's mean; the batch in front."""
    return kl if over == "datum" else kl.mean(0, keepdim=True).expand_as(kl)


def _kl_of_sites(objective: Any, drawn: Sites, scored: Sites) -> Tensor:
    """KL of every site given those before it, mean over the draws, `[batch, sites]`, nats."""
    nesting, terms = objective.max_plate_nesting, []
    for name, site in drawn.items():
        try:
            kl = per_datum(kl_divergence(site["fn"], scored[name]["fn"]), site, nesting)
        except NotImplementedError:
            kl = log_density([site], nesting) - log_density([scored[name]], nesting)
        terms.append(kl.mean(0))
    return torch.stack(terms, -1)


def _kl_of_dimensions(objective: Any, drawn: Sites, scored: Sites) -> Tensor:
    """KL of every latent dimension of every site, mean over the draws, `[batch, dimensions]`, nats."""
    terms, otherwise = [], ", or per='total'"
    for name, site in drawn.items():
        q, p = (
            _elementwise(objective, "q(z|x)", site, otherwise),
            _elementwise(objective, "p(z)", scored[name], otherwise),
        )
        try:
            kl = kl_divergence(q, p)
        except NotImplementedError:
            kl = q.log_prob(site["value"]) - p.log_prob(site["value"])
        kl = kl.expand(site["value"].shape).movedim(objective.max_plate_nesting, 1)
        terms.append(kl.reshape(*kl.shape[:2], -1).mean(0))
    return torch.cat(terms, -1)


def _pairwise(objective: Any, site: Mapping[str, Any]) -> Tensor:
    """Log q(z_ij|x_n) of every dimension j of draw i under every datum n, `[draw, datum, dimensions]`, nats."""
    elements, data = _elementwise(objective, "q(z|x)", site), objective.max_plate_nesting
    draws = site["value"].movedim(data, 0).unsqueeze(data + 1)
    return elements.log_prob(draws).movedim(data + 1, 1).flatten(2)


def _elementwise(objective: Any, what: str, site: Mapping[str, Any], otherwise: str = "") -> Any:
    """The distribution of the single elements of a site, whose batch shape is the shape of its values."""
    elements = site["fn"]
    while isinstance(elements, Independent):
        elements = elements.base_dist
    if elements.event_shape or site["mask"] is not None:
        why = "masked" if site["mask"] is not None else f"a {type(elements).__name__}"
        raise UsageError(
            f"{type(objective).__name__} needs {what} to have independent dimensions, and site {site['name']!r} is "
            f"{why}: take a factorised one (DiagonalNormal, StandardNormal){otherwise}"
        )
    return elements
