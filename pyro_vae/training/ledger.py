"""`Ledger`: how far a training is and what it has measured, in the form that a checkpoint holds."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isfinite, nan
from typing import Any, Self

from torch import Tensor

from pyro_vae.networks.precision import Precision


@dataclass
class Sums:
    """Sums over the steps of the current epoch.

    Args:
        loss: the objective, nats.
        seen: number of data.
        train_reconstruction: E[log p(x|z)] of the measured batches, nats.
        train_kl: KL(q(z|x) || p(z)) of the measured batches, nats.
        probed: number of data in the measured batches.
    """

    loss: float = 0.0
    seen: float = 0.0
    train_reconstruction: float = 0.0
    train_kl: float = 0.0
    probed: float = 0.0

    def add(self, **amounts: float) -> None:
        """Add to the sums of these names."""
        for name, amount in amounts.items():
            setattr(self, name, getattr(self, name) + amount)

    def means(self, has_elbo: bool) -> dict[str, float]:
        """Means over the measured batches, nats per datum; only the reconstruction if there is no ELBO."""
        reconstruction, kl = self.train_reconstruction / self.probed, self.train_kl / self.probed
        terms = {"elbo": reconstruction - kl, "reconstruction": reconstruction, "kl": kl}
        return terms if has_elbo else {"reconstruction": reconstruction}


_PROGRESS = (
    "epoch",
    "step",
    "best_loss",
    "best_epoch",
    "waited",
    "last_loss",
    "onednn",
    "threads",
    "precision",
    "compile",
    "data",
)
"""Fields that are entries of `progress` in manifest.json."""


@dataclass
class Ledger:
    """How far a training is; a checkpoint holds this, the weights and the state of the optimizer.

    Args:
        precision: in which the networks compute their products.
        compile: whether the step is compiled; decided once, so that a resumed training computes as before.
        data: fingerprint of the training data; None where nothing compares it.
        epoch: epochs that are complete.
        step: steps of the current epoch that are complete.
        best_loss: lowest validation value so far, nats per datum.
        best_epoch: the epoch of `best`, counted from 1; 0 for none.
        waited: epochs since the lowest validation value, counted once the schedules have settled.
        last_loss: loss of the last step, nats per datum; None where it has no value.
        onednn: whether oneDNN computes the float32 products; None until it is measured.
        threads: of the last step; None before the first.
        sums: over the steps of the current epoch.
        rows: those of `History`, one for each complete epoch.
        best: the weights of `best_epoch`; empty for none.
        before: seconds that the training took before it was resumed.
        started: when this process began, by `time.monotonic`.
    """

    precision: Precision
    compile: bool
    data: str | None
    epoch: int = 0
    step: int = 0
    best_loss: float | None = None
    best_epoch: int = 0
    waited: int = 0
    last_loss: float | None = None
    onednn: bool | None = None
    threads: int | None = None
    sums: Sums = field(default_factory=Sums)
    rows: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    before: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def begun(self) -> bool:
        """Whether a step has been made."""
        return self.epoch > 0 or self.step > 0

    @property
    def seconds(self) -> float:
        """Seconds of training, summed over all resumptions."""
        return self.before + time.monotonic() - self.started

    def close_epoch(self, means: Mapping[str, float], steps: int, lr: float) -> None:
        """Append the row of the current epoch, and begin the next one.

        Args:
            means: the columns that are measured, by name, nats per datum.
            steps: number of steps in an epoch.
            lr: the learning rate of the last step.
        """
        done = self.epoch + 1
        row = {"epoch": done, "step": done * steps, "loss": self.sums.loss / self.sums.seen, **means}
        self.rows.append({**row, "lr": float(lr), "seconds": round(self.seconds, 3)})
        self.epoch, self.step, self.sums = done, 0, Sums()

    def judge(self, loss: float, settled: bool) -> bool:
        """Record a validation value; returns whether it is the lowest so far.

        Args:
            loss: the validation value of the current epoch, nats per datum.
            settled: whether to count an epoch without a lower value.
        """
        better = isfinite(loss) and (self.best_loss is None or loss < self.best_loss)
        if better:
            self.best_loss, self.waited = loss, 0
        elif settled:
            self.waited += 1
        return better

    def keep(self, weights: Mapping[str, Tensor]) -> None:
        """Copy the weights as the best ones, those of the current epoch."""
        self.best_epoch = self.epoch + 1
        self.best = {name: value.detach().clone() for name, value in weights.items()}

    # ---- as plain data

    def to_plain(self, optimizer: Mapping[str, Any]) -> dict[str, Any]:
        """`progress` of manifest.json.

        Args:
            optimizer: the numbers in the optimizer's state.
        """
        sums = asdict(self.sums) if self.sums.seen else {}
        entries = {name: getattr(self, name) for name in _PROGRESS}
        return {**entries, "optimizer": dict(optimizer), "sums": sums, "seconds": self.seconds}

    @classmethod
    def names(cls) -> set[str]:
        """The keys of `to_plain`."""
        return {*_PROGRESS, "optimizer", "sums", "seconds"}

    def resumed(self, progress: Mapping[str, Any], rows: Sequence[dict[str, Any]], best: Mapping[str, Tensor]) -> Self:
        """This ledger as a checkpoint holds it; the inverse of `to_plain`.

        Args:
            progress: as `check_progress` accepts it.
            rows: the rows of metrics.csv.
            best: the best weights, on their device.
        """
        entries = {name: progress[name] for name in _PROGRESS}
        sums = Sums(**progress["sums"])
        return replace(self, **entries, sums=sums, rows=list(rows), best=dict(best), before=progress["seconds"])


def chosen_by_elbo(progress: Mapping[str, Any]) -> bool:
    """Whether a progress is of a version that chose the best epoch by the ELBO, before the setting `keep`."""
    return "best_elbo" in progress


def translated(
    progress: Mapping[str, Any], rows: Sequence[dict[str, Any]], precision: Precision
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Progress and rows of a version that chose by the ELBO, in the present form.

    Args:
        progress: of the manifest.
        rows: of metrics.csv; the validation value of the objective is unknown there.
        precision: the setting, in which that version computed.
    """
    others = {name: value for name, value in progress.items() if name != "best_elbo"}
    found = {"precision": precision, **others, "best_loss": progress["best_elbo"]}
    return found, [{**row, "valid_loss": nan} if "valid_elbo" in row else row for row in rows]
