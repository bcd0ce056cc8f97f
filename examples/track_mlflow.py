"""MLflow as the tracker of a training, in a local file: `python examples/track_mlflow.py --run runs/tracked`.

A tracker is any class with the three methods below; it derives from nothing. The command takes it by its import path,
in the folder of this file: `pyro-vae fit --tracker track_mlflow.MLflow --run runs/tracked`.
`mlflow ui --backend-store-uri sqlite:///mlflow.db` shows what was written.
"""

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyro_vae import VAE, fit, load_data, plots


class MLflow:
    """Writes everything to one run of MLflow, also over resumptions: the run directory keeps its id.

    Args:
        uri: where to: a file of SQLite, or the address of a server.
        experiment: the experiment there.
    """

    def __init__(self, uri: str = "sqlite:///mlflow.db", experiment: str = "pyro-vae") -> None:
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]

        self.client, self.experiment, self.id = MlflowClient(tracking_uri=uri), experiment, ""

    def settings(self, settings: Mapping[str, Any]) -> None:
        """Begin a run, or go on with that of the same run directory."""
        kept = None if settings["run"] is None else Path(settings["run"], "mlflow-run.txt")
        if kept is not None and kept.exists():
            self.id = kept.read_text()
            self.client.update_run(self.id, status="RUNNING")
            return
        found = self.client.get_experiment_by_name(self.experiment)
        experiment = self.client.create_experiment(self.experiment) if found is None else found.experiment_id
        self.id = self.client.create_run(experiment).info.run_id
        for name, value in _flat(settings):
            self.client.log_param(self.id, name, value)
        if kept is not None:
            kept.write_text(self.id)

    def numbers(self, numbers: Mapping[str, float], step: int) -> None:
        """A row of the history."""
        now = int(time.time() * 1000)
        for name, value in numbers.items():
            self.client.log_metric(self.id, name, value, timestamp=now, step=step)

    def figure(self, name: str, figure: Any, step: int) -> None:
        """A picture."""
        self.client.log_figure(self.id, figure, f"{name}-{step}.png")

    def close(self) -> None:
        """End the run."""
        if self.id:
            self.client.set_terminated(self.id)


def _flat(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as `vae.prior.class_path`, which MLflow can compare."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(description=__doc__)
    found.add_argument("--run", default="runs/tracked", help="the run directory")
    found.add_argument("--epochs", type=int, default=10)
    found.add_argument("--uri", default="sqlite:///mlflow.db", help="where to: a file of SQLite, or a server")
    return found


def main(options: argparse.Namespace) -> Sequence[Mapping[str, Any]]:
    """Train on the packaged digits; returns the rows of the history."""
    data = load_data("digits", binarize="dynamic")
    vae = VAE(data.event_shape, latent_dim=4)
    tracker = MLflow(options.uri)
    history = fit(vae, data, epochs=options.epochs, run=options.run, tracker=tracker)
    tracker.figure("curves", plots.curves(history.rows), history.rows[-1]["step"])
    tracker.close()
    return history.rows


if __name__ == "__main__":
    main(parser().parse_args())
