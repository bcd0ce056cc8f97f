"""A tracker is told how a training goes: each epoch, and its figures, once over all resumptions."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_vae.data import Dataset
from pyro_vae.errors import PyroVaeError, UsageError
from pyro_vae.objectives import Objective
from pyro_vae.runs.describing import describe
from pyro_vae.runs.told import Steps, Told
from pyro_vae.trackers import Guarded
from pyro_vae.training.settings import Settings, run_config


@dataclass(frozen=True)
class Described:
    """What a tracker is told first.

    Args:
        vae: what is trained.
        data: on what.
        objective: by which.
        settings: how.
        run: the run directory, or None.
    """

    vae: Any
    data: Dataset
    objective: Objective
    settings: Settings
    run: Path | None

    def plain(self) -> dict[str, Any]:
        """As plain data: that of config.yaml, or what can be said of programs that have no such description."""
        run = None if self.run is None else str(self.run)
        try:
            return {**run_config(self.vae, self.data, self.objective, self.settings), "run": run}
        except UsageError:
            parts = {"vae": type(self.vae).__name__, "objective": self.objective.loss_name}
            return {**parts, **{name: _described(value) for name, value in vars(self.settings).items()}, "run": run}


def _described(value: Any) -> Any:
    try:
        return describe(value)
    except UsageError:
        return getattr(value, "__name__", str(value))


@contextmanager
def telling(tracker: Any, described: Described) -> Iterator["Telling"]:
    """A `Telling`; a tracker that is made inside is closed at the end.

    Args:
        tracker: as `fit` takes it.
        described: what it is told first.
    """
    own = None if tracker is None or isinstance(tracker, Guarded) else Guarded(tracker)
    try:
        yield Telling(own or tracker, described)
    finally:
        if own is not None:
            own.close()


class Telling:
    """Tells a tracker the rows of the history.

    With a run directory a row is told when a checkpoint holds it, so a training that is resumed has none to repeat.
    Rows that a tracker has missed, since it failed or was not there yet, it is told when the run is resumed.

    Args:
        tracker: who is told; None for nobody.
        described: what it is told first.
    """

    def __init__(self, tracker: Guarded | None, described: Described) -> None:
        self._tracker, self._described = tracker, described
        self._told = Told(described.run, "" if tracker is None else tracker.name)

    def begin(self, rows: Sequence[Mapping[str, Any]], ends: bool) -> None:
        """Tell the settings, and what the tracker has missed.

        Args:
            rows: those of the checkpoint.
            ends: whether no others will come: then the settings are told only if a row is.
        """
        if self._tracker is not None:
            with self._noting(self._tracker):
                self._told.read()
            if not ends:
                self._open(self._tracker)
            self.rows(rows)

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Tell those rows that the tracker was not told yet."""
        for row in rows:
            if self._tracker is None or self._tracker.failed:
                return
            if row["step"] > self._told.steps["numbers"]:
                with self._once(self._tracker, {**self._told.steps, "numbers": row["step"]}):
                    numbers = {name: value for name, value in row.items() if name != "step"}
                    self._tracker.numbers(numbers, row["step"])

    def figures(self, figures: Mapping[str, Any], step: int) -> None:
        """Tell the figures of the trained model, if none were told at this step.

        Args:
            figures: of matplotlib, by name.
            step: the last step of the training.
        """
        if self._tracker is None:
            return
        with self._noting(self._tracker):
            self._told.read()
        if step > self._told.steps["figures"]:
            with self._once(self._tracker, {**self._told.steps, "figures": step}):
                for name, figure in figures.items():
                    self._tracker.figure(name, figure, step)

    @contextmanager
    def _once(self, tracker: Guarded, steps: Steps) -> Iterator[None]:
        """Note what will be told, and take the note back if the tracker fails."""
        before = self._told.steps
        self._open(tracker)
        with self._noting(tracker):
            self._told.note(steps)
            yield
            if tracker.failed:
                self._told.note(before)

    @contextmanager
    def _noting(self, tracker: Guarded) -> Iterator[None]:
        """A `tracked.json` that can't be read or written stops the tracker, not the training."""
        try:
            yield
        except PyroVaeError as error:
            tracker.give_up("tracked.json", error)

    def _open(self, tracker: Guarded) -> None:
        if not tracker.opened:
            tracker.settings(self._described.plain())
