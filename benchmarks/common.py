"""What all benchmark scripts share: options, synthetic images, starting weights, the clock and the printed line.

Only the standard library and NumPy, so that it runs in every peer's environment.
"""

import json
import os
import resource
import sys
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

PIXELS, DENSITY = 784, 0.13
_PACKAGES = (
    "pyro-vae",
    "torch",
    "pyro-ppl",
    "numpy",
    "jax",
    "jaxlib",
    "numpyro",
    "blackjax",
    "pythae",
    "pytorch-lightning",
)

Layers = list[tuple[np.ndarray, np.ndarray]]
"""A network as `(weight [in, out], bias [out])`, with tanh between two layers."""


# ---- training


def training_parser(description: str | None, torch: bool = True) -> ArgumentParser:
    """The options of every training script."""
    parser = _parser(description, torch)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=2, help="timed epochs, after one that is not; 0: first step only")
    parser.add_argument("--num", type=int, default=60_000, help="images in an epoch, rounded down to whole batches")
    parser.add_argument("--hidden", type=int, default=500)
    parser.add_argument("--latent", type=int, default=20)
    return parser


def training_arguments(parser: ArgumentParser, argv: list[str] | None) -> Namespace:
    """Parse; `num` becomes a whole number of batches, so that every system does the same work."""
    args = parser.parse_args(argv)
    args.num -= args.num % args.batch
    if args.num < 1:
        parser.error(f"--num must be at least one batch of {args.batch}")
    return args


class Clock:
    """Started after the imports; marks the end of the first step and of every epoch."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.first_step_s: float | None = None
        self.ends: list[float] = []

    def step(self) -> None:
        """After each step whose result is there; only the first counts."""
        if self.first_step_s is None:
            self.first_step_s = time.perf_counter() - self.started

    def epoch(self) -> None:
        """After each epoch."""
        self.ends.append(time.perf_counter())

    def rates(self, images: int) -> list[float]:
        """Images per second of every epoch but the first."""
        return [images / (end - start) for start, end in pairwise(self.ends)]


def print_training(
    system: str, args: Namespace, rates: list[float], loss: float | None, first_step_s: float | None, **settings: Any
) -> None:
    """The line of a training script.

    Args:
        system: what ran.
        args: its options.
        rates: images per second of each timed epoch.
        loss: mean loss per image of the last epoch, nats; None if only the first step ran.
        first_step_s: seconds from the end of the imports to the result of the first step.
        **settings: what was in force beyond the options.
    """
    _print(
        system=system,
        images_per_second=[round(rate, 1) for rate in rates],
        loss=None if loss is None else round(float(loss), 4),
        first_step_s=None if first_step_s is None else round(first_step_s, 4),
        settings={**vars(args), **settings},
    )


# ---- evidence


@dataclass(frozen=True)
class EvidenceProblem:
    """Images and a model whose log p(x) every system estimates: the same weights for all, so their values agree.

    Args:
        x: images `[N, 784]` in {0, 1}.
        encoder: x -> `(loc, log_scale)`, each `latent`, side by side.
        decoder: z -> logits.
    """

    x: np.ndarray
    encoder: Layers
    decoder: Layers

    @property
    def latent(self) -> int:
        """Size of z."""
        return len(self.decoder[0][0])


def evidence_parser(description: str | None, torch: bool = True, images: int = 100) -> ArgumentParser:
    """The options of every evidence script."""
    parser = _parser(description, torch)
    parser.add_argument("--particles", type=int, default=5000, help="K, importance samples for each image")
    parser.add_argument("--images", type=int, default=images)
    parser.add_argument("--repeats", type=int, default=1, help="timed passes; the error of log p(x) is that over them")
    parser.add_argument("--warm-up", type=int, default=50, help="images of the untimed pass that comes first")
    parser.add_argument("--decoder", default="20-500-784", help="sizes of the layers; the encoder mirrors them")
    return parser


def evidence_problem(args: Namespace) -> EvidenceProblem:
    """Made from the options alone.

    The last layers' weights are a tenth of Glorot's: q(z|x) is then so near to p(z|x) that K draws estimate log p(x) to
    a few hundredths of a nat, and a system that computes something else is seen. Speed does not depend on it.
    """
    sizes = [int(size) for size in args.decoder.split("-")]
    encoder = make_layers([sizes[-1], *sizes[-2:0:-1], 2 * sizes[0]], args.seed + 1, last=0.1)
    decoder = make_layers(sizes, args.seed + 2, last=0.1)
    decoder[-1][1][:] = np.log(DENSITY / (1 - DENSITY))
    return EvidenceProblem(images(args.images, args.seed, sizes[-1]), encoder, decoder)


def time_evidence(
    system: str, args: Namespace, log_p: Callable[[int], float], memory: "Memory", **settings: Any
) -> None:
    """Run `log_p` once untimed and `--repeats` times timed, and print the line of an evidence script.

    Args:
        system: what is run.
        args: its options.
        log_p: maps a number n to the mean log p(x) of the first n images, nats; at each call by other draws.
        memory: made after the imports and the problem.
        **settings: what was in force beyond the options.
    """
    log_p(min(args.warm_up, args.images))
    before = memory.resident_mb()
    memory.reset_peak()
    start = time.perf_counter()
    values = [float(log_p(args.images)) for _ in range(args.repeats)]
    seconds = (time.perf_counter() - start) / args.repeats
    peak = memory.peak_mb()
    _print(
        system=system,
        images_per_second=round(args.images / seconds, 3),
        log_p=round(fmean(values), 5),
        log_p_error=round(stdev(values) / args.repeats**0.5, 5) if args.repeats > 1 else None,
        extra_rss_mb=round(peak - before, 1),
        extra_rss_with_warm_up_mb=round(peak - memory.imports_mb, 1),
        settings={**vars(args), **settings},
    )


class Memory:
    """Resident memory of this process in MB. Made after the imports, whose share it remembers."""

    def __init__(self) -> None:
        self.imports_mb = self.resident_mb()

    def resident_mb(self) -> float:
        """Now; where the system does not tell, the peak so far."""
        return _status("VmRSS") or _peak_so_far()

    def peak_mb(self) -> float:
        """The peak since `reset_peak`; where it can't be reset, since the start."""
        return _status("VmHWM") or _peak_so_far()

    def reset_peak(self) -> None:
        """Let the peak start from what is resident now (Linux)."""
        clear = Path("/proc/self/clear_refs")
        if clear.exists():
            clear.write_text("5")


def _status(name: str) -> float | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def _peak_so_far() -> float:
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


# ---- both


def images(num: int, seed: int, pixels: int = PIXELS) -> np.ndarray:
    """Synthetic images in {0, 1}, `[num, pixels]` float32, about as dense as MNIST's."""
    return (np.random.default_rng(seed).random((num, pixels), dtype=np.float32) < DENSITY).astype(np.float32)


def make_layers(sizes: list[int], seed: int, last: float = 1.0) -> Layers:
    """Weights by Glorot's uniform rule (the last layer's times `last`), biases zero; float32."""
    generator = np.random.default_rng(seed)
    layers = []
    for fan_in, fan_out in pairwise(sizes):
        limit = (6 / (fan_in + fan_out)) ** 0.5
        weight = generator.uniform(-limit, limit, (fan_in, fan_out)).astype(np.float32)
        layers.append((weight, np.zeros(fan_out, np.float32)))
    layers[-1][0][:] *= last
    return layers


def use_cores(count: int) -> None:
    """Confine this process to so many cores, for libraries that have no other way to say how many threads."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def _parser(description: str | None, torch: bool) -> ArgumentParser:
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    if torch:
        parser.add_argument(
            "--onednn", action="store_true", help="send float32 products to oneDNN, if they are exact there"
        )
    return parser


def _print(**line: Any) -> None:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    print(json.dumps({**line, "versions": versions}), flush=True)
