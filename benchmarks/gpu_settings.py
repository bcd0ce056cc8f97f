"""What all parts of `gpu.py` share: the settings, the sizes, the clock, and the form of a row."""

import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from results import Spread

Row = dict[str, Any]
"""A measurement as plain data; `{"cut": text}` where one was left out for want of time."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Args:
        batches: data in a batch, each with the images of an epoch and the timed epochs of a round.
        hidden: width of the hidden layer of the VAE that is trained.
        latent: size of its code.
        images: for log p(x).
        particles: K.
        annealed: images for AIS.
        temperatures: steps of AIS.
        chains: of AIS.
        rounds: timed rounds of each measurement.
        estimates: timed rounds of each estimate of log p(x).
        round_s: shortest round of a loop that is repeated, seconds.
        side: of the square matrices of the largest product.
        copied: bytes of the copy by which the bandwidth is measured.
    """

    batches: dict[int, tuple[int, int]]
    hidden: int = 500
    latent: int = 20
    images: int = 10_000
    particles: int = 5000
    annealed: int = 250
    temperatures: int = 50
    chains: int = 16
    rounds: int = 5
    estimates: int = 3
    round_s: float = 0.2
    side: int = 8192
    copied: int = 4 << 30


FULL = Sizes({100: (60_000, 1), 1000: (200_000, 2), 10_000: (200_000, 10)})
QUICK = Sizes(
    {10: (40, 1), 20: (40, 1)},
    hidden=8,
    latent=2,
    images=20,
    particles=300,
    annealed=4,
    temperatures=4,
    chains=2,
    rounds=2,
    estimates=2,
    round_s=0.001,
    side=64,
    copied=1 << 20,
)


@dataclass(frozen=True)
class Settings:
    """How a part is run.

    Args:
        device: name of the device.
        quick: whether by tiny sizes.
        seed: of the data, the weights and the draws.
        deadline: when to have ended, by `time.monotonic`; an hour from now if not given.
    """

    device: str
    quick: bool = False
    seed: int = 0
    deadline: float = field(default_factory=lambda: time.monotonic() + 3600)

    @property
    def sizes(self) -> Sizes:
        """How much is measured."""
        return QUICK if self.quick else FULL

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return torch.device(self.device).type == "cuda"

    @property
    def left(self) -> float:
        """Seconds before the deadline."""
        return self.deadline - time.monotonic()

    def problem(self, **options: Any) -> Namespace:
        """Options as the benchmark scripts have them."""
        return Namespace(seed=self.seed, hidden=self.sizes.hidden, latent=self.sizes.latent, **options)


def wait(settings: Settings) -> None:
    """Until the device has done what it was given: a GPU runs behind Python."""
    if settings.on_gpu:
        torch.cuda.synchronize(settings.device)


def seconds(settings: Settings, run: Callable[[], object]) -> float:
    """Of one call, the device's work included."""
    wait(settings)
    start = time.perf_counter()
    run()
    wait(settings)
    return time.perf_counter() - start


def repeated(settings: Settings, run: Callable[[], object]) -> Spread:
    """Seconds of a short call: median and range over the rounds, each of as many calls as fill `round_s`."""
    run()
    once = max(seconds(settings, run), 1e-7)
    calls = max(1, round(settings.sizes.round_s / once))

    def all_calls() -> None:
        for _ in range(calls):
            run()

    found = Spread.of(seconds(settings, all_calls) / calls for _ in range(settings.sizes.rounds))
    assert found is not None
    return found


def spread(values: list[float]) -> dict[str, float]:
    """Median, range and number of the rounds as plain data."""
    found = Spread.of(values)
    assert found is not None
    return asdict(found)


def rates(amount: float, time: Spread) -> dict[str, float]:
    """An amount per second, from the seconds that it took."""
    return asdict(Spread(amount / time.median, amount / time.most, amount / time.least, time.count))


def memory_mb(settings: Settings) -> float | None:
    """Peak of what torch has allocated on the GPU since the last call, MB; None on a CPU."""
    if not settings.on_gpu:
        return None
    peak = torch.cuda.max_memory_allocated(settings.device)
    torch.cuda.reset_peak_memory_stats(settings.device)
    return round(peak / 2**20, 1)


def replayed(settings: Settings, step: Callable[[], object]) -> Callable[[], object]:
    """The same step as a CUDA graph, one launch for all its kernels; on a CPU the step itself.

    It is run three times on another stream first, where torch allocates what it keeps.
    """
    if not settings.on_gpu:
        return step
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def in_time(settings: Settings, cases: list[Any], run: Callable[[Any], Row]) -> Iterator[Row]:
    """The row of each case, as long as there is time for one that takes as long as the longest so far.

    A case that fails is reported and does not keep the others from being measured.
    """
    longest = 0.0
    for case in cases:
        if settings.left < longest:
            yield {"cut": f"{case}: {settings.left:.0f} s were left, a case before took {longest:.0f} s"}
            continue
        start = time.monotonic()
        try:
            yield run(case)
        except Exception as error:  # whatever a device may answer
            yield {"failed": f"{case}: {one_line(error)}"}
        longest = max(longest, time.monotonic() - start)


def one_line(error: BaseException) -> str:
    """Type and first line of an error."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:500]
