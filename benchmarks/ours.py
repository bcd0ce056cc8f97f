"""Training speed of `pyro_vae.fit`, as a user calls it: logging, progress and checkpoints on.

Also the driver of `our_parts.py`. Under `torchrun` every process takes part and the first one prints.
"""

import os
import shutil
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from common import Clock, print_training, training_arguments, training_parser
from torch import Tensor, nn
from torch_common import Warnings, set_up, training_images

from pyro_vae import VAE, fit
from pyro_vae.data import Dataset
from pyro_vae.networks import MLP

EVENT = (28, 28)
MODES: dict[str, dict[str, Any]] = {
    "eager": {"compile": False, "precision": "float32"},
    "compiled": {"compile": True, "precision": "float32"},
    "bf16": {"compile": True, "precision": "bf16"},
}


def main(argv: list[str] | None = None) -> None:
    """Time it and print the line."""
    parser = training_parser(__doc__)
    parser.add_argument("--mode", choices=MODES, default="compiled")
    args = training_arguments(parser, argv)
    time_fit(f"ours, {args.mode}", args, Problem())


def make(args: Namespace, **parts: Any) -> VAE:
    """The reference VAE, or one with other parts."""
    network = partial(MLP, hidden=(args.hidden,), activation="tanh")
    return VAE(EVENT, args.latent, **{"encoder": network, "decoder": network, **parts})


@dataclass(frozen=True)
class Problem:
    """What is trained; by default the reference problem.

    Args:
        make: the autoencoder.
        objective: the objective; None for `fit`'s own.
        inputs: what the programs take in addition to x, `[num, *shape]` by name.
    """

    make: Callable[[Namespace], nn.Module] = make
    objective: Any = None
    inputs: Callable[[Namespace], dict[str, Tensor]] = lambda _: {}

    def data(self, args: Namespace, rows: int | None = None) -> Tensor | Dataset:
        """The images, or the first of them, with the inputs if there are any."""
        x = training_images(args)[:rows].unflatten(-1, EVENT)
        inputs = {name: {"train": value[:rows]} for name, value in self.inputs(args).items()}
        return Dataset("synthetic", x, inputs=inputs) if inputs else x


def time_fit(system: str, args: Namespace, problem: Problem) -> None:
    """Time `fit` on a problem and print the line.

    Args:
        system: what to call it.
        args: the options.
        problem: what is trained.
    """
    if _processes() > 1 and "pyro_vae.distributed" not in sys.modules:
        print('{"unsupported": "this version of fit trains in one process only"}')
        return
    onednn = set_up(args)
    start_count = getattr(problem.make(args), "start_count", 0)  # what a prior starts from may be more than a batch
    first, data = problem.data(args, max(args.batch, start_count)), problem.data(args)
    train = partial(fit, objective=problem.objective, batch_size=args.batch, seed=args.seed, **MODES[args.mode])
    warned, clock = Warnings(), Clock()
    train(problem.make(args), first, epochs=1, progress=False)
    clock.step()
    rates, loss = _epochs(train, problem.make(args), data, args) if args.epochs else ([], None)
    if _first():
        settings = {"onednn": onednn, "processes": _processes(), "warnings": warned.messages}
        print_training(system, args, rates, loss, clock.first_step_s, **settings)


def _epochs(train: Any, vae: nn.Module, data: Tensor | Dataset, args: Namespace) -> tuple[list[float], float]:
    """Images per second of each epoch after the first, and the last loss, from the table that `fit` returns."""
    optimizer = partial(torch.optim.Adam, lr=1e-3)
    with _folder() as folder:
        run = folder / "run"
        rows = train(vae, data, epochs=args.epochs + 1, optimizer=optimizer, run=run, progress=True).rows
    return [args.num / (after["seconds"] - before["seconds"]) for before, after in pairwise(rows)], rows[-1]["loss"]


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder that all processes of one `torchrun`, whose children they are, agree on; removed by the first."""
    folder = Path(tempfile.gettempdir()) / f"pyro-vae-benchmark-{os.getppid() if _processes() > 1 else os.getpid()}"
    folder.mkdir(exist_ok=True)
    try:
        yield folder
    finally:
        if _first():
            shutil.rmtree(folder, ignore_errors=True)


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _first() -> bool:
    return os.environ.get("RANK", "0") == "0"


if __name__ == "__main__":
    main()
