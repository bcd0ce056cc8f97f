"""Models ranked by log p(x) of held-out data, with standard errors of the paired differences."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments.checked import checked
from pyro_vae.arguments.values import shown
from pyro_vae.errors import UsageError
from pyro_vae.evidence import Evidence
from pyro_vae.statistics.averages import at_least, number, standard_error

_STEPS = 2000
"""Maximum number of EM steps for the stacking weights."""
_STILL = 1e-7
"""EM stops if no weight changes by more than this in a step."""
_HEADS = ("rank", "log p(x)", "se", "difference", "se", "se(MC)", "bias", "flagged", "weight")


@dataclass(frozen=True)
class Compared:
    """One of the compared models. All numbers in nats per datum, averaged over the same data.

    Args:
        name: name of the model.
        log_p: its log p(x).
        standard_error: standard error of `log_p` from the sample of N data.
        difference: log p(x) minus that of the best model, at most 0.
        standard_error_difference: standard error of `difference` from the sample of N data. Paired differences vary far
            less than log p(x). It includes the Monte Carlo error, which is independent between data.
        standard_error_monte_carlo: the part of it from finitely many draws for both models; too small if data of either
            are flagged.
        bias: approximate amount by which `log_p` is too low because of finitely many draws: half the mean squared Monte
            Carlo error.
        flagged: share of the data whose estimate is unreliable.
        weight: weight of the model in the mixture of all models that has the highest log-density of the data
            (stacking).
        error_is_at_least: whether `standard_error_monte_carlo` is known to be too small.
    """

    name: str
    log_p: float
    standard_error: float
    difference: float
    standard_error_difference: float
    standard_error_monte_carlo: float
    bias: float
    flagged: float
    weight: float
    error_is_at_least: bool = False

    @property
    def is_worse(self) -> bool:
        """Whether it is worse than the best by more than two standard errors of the difference."""
        return self.difference < -2 * self.standard_error_difference


@dataclass(frozen=True)
class Comparison:
    """Models by their log p(x) of the same data.

    Args:
        models: best first.
        num_data: N.
    """

    models: tuple[Compared, ...]
    num_data: int

    @property
    def best(self) -> str:
        """The name of the model with the highest log p(x)."""
        return self.models[0].name

    def summary(self) -> dict[str, Any]:
        """The table as plain numbers."""
        return {"num_data": self.num_data, "models": [asdict(model) for model in self.models]}

    def __str__(self) -> str:
        """A table of the models from the best to the worst."""
        width = max(len("model"), *(len(model.name) for model in self.models))
        rows = [_row(rank, model) for rank, model in enumerate(self.models)]
        widths = [max(map(len, column)) for column in zip(_HEADS, *rows, strict=True)]
        lines = zip(["model", *(model.name for model in self.models)], [_HEADS, *rows], strict=True)
        return "\n".join(
            f"{name:<{width}}  " + "  ".join(f"{cell:>{w}}" for cell, w in zip(cells, widths, strict=True))
            for name, cells in lines
        )


def _row(rank: int, model: Compared) -> tuple[str, ...]:
    numbers = map(number, (model.log_p, model.standard_error, model.difference, model.standard_error_difference))
    error = at_least(number(model.standard_error_monte_carlo, ".4f"), model.error_is_at_least)
    monte_carlo = (error, f"{model.bias:.4f}")
    return (
        str(rank),
        *numbers,
        *monte_carlo,
        f"{model.flagged:.1%}",
        f"{model.weight:.2f}",
    )


@checked
def compare(evidence: Mapping[str, Evidence]) -> Comparison:
    r"""Rank models by their log p(x) of the same held-out data.

    .. math:: \Delta = \frac1N \sum_i \log \hat p_m(x_i) - \log \hat p_{best}(x_i), \qquad
        se(\Delta) = \mathrm{sd}_i(\cdot) / \sqrt N

    An easy datum is easy for all models, so the error of a paired difference is far smaller than those of the means.
    With a single datum it is unknown. Importance sampling underestimates log p(x), and more so for a worse guide: look
    at `bias` and `flagged` before you call a model worse, and take more draws.

    Args:
        evidence: results of `log_marginal` by the names of the models.

    Returns:
        A `Comparison`, best model first.

    Raises:
        UsageError: if there are fewer than two, they are of different data, or one is a fast estimate (`precision`).

    References:
        Vehtari, Gelman & Gabry 2017, Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC,
        section 5.2 (paired differences). Yao et al. 2018, Using stacking to average Bayesian predictive distributions.

    Example:
        >>> zero = torch.zeros(3)
        >>> good, bad = (Evidence(torch.tensor([-1.0, -3.0, -2.0]) - b, zero, zero, zero, zero, 9, 0) for b in (0, 1))
        >>> result = compare({"bad": bad, "good": good})
        >>> result.best, result.models[1].difference, result.models[1].standard_error_difference
        ('good', -1.0, 0.0)
    """
    _check(evidence)
    if len(evidence) < 2:
        raise UsageError(f"nothing to compare: expected two models or more, got {len(evidence)}")
    return ranked(evidence)


def ranked(evidence: Mapping[str, Evidence]) -> Comparison:
    """The models best first, with the errors of their differences: `compare` without its checks; one is enough."""
    ordered = dict(sorted(evidence.items(), key=lambda item: -item[1].mean))
    weights = _stacking(torch.stack([found.log_p for found in ordered.values()]).double())
    best = next(iter(ordered.values()))
    models = [_compared(name, found, best, w) for (name, found), w in zip(ordered.items(), weights, strict=True)]
    return Comparison(tuple(models), len(best.log_p))


def _compared(name: str, evidence: Evidence, best: Evidence, weight: float) -> Compared:
    is_best = evidence is best
    differences = (evidence.log_p - best.log_p).double()
    errors = [evidence.standard_error.double(), best.standard_error.double()]
    return Compared(
        name,
        evidence.mean,
        evidence.standard_error_data,
        differences.mean().item(),
        0.0 if is_best else standard_error(differences),
        0.0 if is_best else (sum(e.square().sum().item() for e in errors)) ** 0.5 / len(differences),
        errors[0].square().mean().item() / 2,
        evidence.unreliable,
        weight,
        not is_best and (evidence.error_is_at_least or best.error_is_at_least),
    )


def _stacking(log_p: Tensor) -> list[float]:
    """The weights of the mixture with the highest log-density of the data, `[M]` for log p `[M, N]`, by EM."""
    weights = torch.full((len(log_p),), 1 / len(log_p), dtype=torch.float64)
    for _ in range(_STEPS):
        before, weights = weights, (weights.log()[:, None] + log_p).softmax(0).mean(1)
        if (weights - before).abs().max() < _STILL:
            break
    return weights.tolist()


def _check(evidence: Mapping[str, Evidence]) -> None:
    if not isinstance(evidence, Mapping) or not all(isinstance(found, Evidence) for found in evidence.values()):
        raise UsageError(
            "evidence: expected the results of log_marginal by name, e.g. compare({'first': "
            f"log_marginal(...), 'second': log_marginal(...)}}), got {shown(evidence)}"
        )
    for name, found in evidence.items():
        if found.shift is not None:
            raise UsageError(f"{name!r} is a fast estimate in {found.precision}: estimate it in full precision")
    sizes = {name: len(found.log_p) for name, found in evidence.items()}
    if len(set(sizes.values())) > 1:
        raise UsageError(f"models are compared on the same data, got {_listed(sizes)} data")
    known = {name: found.data for name, found in evidence.items() if found.data is not None}
    if len(set(known.values())) > 1:
        marks = _listed({name: data[:8] for name, data in known.items()})
        raise UsageError(
            f"models are compared on the same data, given the same inputs, but these differ (fingerprints {marks}): "
            "estimate all on one x"
        )


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in values.items())
