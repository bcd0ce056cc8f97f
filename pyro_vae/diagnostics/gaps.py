"""Inference gaps: how far an ELBO is below log p(x) because of the guide's family, and because of its encoder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any, Protocol

import torch
from torch import Tensor

from pyro_vae.arguments.checked import checked
from pyro_vae.autoencoders import Autoencoder
from pyro_vae.compiling.backends import exact_products, fast_cpu
from pyro_vae.errors import DataError, NumericalError, UsageError
from pyro_vae.evidence import log_marginal
from pyro_vae.inference.best_member import Block, Family, Refined, Search, best_members, blocks
from pyro_vae.inference.programs import evaluation_mode
from pyro_vae.inference.weighing import refuse_point_masses
from pyro_vae.process.isolation import isolated
from pyro_vae.process.seeding import seeded
from pyro_vae.statistics.averages import Averaged, joined, of_draws

_ERRORS = 3.0
"""Standard errors beyond which a negative gap is more than noise, false alarm 0.1 % a datum."""
_GAPS = ("total", "approximation", "amortisation")


class LogEvidence(Protocol):
    """Estimates of log p(x), such as an `Evidence`; one with `flagged`, `[N]` bool, says which not to trust."""

    @property
    def log_p(self) -> Tensor:
        """`[N]`, nats."""
        ...

    @property
    def standard_error(self) -> Tensor:
        """`[N]`, nats; 0 where log p(x) is known."""
        ...


@dataclass(frozen=True, eq=False)
class InferenceGaps:
    r"""The gap between log p(x) and the ELBO of every datum, split in two, nats.

    .. math:: \log p(x) - L[q] = \underbrace{\log p(x) - L[q^*]}_{\text{approximation}}
        + \underbrace{L[q^*] - L[q]}_{\text{amortisation}}

    Args:
        log_p: log p(x).
        elbo: L[q], the ELBO of the guide.
        best_elbo: L[q*], that of the best member of the guide's family that was found for the datum.
        amortisation: L[q*] - L[q], by common draws, so that its error is smaller than that of either.
        refined: those members, and whether the search for them came to its end.
        unreliable: where log p(x) is not to be trusted (k-hat), `[N]` bool.
        tolerance: nats below which a negative gap is none.
        num_particles: draws of each ELBO.
        seed: of all draws.
    """

    log_p: Averaged
    elbo: Averaged
    best_elbo: Averaged
    amortisation: Averaged
    refined: Refined
    unreliable: Tensor
    tolerance: float
    num_particles: int
    seed: int

    @property
    def approximation(self) -> Averaged:
        """Log p(x) - L[q*]: what no member of the guide's family can reach."""
        return _difference(self.log_p, self.best_elbo)

    @property
    def total(self) -> Averaged:
        """Log p(x) - L[q]: the sum of the two gaps."""
        return _difference(self.log_p, self.elbo)

    @property
    def not_converged(self) -> Tensor:
        """Where the search for q* was cut off, `[N]` bool: the amortisation gap may be larger, the other smaller."""
        return ~self.refined.converged

    @property
    def negative(self) -> Tensor:
        """Where a gap is below 0 by more than 3 standard errors, `[N]` bool.

        No gap is: log p(x) is estimated too low there (look at `unreliable`), or the errors are.
        """
        return self._below(self.approximation) | self._below(self.amortisation)

    def _below(self, gap: Averaged) -> Tensor:
        return gap.values < -(_ERRORS * gap.standard_errors + self.tolerance)

    def summary(self) -> dict[str, Any]:
        """Averages with their errors, and shares of the data with a flag, as plain numbers."""
        names = ("log_p", "elbo", "best_elbo", *_GAPS)
        flags = ("unreliable", "not_converged", "negative")
        return {
            **{name: getattr(self, name).summary() for name in names},
            **{name: _share(getattr(self, name)) for name in flags},
            "num_data": len(self.elbo),
            "num_particles": self.num_particles,
            "seed": self.seed,
        }

    def __repr__(self) -> str:
        flags = ("unreliable", "not_converged", "negative")
        shown = ", ".join(f"{name.replace('_', ' ')} {_share(getattr(self, name)):.1%}" for name in flags)
        gaps = "; ".join(f"{name} {getattr(self, name)}" for name in _GAPS)
        return f"InferenceGaps({gaps}; {shown}; N = {len(self.elbo)}, seed {self.seed})"


@isolated
@checked
def inference_gaps(
    vae: Autoencoder,
    x: Tensor,
    evidence: LogEvidence | None = None,
    *,
    num_particles: int = 1000,
    search: Search | None = None,
    seed: int = 0,
    max_rows: int = 8192,
    progress: Callable[[int], object] | None = None,
    **inputs: Tensor,
) -> InferenceGaps:
    r"""Split log p(x) - ELBO of every datum into approximation gap and amortisation gap.

    .. math:: q^*_x = \arg\max_{q \in Q} L[q](x), \qquad L[q](x) = E_{q(z)}[\log p(x, z) - \log q(z)]

    Q is the family of the VAE's guide: the best member is found by refining what the encoder gives for the datum (mean
    and log standard deviation for `DiagonalNormal`), with model and guide frozen. A flow's networks stay what they are,
    shared by all data, so its Q is what they make of the encoder's numbers; `Search(copies=True)` refines a copy of
    them for each datum too. A guide that refines its parameters (`SemiAmortized`) starts at the refined ones, and its
    ELBO is measured there.

    Members are chosen by some draws and their ELBOs are estimated by others, so no estimate is optimistic: given the
    members, L[q*] and L[q] are unbiased. What is found is at most the best, so that the amortisation gap is too small
    and the approximation gap too large, if anything; both always sum to the total. log p(x) estimated by
    importance sampling is too small, if anything, which makes the approximation gap too small.

    The result is a function of `(x, evidence, num_particles, search, seed)`, and a datum's does not depend on the data
    that follow, but for rounding. Evaluation mode; no weight is moved or gets a gradient. A search takes 400 to
    2,000 gradients of 16 rows of the decoder for each datum.

    Args:
        vae: a `VAE`, or another `Autoencoder` with a `code_site`; left as it is.
        x: data `[N, *event]`.
        evidence: log p(x) of these data; None for `log_marginal` of the VAE, K = 5000. Better estimates, such as AIS's,
            make better approximation gaps.
        num_particles: draws of each ELBO, even (they come in pairs), at least 4.
        search: how q* is looked for; None for `Search()`.
        seed: seed of all draws; the caller's generators are left alone.
        max_rows: the most (datum, draw) pairs in one run of the model, though never fewer than 50 data; bounds memory.
        progress: called with the number of data done so far.
        **inputs: `c` of a conditional VAE, `mask` of observed elements, `[N, ...]`.

    Returns:
        `InferenceGaps`; tensors on the CPU.

    Raises:
        UsageError: if an option is out of range, the evidence is of other data, the model has no `code_site`, or
            its guide is not reparameterised or a point mass.
        DataError: if the data have another shape than the VAE's.
        NumericalError: if an ELBO is not finite.

    References:
        Cremer, Li & Duvenaud 2018, Inference suboptimality in variational autoencoders.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> gaps = inference_gaps(vae, torch.ones(3, 4), num_particles=100, search=Search(max_steps=20))
        >>> bool(((gaps.approximation.values + gaps.amortisation.values) - gaps.total.values).abs().max() < 1e-9)
        True
    """
    search = search or Search()
    _check(vae, x, num_particles, max_rows)
    device = next(vae.parameters()).device
    given: dict[str, Any] = {name: value.to(device) for name, value in {"x": x, **inputs}.items()}
    if evidence is None:
        evidence = log_marginal(vae.model, vae.guide, given["x"], seed=seed, **{n: given[n] for n in inputs})
    log_p = _log_p(evidence, len(x))
    with evaluation_mode(vae), fast_cpu(), exact_products():
        with seeded(seed, "structure"):
            refuse_point_masses(vae.guide, **{name: value[:1] for name, value in given.items()})
        found = blocks(vae, Family(vae, search.copies), given, search, seed, max_rows)
        parts = [_of_block(block, search, num_particles, progress) for block in found]
    elbo, best_elbo, amortisation, refined = zip(*parts, strict=True)
    return InferenceGaps(
        log_p,
        joined(elbo),
        joined(best_elbo),
        joined(amortisation),
        _joined_members(refined),
        _flags(evidence, len(x)),
        search.tolerance,
        num_particles,
        seed,
    )


Part = tuple[Averaged, Averaged, Averaged, Refined]


def _of_block(block: Block, search: Search, num: int, progress: Callable[[int], object] | None) -> Part:
    """L[q], L[q*], their difference, and q* of some data; the draws are other than those q* was chosen by."""
    tell = None if progress is None else lambda done: progress(block.start + done)
    refined = best_members(block, search, tell)
    draws = [_finite(block.elbo_draws(own, num, "fresh"), block.start) for own in (block.encoded(), refined.own)]
    if progress is not None:
        progress(block.start + len(refined.params))
    return of_draws(draws[0]), of_draws(draws[1]), of_draws(draws[1] - draws[0]), refined


def _finite(draws: Tensor, start: int) -> Tensor:
    bad = ~draws.isfinite().all(0)
    if bad.any():
        raise NumericalError(
            f"the ELBO of datum {start + int(bad.nonzero()[0])} is not finite: look at the decoder's and the encoder's "
            "outputs for it"
        )
    return draws


def _check(vae: Autoencoder, x: Tensor, num_particles: int, max_rows: int) -> None:
    if vae.code_site is None:
        raise UsageError(
            f"inference gaps refine the numbers that an encoder gives a guide's family, which a VAE has and a "
            f"{type(vae).__name__} has not: its log p(x) - ELBO is log_marginal's log_p - elbo"
        )
    if tuple(x.shape[1:]) != vae.shapes.event or len(x) == 0:
        raise DataError(f"x: expected shape [N >= 1, {', '.join(map(str, vae.shapes.event))}], got {list(x.shape)}")
    if num_particles < 4 or num_particles % 2 or max_rows < 1:
        raise UsageError(f"need num_particles even and at least 4, max_rows >= 1, got {num_particles} and {max_rows}")


def _log_p(evidence: LogEvidence, num: int) -> Averaged:
    log_p, error = (a.detach().double().cpu() for a in (evidence.log_p, evidence.standard_error))
    if log_p.shape != (num,) or error.shape != (num,):
        raise UsageError(f"evidence: expected that of {num} data, got log_p {list(log_p.shape)}")
    return Averaged(log_p, error, bool(_flags(evidence, num).any()))


def _flags(evidence: LogEvidence, num: int) -> Tensor:
    return getattr(evidence, "flagged", torch.zeros(num, dtype=torch.bool)).cpu()


def _difference(a: Averaged, b: Averaged) -> Averaged:
    """The difference of two averages whose draws are independent, with its errors."""
    errors = (a.standard_errors.square() + b.standard_errors.square()).sqrt()
    return Averaged(a.values - b.values, errors, a.is_at_least or b.is_at_least)


def _joined_members(parts: tuple[Refined, ...]) -> Refined:
    weights = {name: torch.cat([p.weights[name].cpu() for p in parts]) for name in parts[0].weights}
    params, converged, steps = (
        torch.cat([getattr(p, name).cpu() for p in parts]) for name in ("params", "converged", "steps")
    )
    return Refined(params, weights, converged, steps)


def _share(flags: Tensor) -> float:
    return flags.double().mean().item()


@dataclass(frozen=True)
class Difference:
    """A difference of two averages over different data, nats.

    Args:
        mean: the difference.
        standard_error: from both, of the data and of the draws.
    """

    mean: float
    standard_error: float

    def __repr__(self) -> str:
        return f"{self.mean:+.3f} (se {self.standard_error:.3f})"


@dataclass(frozen=True, eq=False)
class GapComparison:
    """The gaps on data that a VAE was trained on, against those on data that it has not seen.

    An amortisation gap that is larger on test data is an encoder that overfits; an approximation gap that differs is
    the model's posteriors that do (Cremer, Li & Duvenaud 2018).

    Args:
        train: gaps of training data.
        test: gaps of other data.
    """

    train: InferenceGaps
    test: InferenceGaps

    @property
    def differences(self) -> Mapping[str, Difference]:
        """Test less train, of the average of `total`, `approximation`, `amortisation`, and of `log_p` and `elbo`."""
        return {
            name: _between(*(getattr(g, name) for g in (self.train, self.test))) for name in ("log_p", "elbo", *_GAPS)
        }

    @property
    def encoder_overfits(self) -> bool:
        """Whether the amortisation gap is larger on test data by more than 2 standard errors (false alarm 2.3 %)."""
        difference = self.differences["amortisation"]
        return difference.mean > 2 * difference.standard_error

    def summary(self) -> dict[str, Any]:
        """Both sides and their differences, as plain numbers."""
        differences = {name: vars(difference) for name, difference in self.differences.items()}
        sides = {"train": self.train.summary(), "test": self.test.summary()}
        return {**sides, "test_less_train": differences, "encoder_overfits": self.encoder_overfits}

    def __repr__(self) -> str:
        shown = "; ".join(f"{name} {difference}" for name, difference in self.differences.items())
        return f"GapComparison(test less train: {shown}; encoder overfits: {'yes' if self.encoder_overfits else 'no'})"


def compare_gaps(train: InferenceGaps, test: InferenceGaps) -> GapComparison:
    """Compare the gaps on training data with those on test data.

    Args:
        train: of data that the VAE was trained on.
        test: the gaps of other data, with the same settings.

    Returns:
        A `GapComparison`.

    Raises:
        UsageError: if they are not of at least 2 data each, or were measured with different numbers of draws.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> vae = VAE((4,), latent_dim=1)
        >>> how = Search(max_steps=5)
        >>> train, test = (inference_gaps(vae, torch.ones(n, 4), num_particles=50, search=how) for n in (3, 4))
        >>> type(compare_gaps(train, test)).__name__
        'GapComparison'
    """
    if min(len(train.elbo), len(test.elbo)) < 2:
        raise UsageError("a comparison of averages needs at least 2 data of each, for their errors")
    if train.num_particles != test.num_particles:
        raise UsageError(f"measured with {train.num_particles} and {test.num_particles} draws: use the same number")
    return GapComparison(train, test)


def _between(train: Averaged, test: Averaged) -> Difference:
    error = sqrt(train.standard_error_data**2 + test.standard_error_data**2)
    return Difference(test.mean - train.mean, error)
