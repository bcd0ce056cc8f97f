"""The bound against the number of training samples seen: a training that halts at logarithmically spaced points."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import record
from torch.optim import Optimizer

from pyro_vae import fit
from pyro_vae.data import Dataset
from pyro_vae.data.dataset import evenly_spread
from pyro_vae.errors import NumericalError
from pyro_vae.evidence import bound
from pyro_vae.objectives import Objective
from pyro_vae.statistics.averages import standard_error

PER_DECADE = 8
SUBSET = 10_000
"""Number of training data whose bound is measured, spread over all; and of draws, for fewer data."""


@dataclass(frozen=True)
class Training:
    """A training, except for its length.

    Args:
        make: makes the autoencoder, the same one at each call.
        data: train and test.
        objective: what is minimised.
        optimizer: the class, which gets the step `lr`.
        steps: the steps to choose from.
        seed: of the order of the data and of the noise.
        compile: whether to compile the step.
        trial: training samples after which the step is chosen, and the bound measured for the first time.
        batch_size: data in a step.
        weight_prior: standard deviation of the normal prior on the decoder's weights; None where they have another.
    """

    make: Callable[[], Any]
    data: Dataset
    objective: Objective
    optimizer: Callable[..., Optimizer]
    steps: tuple[float, ...]
    seed: int = 0
    compile: bool = True
    trial: float = 1e5
    batch_size: int = 100
    weight_prior: float | None = 1.0
    cost: dict[str, float] = field(default_factory=lambda: {"cpu_seconds": 0.0, "wall_seconds": 0.0})
    """Seconds so far."""

    def epochs(self, samples: float) -> int:
        """The number of epochs that is nearest to so many training samples, at least 1."""
        return max(1, round(samples / len(self.data.train)))

    def points(self, samples: float) -> list[int]:
        """The epochs after which to measure: after the trial, eight times in each power of ten, and at the end."""
        last = self.epochs(samples)
        grid = (self.epochs(self.trial * 10 ** (i / PER_DECADE)) for i in range(10 * PER_DECADE))
        return sorted({point for point in grid if point < last} | {last})

    def to(self, epochs: int, step: float, folder: Path) -> tuple[Any, list[dict[str, float]]]:
        """The autoencoder after so many epochs with this step, and the rows of its history; resumes a shorter one."""
        vae, optimizer = self.make(), partial(self.optimizer, lr=step)
        options = {"weight_prior": self.weight_prior, "keep": "last", "seed": self.seed, "compile": self.compile}
        options["batch_size"] = self.batch_size
        where = {"run": folder / f"step-{step:g}", "save_every": 60.0, "progress": False}
        with record.timed(self.cost):
            history = fit(vae, self.data, self.objective, epochs=epochs, optimizer=optimizer, **options, **where)
        return vae, history.rows

    def tried(self, step: float, folder: Path) -> float | None:
        """The training bound of the last epoch of a short training, nats per datum; None where it failed."""
        try:
            return round(-self.to(self.epochs(self.trial), step, folder)[1][-1]["loss"], 3)
        except NumericalError:
            return None

    def measured(self, vae: Any, epochs: int, rows: list[dict[str, float]]) -> dict[str, float]:
        """The values of all curves at a point; `rows` are those of the epochs since the point before."""
        size = len(self.data.train)
        splits = {"test": self.data.split("test"), "train": self.data.select("train", evenly_spread(size, SUBSET))}
        found: dict[str, float] = {"epochs": epochs, "samples": epochs * size}
        with record.timed(self.cost):
            for name, x in splits.items():
                elbo = bound(vae.model, vae.guide, x, num_particles=max(1, SUBSET // len(x)), seed=self.seed).elbo
                found |= {name: round(elbo.mean().item(), 3), f"{name}_error": round(standard_error(elbo), 3)}
        return {**found, "running": round(-sum(row["loss"] for row in rows) / len(rows), 3)}

    def summary(self, curves: dict[str, list[float]]) -> dict[str, Any]:
        """The entries of a part that its curves decide: length, cost, and the last values."""
        last = {name: values[-1] for name, values in curves.items()}
        ends = {name: {"value": last[name], "error": last[f"{name}_error"]} for name in ("test", "train")}
        return {"seed": self.seed, "passes": last["epochs"], "samples": last["samples"], **self.cost, "values": ends}


def follow(training: Training, samples: float, folder: Path, about: dict[str, Any]) -> None:
    """Train to a number of samples, measure on the way, and keep `part.json`; what is there is not done again.

    The step is the one with the best training bound after the trial. The curves are, in nats per datum: `test` and
    `train`, the bound of all test data and of 10,000 training data (all, if fewer), with standard errors; `running`,
    the mean of the bound in training since the point before, which is the training curve of the paper.

    Args:
        training: the training.
        samples: training samples to see.
        folder: of the part.
        about: what else `part.json` says of it.
    """
    part = record.read(folder / "part.json")
    training.cost.update({name: part[name] for name in training.cost if name in part})
    try:
        trials = part.setdefault("trials", {})
        for step in training.steps:
            trials[f"{step:g}"] = trials.get(f"{step:g}") or training.tried(step, folder)
        best = max((name for name in trials if trials[name] is not None), key=trials.__getitem__)
        part |= {"step": float(best), **about}
        for _ in lengthened(training, part.setdefault("curves", {}), samples, folder, float(best)):
            part |= training.summary(part["curves"]) | record.provenance()
            record.save(folder / "part.json", part)
    finally:
        record.save(folder / "part.json", part | training.cost)


def lengthened(
    training: Training, curves: dict[str, list[float]], samples: float, folder: Path, step: float
) -> Iterator[None]:
    """Go on from where the curves end; yields at each point, when they have its values."""
    for epochs in training.points(samples):
        done = int(curves["epochs"][-1]) if curves else 0
        if epochs > done:
            vae, rows = training.to(epochs, step, folder)
            for name, value in training.measured(vae, epochs, rows[done:]).items():
                curves.setdefault(name, []).append(value)
            yield
