"""How well scores tell anomalies from normal data, where both are known: AUROC, average precision, FPR at 95 % TPR."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.errors import DataError, UsageError
from pyro_vae.process.isolation import isolated
from pyro_vae.process.seeding import generator
from pyro_vae.statistics.averages import number
from pyro_vae.tasks.scores.results import Scores, values_of

_CHUNK = 2**22
"""Numbers in memory at once while resampling."""
_TRUE_POSITIVES = 0.95


@dataclass(frozen=True)
class Measure:
    """A number with its bootstrap interval.

    Args:
        value: the number, of all data.
        low: the lower end.
        high: the upper end.
        standard_error: standard deviation over the resamples.
    """

    value: float
    low: float
    high: float
    standard_error: float

    def __repr__(self) -> str:
        return f"{self.value:.4f} ({number(self.low)} to {number(self.high)})"


@dataclass(frozen=True)
class Detection:
    """How well scores tell anomalies from normal data.

    Args:
        auroc: the probability that an anomaly scores higher than a normal datum, half of it where they tie: 0.5 for
            chance, below it where anomalies look *more* normal.
        average_precision: the mean precision over the ranks of the anomalies; `prevalence` for chance.
        fpr_at_95: the share of normal data with an alarm, at the highest threshold that finds 95 % of the anomalies.
        num_normal: how many normal data.
        num_anomalies: how many anomalies.
        level: the probability of the intervals.
        num_resamples: resamples of the bootstrap, of normal data and anomalies apart.
        seed: its seed.
    """

    auroc: Measure
    average_precision: Measure
    fpr_at_95: Measure
    num_normal: int
    num_anomalies: int
    level: float
    num_resamples: int
    seed: int

    @property
    def prevalence(self) -> float:
        """The share of anomalies."""
        return self.num_anomalies / (self.num_anomalies + self.num_normal)

    def summary(self) -> dict[str, object]:
        """All of it as plain numbers."""
        names = ("auroc", "average_precision", "fpr_at_95")
        counts = ("num_normal", "num_anomalies", "prevalence", "level", "num_resamples", "seed")
        return {**{n: vars(getattr(self, n)) for n in names}, **{n: getattr(self, n) for n in counts}}

    def __repr__(self) -> str:
        counts = f"{self.num_anomalies} anomalies of {self.num_anomalies + self.num_normal}"
        measures = f"AUROC {self.auroc}, average precision {self.average_precision}, FPR at 95 % {self.fpr_at_95}"
        return f"Detection({measures}; {counts}, {self.level:.0%} intervals)"


@isolated
def detection(
    normal: Scores | Tensor,
    anomalies: Scores | Tensor,
    *,
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Detection:
    """Measure how well scores tell anomalies from normal data, with intervals from the bootstrap.

    Args:
        normal: scores of normal data, `[N]`.
        anomalies: scores of anomalies by the same method, `[M]`.
        level: probability of the percentile intervals, between 0 and 1.
        num_resamples: resamples, at least 2. The model is not trained again: its randomness is not in the interval.
        seed: seed of the resamples.

    Returns:
        A `Detection`.

    Raises:
        DataError: if there are no scores of either kind, or one is nan.
        UsageError: if the methods differ, or an option is out of range.

    Example:
        >>> found = detection(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([3.0, 4.0]))
        >>> round(found.auroc.value, 4)
        0.9167
    """
    _check(normal, anomalies, level, num_resamples)
    n, a = _counts(values_of(normal), values_of(anomalies))
    every = torch.stack([measure.squeeze(0) for measure in _measures(n[None], a[None])])
    resampled = _resampled(n, a, num_resamples, seed)
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = resampled.quantile(ends, dim=0)
    columns = zip(every.tolist(), low.tolist(), high.tolist(), resampled.std(0).tolist(), strict=True)
    auroc, average_precision, fpr = (Measure(*column) for column in columns)
    sizes = {"num_normal": int(n.sum()), "num_anomalies": int(a.sum())}
    protocol = {"level": level, "num_resamples": num_resamples, "seed": seed}
    return Detection(auroc, average_precision, fpr, **sizes, **protocol)


def _counts(normal: Tensor, anomalies: Tensor) -> tuple[Tensor, Tensor]:
    """How often each score occurs among normal data and among anomalies, highest score first, `[U]`."""
    values, place = torch.cat([normal, anomalies]).unique(return_inverse=True)
    place = len(values) - 1 - place
    counts = [p.bincount(minlength=len(values)).double() for p in (place[: len(normal)], place[len(normal) :])]
    return counts[0], counts[1]


def _measures(normal: Tensor, anomalies: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """AUROC, average precision and FPR at 95 % of counts by score, highest first, `[B, U]`; each `[B]`.

    Exact with ties: data with equal scores cross a threshold together.
    """
    false, true = normal.cumsum(-1), anomalies.cumsum(-1)
    all_false, all_true = false[:, -1:], true[:, -1:]
    higher = (anomalies * (all_false - false + normal / 2)).sum(-1)  # pairs in which the anomaly scores higher
    auroc = higher / (all_false * all_true).squeeze(-1)
    precision = true / (true + false).clamp(min=1)
    average_precision = (anomalies * precision).sum(-1) / all_true.squeeze(-1)
    found = true >= _TRUE_POSITIVES * all_true * (1 - 1e-12)
    first = found.double().argmax(-1, keepdim=True)
    return auroc, average_precision, (false.gather(-1, first) / all_false).squeeze(-1)


def _resampled(normal: Tensor, anomalies: Tensor, num: int, seed: int) -> Tensor:
    """The measures of `num` resamples, `[num, 3]`."""
    rows = max(1, _CHUNK // max(len(normal), int(normal.sum()), int(anomalies.sum())))
    stream = generator(seed, "detection")
    parts = []
    for first in range(0, num, rows):
        size = min(rows, num - first)
        counts = [_redrawn(c, size, stream) for c in (normal, anomalies)]
        parts.append(torch.stack(_measures(*counts), -1))
    return torch.cat(parts)


def _redrawn(counts: Tensor, rows: int, stream: torch.Generator) -> Tensor:
    """Counts of `rows` resamples with replacement, `[rows, U]`."""
    total = int(counts.sum())
    data = torch.arange(len(counts)).repeat_interleave(counts.long())
    picked = data[torch.randint(total, (rows, total), generator=stream)]
    return torch.zeros(rows, len(counts), dtype=torch.float64).scatter_add_(
        1, picked, torch.ones(rows, total, dtype=torch.float64)
    )


def _check(normal: Scores | Tensor, anomalies: Scores | Tensor, level: float, num_resamples: int) -> None:
    for name, scores in (("normal", normal), ("anomalies", anomalies)):
        values = values_of(scores)
        if len(values) == 0 or bool(values.isnan().any()):
            raise DataError(f"{name}: expected scores that are numbers, got {len(values)} of which some may be nan")
    if isinstance(normal, Scores) and isinstance(anomalies, Scores) and normal.method != anomalies.method:
        raise UsageError(f"scores of one method are compared, got {normal.method!r} and {anomalies.method!r}")
    if not 0 < level < 1 or num_resamples < 2:
        raise UsageError(f"need level between 0 and 1 and num_resamples >= 2, got {level} and {num_resamples}")
