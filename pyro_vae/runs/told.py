"""`tracked.json`: up to which step of a run each tracker was told."""

import json
from pathlib import Path
from typing import TypedDict

from pyro_vae.runs import files as run_files
from pyro_vae.runs.formats import parse_json
from pyro_vae.runs.schema import Count

_FILE = "tracked.json"


class Steps(TypedDict):
    """Steps up to which a tracker was told."""

    numbers: Count
    figures: Count


class Told:
    """What a tracker was told of a run, also by earlier processes.

    It is written before each call: a process that is killed in between leaves a row out, rather than telling it twice.

    Args:
        run: the run directory; None to keep it in memory.
        name: of the tracker.
    """

    def __init__(self, run: Path | None, name: str) -> None:
        self._run, self._name = run, name
        self._steps: dict[str, Steps] = {}

    def read(self) -> None:
        """Read the file, if there is one.

        Raises:
            CheckpointError: if it is damaged.
            FileError: if it can't be read.
        """
        if self._run is not None and run_files.has(self._run, _FILE):
            where = f"{self._run}/{_FILE} (delete it, and trackers are told everything again)"
            data = run_files.read(self._run, _FILE, run_files.LARGEST_TEXT)
            self._steps = parse_json(data, dict[str, Steps], where)

    @property
    def steps(self) -> Steps:
        """Of this tracker; zeros in the beginning."""
        return self._steps.get(self._name, {"numbers": 0, "figures": 0})

    def note(self, steps: Steps) -> None:
        """Keep the steps of this tracker.

        Raises:
            FileError: if they can't be written.
        """
        self._steps[self._name] = steps
        if self._run is not None:
            run_files.write(self._run, _FILE, json.dumps(self._steps, indent=1).encode(), synced=False)
