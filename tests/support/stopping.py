"""Signals at a known step of a training; the command with one: `python -m tests.support.stopping STEP WORDS...`."""

import os
import signal
import sys
from contextlib import contextmanager
from itertools import count

from pyro_vae.cli import main
from pyro_vae.distributed import World
from pyro_vae.runs.loading import read_manifest
from pyro_vae.training.trainer import Trainer


@contextmanager
def signals_at(numbers):
    """Before the n-th step of the trainings within, counted from 1, this process sends itself the signal numbers[n]."""
    step, steps = Trainer.step, count(1)

    def signalled(trainer, *args):
        number = numbers.get(next(steps))
        if number:
            os.kill(os.getpid(), number)
        step(trainer, *args)

    Trainer.step = signalled
    try:
        yield
    finally:
        Trainer.step = step


def stop_before_a_sum(run):
    """Stops this process before the first collective after the second epoch is saved in the run directory `run`.

    Its parent learns of it by `os.waitpid`.
    """
    sums = World.sums

    def stopping(self, tensors):
        if (run / "manifest.json").exists() and read_manifest(run)["progress"]["epoch"] > 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        return sums(self, tensors)

    World.sums = stopping


if __name__ == "__main__":
    with signals_at({int(sys.argv[1]): signal.SIGTERM}):
        sys.exit(main(sys.argv[2:]))
