"""`python -m tests.fuzz KIND ... --count N --seed S`: what is left of each is one line of JSON a kind."""

import argparse
import collections
import contextlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch

from pyro_vae.cli.work import fit as fit_command
from pyro_vae.errors import NumericalError
from pyro_vae.training import searching
from tests.fuzz import mutations, targets

LIMIT = 5.0
"""Seconds of CPU that a reader may take."""


class Hang(BaseException):
    """No `Exception`, so that nobody takes it for an error of a file."""


def watched(reader):
    """The outcome of a reader, which may take `LIMIT`."""
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    try:
        return targets.outcome(reader)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def tried(kind, run, folder, seed):
    """The outcomes of all readers of one mutated copy, or what went wrong."""
    copy = targets.copied(run, folder)
    targets.mutate(mutations.draws(f"{kind} {seed}"), kind, copy)
    for reader in targets.readers(kind, copy):
        try:
            yield str(watched(reader))
        except Hang:
            yield "hang"
            print(f"{kind} {seed}: hang in {reader}\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        except Exception as error:
            yield "traceback"
            print(f"{kind} {seed}: {reader}: {error}\n{traceback.format_exc()}", file=sys.stderr, flush=True)


def check_whole(run, folder):
    """Files that nobody has changed are read and resumed: without that, refusals would say nothing."""
    for kind in targets.KINDS:
        for reader in targets.readers(kind, targets.copied(run, folder)):
            assert watched(reader) == (5 if kind in targets.TRAINING else 0), (kind, reader)


def quiet_and_quick():
    """No waiting for the disk, and an end to what takes too long or too much."""

    def ring(*_):
        raise Hang

    signal.signal(signal.SIGPROF, ring)
    os.fsync = lambda _: None
    os.environ["PYRO_VAE_TRACEBACK"] = "1"
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, resource.RLIM_INFINITY))


def without_training():
    """From now on no training by `fit --config`, nor by `search`."""

    def no_training(*_, **__):
        raise NumericalError("it would train now")

    fit_command.fit = searching.fit = no_training


def run_all(options):
    quiet_and_quick()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        run = targets.make(folder / "whole")
        without_training()
        check_whole(run, folder / "copy")
        for kind in options.kinds or targets.KINDS:
            found, started = collections.Counter(), time.process_time()
            for seed in range(options.seed, options.seed + options.count):
                found.update(tried(kind, run, folder / "copy", seed))
            seconds = round((time.process_time() - started) / options.count, 3)
            told = {"kind": kind, "mutations": options.count, "outcomes": dict(sorted(found.items()))}
            print(json.dumps({**told, "cpu_seconds_each": seconds}), flush=True)
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)


def main():
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__)
    parser.add_argument("kinds", nargs="*", choices=[*targets.KINDS, []], default=[])
    parser.add_argument("--count", type=int, default=2000, help="mutations of each kind")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the first mutation; a failure is found again by its own"
    )
    parser.add_argument("--folder", default=None, help="where the copies lie")
    run_all(parser.parse_args())


if __name__ == "__main__":
    main()
