"""`History`: what `fit` returns; and its rows as text for the progress bar."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class History:
    """What happened in a training.

    Args:
        rows: one for each epoch, the columns of metrics.csv: `epoch`, `step`, `loss` (the objective, mean over all
            steps), `train_elbo`, `train_reconstruction`, `train_kl` (with beta = 1, of every `log_every`-th batch,
            before its step), `valid_loss` (the objective with the last values of its schedules, see `Validation`),
            `valid_elbo` and its terms (one draw for each validation datum, with the same noise in every epoch), `lr`,
            `seconds` (since the start, summed over all resumptions); nats per datum. For a guide without a width
            (`Delta`) there is no ELBO and no KL: the only terms are `train_reconstruction` and `valid_reconstruction`.
        best_epoch: the epoch whose weights the module has now.
        kept: why it has these, in words.
        stopped_early: whether the training ended because of `patience`.
        device: where it ran.
        mode: `"eager"`, or `"compiled (...)"` with the name of the compiler.
    """

    rows: list[dict[str, Any]]
    best_epoch: int
    kept: str
    stopped_early: bool
    device: str
    mode: str

    def column(self, name: str) -> list[float]:
        """One column of `rows`."""
        return [row[name] for row in self.rows]


def means_text(means: Mapping[str, float]) -> str:
    """Means over the current epoch, for the progress bar."""
    return "  ".join(f"{name} {value:.2f}" for name, value in means.items())


def row_text(row: Mapping[str, Any]) -> str:
    """A row of a finished epoch, for the progress bar."""
    means = {name: row[f"train_{name}"] for name in ("elbo", "reconstruction", "kl") if f"train_{name}" in row}
    valid = f"  valid loss {row['valid_loss']:.2f}" if "valid_loss" in row else ""
    valid += "".join(f"  {term} {row[f'valid_{term}']:.2f}" for term in [*means][:1] if f"valid_{term}" in row)
    return f"{means_text(means)}{valid}  {row['seconds']:.0f} s"


def without_elbo(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row for a guide without an ELBO; earlier versions wrote the same columns for every guide."""
    return {name: value for name, value in row.items() if not name.endswith(("_elbo", "_kl"))}
