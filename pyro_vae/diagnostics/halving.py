"""Successive halving: how the epochs are shared out, and what its rounds say."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyro_vae.arguments.remedies import spoken
from pyro_vae.diagnostics.comparison import Compared, Comparison
from pyro_vae.errors import UsageError
from pyro_vae.statistics.averages import number

_TOP = ("candidate", "log p(x)", "se", "difference", "se", "flagged", "options")


@dataclass(frozen=True)
class Stage:
    """What is planned for a round.

    Args:
        candidates: how many are compared.
        epochs: how long each is trained by then, in all.
        more: how many of these epochs are trained in this round.
    """

    candidates: int
    epochs: int
    more: int


def stages(budget: int, num_candidates: int, factor: int, lengthened: bool) -> list[Stage]:
    r"""The rounds of successive halving: each has the same share of the budget, divided among its candidates.

    .. math:: n_{k+1} = \lceil n_k / f \rceil, \qquad e_k = \lfloor B / (R \, n_k) \rfloor

    with R the number of rounds until one candidate is left.

    Args:
        budget: B, epochs of all trainings together.
        num_candidates: n_0.
        factor: f.
        lengthened: whether a training goes on in the next round; else it begins anew, with the epochs of the round.

    Raises:
        UsageError: if the budget is too small for one epoch each.

    References:
        Jamieson & Talwalkar 2016, Non-stochastic best arm identification and hyperparameter optimization.

    Example:
        >>> [(s.candidates, s.epochs) for s in stages(54, 9, 3, lengthened=True)]
        [(9, 3), (3, 12)]
    """
    counts = [num_candidates]
    while (fewer := -(-counts[-1] // factor)) > 1:
        counts.append(fewer)
    least = len(counts) * num_candidates
    if budget < least:
        rounds = f"{len(counts)} round{'s' * (len(counts) > 1)}"
        name = spoken("budget", "--budget")
        raise UsageError(f"{name}: {num_candidates} candidates in {rounds} need at least {least} epochs, got {budget}")
    found, total = [], 0
    for count in counts:
        more = budget // (len(counts) * count)
        total = total + more if lengthened else more
        found.append(Stage(count, total, more))
    return found


@dataclass(frozen=True)
class Round:
    """One round of a search: candidates that were trained equally long, compared on the same validation data.

    Args:
        epochs: how long each has been trained by then.
        comparison: the candidates by log p(x) of the validation data, best first.
        kept: which of them went on, best first; of the last round the best one.
        failed: why others could not be trained or measured, by name.
    """

    epochs: int
    comparison: Comparison
    kept: tuple[str, ...]
    failed: Mapping[str, str]

    @property
    def close(self) -> tuple[str, ...]:
        """Candidates that were left out although they are within two standard errors of the best."""
        return tuple(m.name for m in self.comparison.models if m.name not in self.kept and not m.is_worse)

    @property
    def undecided(self) -> bool:
        """Whether each difference from the best, among those that went on, is at most its standard error."""
        rest = [model for model in self.comparison.models if model.name in self.kept][1:]
        return bool(rest) and all(-model.difference <= model.standard_error_difference for model in rest)


@dataclass(frozen=True)
class SearchResult:
    """What a search has found; log p(x) in nats per datum of the validation data.

    The log p(x) of the best of many on the data that chose it is too high on average: measure it on the test data.

    Args:
        candidates: the options of each candidate, by name.
        rounds: what was compared.
        best: the name of the best candidate.
        run: the run directory with its weights.
        lengthened: whether trainings went on from round to round; else each round trained anew.
        budget: epochs that all trainings together could have.
        spent: epochs that they had.
        num_particles: K, draws for each datum.
        seed: seed of the draws, of candidates and for log p(x).
    """

    candidates: Mapping[str, Mapping[str, Any]]
    rounds: tuple[Round, ...]
    best: str
    run: str
    lengthened: bool
    budget: int
    spent: int
    num_particles: int
    seed: int

    @property
    def options(self) -> Mapping[str, Any]:
        """The options of the best candidate."""
        return self.candidates[self.best]

    @property
    def undecided(self) -> bool:
        """Whether the search stopped because the differences that were left are below their errors."""
        return self.rounds[-1].undecided

    @property
    def ties(self) -> tuple[str, ...]:
        """Candidates of the last round within two standard errors of the best."""
        return tuple(model.name for model in self.rounds[-1].comparison.models[1:] if not model.is_worse)

    @property
    def verdict(self) -> str:
        """The conclusion in words."""
        best = f"best: {self.best} ({described(self.options)})"
        if self.undecided:
            left = len(self.rounds[-1].kept)
            return f"{best}; stopped: the differences of the {left} that are left are below their standard errors"
        close = f"; within two standard errors of it: {', '.join(self.ties)}" if self.ties else ""
        return f"{best}{close}"

    def summary(self) -> dict[str, Any]:
        """The rounds, the options as they were given, and the conclusion."""
        names = ("best", "run", "undecided", "ties", "verdict", "lengthened", "budget", "spent")
        rounds = [
            {"epochs": r.epochs, **r.comparison.summary(), "kept": r.kept, "close": r.close, "failed": dict(r.failed)}
            for r in self.rounds
        ]
        plain = {name: dict(options) for name, options in self.candidates.items()}
        found = {name: getattr(self, name) for name in (*names, "num_particles", "seed")}
        return {**found, "candidates": plain, "rounds": rounds}

    def __str__(self) -> str:
        """A table for each round, and the conclusion."""
        tables = [self._table(index, found) for index, found in enumerate(self.rounds, 1)]
        return "\n\n".join([*tables, self.verdict])

    def _table(self, index: int, found: Round) -> str:
        rows = [self._row(model, found) for model in found.comparison.models]
        rows += [(name, "failed", "", "", "", "", why) for name, why in found.failed.items()]
        widths = [max(map(len, column)) for column in zip(_TOP, *rows, strict=True)]
        padded = (zip(row, widths, strict=True) for row in (_TOP, *rows))
        lines = ["  ".join(f"{cell:<{width}}" for cell, width in row).rstrip() for row in padded]
        return "\n".join([f"round {index}: {found.epochs} epochs each, {len(found.kept)} kept", *lines])

    def _row(self, model: Compared, found: Round) -> tuple[str, ...]:
        values = model.log_p, model.standard_error, model.difference, model.standard_error_difference
        numbers = map(number, values)
        mark = "kept: " if model.name in found.kept else "close: " if model.name in found.close else ""
        return model.name, *numbers, f"{model.flagged:.1%}", f"{mark}{described(self.candidates[model.name])}"


def described(options: Mapping[str, Any]) -> str:
    """The options of a candidate as short text: of a class its name.

    Example:
        >>> described({"vae.latent_dim": 2, "objective": {"class_path": "pyro_vae.objectives.IWAE"}})
        'vae.latent_dim 2, objective IWAE'
    """
    return ", ".join(f"{key} {_short(value)}" for key, value in options.items())


def _short(value: Any) -> str:
    if isinstance(value, Mapping) and isinstance(value.get("class_path"), str):
        inner = value.get("init_args") or {}
        return value["class_path"].rpartition(".")[2] + (f"({described(inner)})" if inner else "")
    return str(value)
