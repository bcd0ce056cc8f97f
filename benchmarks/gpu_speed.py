"""Parts 2 to 4 of `gpu.py`: the speed of the public `fit`, `log_marginal` and `ais`, as a user calls them."""

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import pairwise
from typing import Any

import ours
import ours_evidence
import torch
from common import PIXELS, evidence_problem, images
from gpu_settings import Row, Settings, in_time, memory_mb, seconds, spread
from torch import Tensor, from_numpy
from torch_common import Warnings

from pyro_vae import VAE, ais, fit, log_marginal
from pyro_vae.evidence import Annealing

MODES = {"compiled": True, "eager": False}
"""On a GPU the compiled step is replayed as a CUDA graph."""


# ---- training


def training(settings: Settings) -> Iterator[Row]:
    """Images/s of `fit` at each size of a batch, precision and mode; what matters most first."""
    warned = Warnings()
    cases = [
        (mode, precision, batch)
        for mode in MODES
        for precision in ("float32", "bf16")
        for batch in settings.sizes.batches
    ]
    for row in in_time(settings, cases, partial(_trained, settings)):
        yield {**row, "warnings": _taken(warned)}


def _trained(settings: Settings, case: tuple[str, str, int]) -> Row:
    mode, precision, batch = case
    num, epochs = settings.sizes.batches[batch]
    torch.manual_seed(settings.seed)
    start = time.monotonic()
    history = _fit(settings, batch, num, epochs, compile=MODES[mode], precision=precision)
    taken = time.monotonic() - start
    ends = history.column("seconds")[::epochs]
    least = 1e-3  # the resolution of the column
    return {
        "what": "fit",
        "mode": mode,
        "precision": precision,
        "batch": batch,
        "ran": history.mode,
        "images": num,
        "epochs_in_a_round": epochs,
        "images_per_second": spread([num * epochs / max(b - a, least) for a, b in pairwise(ends)]),
        "seconds_before": round(taken - (ends[-1] - ends[0]), 2),
        "loss": history.column("loss")[-1],
        "memory_mb": memory_mb(settings),
    }


def _fit(settings: Settings, batch: int, num: int, epochs: int, **options: Any) -> Any:
    """One epoch that is not timed, and the rounds; with a run directory and checkpoints."""
    x = training_images(settings, num).unflatten(-1, ours.EVENT)
    vae, optimizer = ours.make(settings.problem()), partial(torch.optim.Adam, lr=1e-3)
    options |= {"batch_size": batch, "optimizer": optimizer, "seed": settings.seed, "device": settings.device}
    with tempfile.TemporaryDirectory() as run:
        return fit(vae, x, epochs=1 + epochs * settings.sizes.rounds, run=run, progress=True, **options)


def training_images(settings: Settings, num: int) -> Tensor:
    """`[num, 784]`; the same 60,000 images again and again."""
    return _repeated_images(num, settings.seed)


@cache
def _repeated_images(num: int, seed: int) -> Tensor:
    x = from_numpy(images(min(num, 60_000), seed))
    return x.repeat(-(-num // len(x)), 1)[:num]


def _taken(warned: Warnings) -> list[str]:
    messages, warned.messages = warned.messages, []
    return messages


# ---- log p(x)


def evidence(settings: Settings) -> Iterator[Row]:
    """Images/s of `log_marginal`, in float32."""
    sizes = settings.sizes
    options = settings.problem(images=sizes.images, decoder=f"{sizes.latent}-{sizes.hidden}-{PIXELS}")
    vae, x = _problem(settings, options)

    def estimate(mode: str, num: int) -> Any:
        return log_marginal(
            vae.model, vae.guide, x[:num], num_particles=sizes.particles, seed=settings.seed, compile=MODES[mode]
        )

    row = {"what": "log_marginal", "precision": "float32", "particles": sizes.particles}
    yield from _estimated(settings, row, estimate, sizes.images, 50)


def annealing(settings: Settings) -> Iterator[Row]:
    """Images/s of `ais`, in float32, at the problem of `ours_annealing.py`."""
    sizes = settings.sizes
    options = settings.problem(images=sizes.annealed, decoder=f"50-200-200-{PIXELS}")
    vae, x = _problem(settings, options)
    how = Annealing(num_temperatures=sizes.temperatures, num_chains=sizes.chains)

    def estimate(mode: str, num: int) -> Any:
        return ais(vae.model, vae.guide, x[:num], annealing=how, seed=settings.seed, compile=MODES[mode])

    row = {"what": "ais", "precision": "float32", "temperatures": sizes.temperatures, "chains": sizes.chains}
    yield from _estimated(settings, row, estimate, sizes.annealed, sizes.annealed)


def _problem(settings: Settings, options: Any) -> tuple[VAE, Tensor]:
    """The model and the images of the evidence benchmarks, on the device."""
    problem = evidence_problem(options)
    return ours_evidence.make(problem).to(settings.device), from_numpy(problem.x).to(settings.device)


def _estimated(
    settings: Settings, row: Row, estimate: Callable[[str, int], Any], most: int, warm_up: int
) -> Iterator[Row]:
    """A row for each mode: an untimed pass, then rounds of as many images as fit in half of the time that is left."""
    warned = Warnings()

    def measured(mode: str) -> Row:
        passes = [seconds(settings, lambda: estimate(mode, warm_up)) for _ in range(1 + MODES[mode])]  # compiles first
        half = 0.5 * settings.left
        num = min(most, max(warm_up, int(warm_up * half / settings.sizes.estimates / passes[-1])))
        rounds = min(settings.sizes.estimates, max(1, int(half * warm_up / num / passes[-1])))
        found: list[Any] = []
        times = [seconds(settings, lambda: found.append(estimate(mode, num))) for _ in range(rounds)]
        return {
            **row,
            "mode": mode,
            "images": num,
            "images_per_second": spread([num / time for time in times]),
            "seconds_before": round(sum(passes), 2),
            "log_p": found[-1].mean,
            "standard_error": found[-1].standard_error_monte_carlo,
            **({"evaluations": found[-1].evaluations} if hasattr(found[-1], "evaluations") else {}),
            "memory_mb": memory_mb(settings),
            "warnings": _taken(warned),
        }

    yield from in_time(settings, list(MODES), measured)
