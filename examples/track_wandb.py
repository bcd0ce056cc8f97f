"""Weights & Biases as the tracker of a training, offline: `python examples/track_wandb.py --run runs/tracked`.

A tracker is any class with the three methods below; it derives from nothing. The command takes it by its import path,
in the folder of this file: `pyro-vae fit --tracker track_wandb.WeightsAndBiases --run runs/tracked`.
What was written offline is sent by `wandb sync runs/tracked/wandb/offline-run-*`.
"""

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyro_vae import VAE, fit, load_data, plots


class WeightsAndBiases:
    """Sends everything to one run of Weights & Biases, also over resumptions.

    Args:
        project: the project there.
        mode: `offline` writes files alone; `online` sends them.
    """

    def __init__(self, project: str = "pyro-vae", mode: str = "offline") -> None:
        import matplotlib.pyplot  # noqa: F401  # which wandb.Image looks for
        import wandb  # pyright: ignore[reportMissingImports]

        self.wandb, self.project, self.mode, self.run = wandb, project, mode, None

    def settings(self, settings: Mapping[str, Any]) -> None:
        """Begin a run, or go on with that of the same run directory, which its id is made of."""
        folder = None if settings["run"] is None else Path(settings["run"]).absolute()
        name = {} if folder is None else {"id": _id_of(folder), "name": folder.name, "dir": str(folder)}
        resume = "allow" if self.mode == "online" else None  # offline parts have the same id, and are one once sent
        quiet = self.wandb.Settings(console="off", silent=True)  # what is printed is no part of the run
        where = {"project": self.project, "mode": self.mode, "settings": quiet, **name}
        self.run = self.wandb.init(config=dict(settings), resume=resume, **where)

    def numbers(self, numbers: Mapping[str, float], step: int) -> None:
        """A row of the history."""
        assert self.run is not None
        self.run.log(dict(numbers), step=step)

    def figure(self, name: str, figure: Any, step: int) -> None:
        """A picture."""
        assert self.run is not None
        self.run.log({name: self.wandb.Image(figure)}, step=step)

    def close(self) -> None:
        """End the run."""
        if self.run is not None:
            self.run.finish()


def _id_of(folder: Path) -> str:
    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(description=__doc__)
    found.add_argument("--run", default="runs/tracked", help="the run directory")
    found.add_argument("--epochs", type=int, default=10)
    found.add_argument("--mode", default="offline", choices=["offline", "online"])
    return found


def main(options: argparse.Namespace) -> Sequence[Mapping[str, Any]]:
    """Train on the packaged digits; returns the rows of the history."""
    data = load_data("digits", binarize="dynamic")
    vae = VAE(data.event_shape, latent_dim=4)
    tracker = WeightsAndBiases(mode=options.mode)
    history = fit(vae, data, epochs=options.epochs, run=options.run, tracker=tracker)
    tracker.figure("curves", plots.curves(history.rows), history.rows[-1]["step"])
    tracker.close()
    return history.rows


if __name__ == "__main__":
    main(parser().parse_args())
