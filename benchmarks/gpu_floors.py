"""Part 5 of `gpu.py`: what the device can do: a loop written by hand, the matrix products alone, bytes copied.

The loop is plain PyTorch (`torch_loop.Loss`: the ELBO with its KL in closed form), Adam fused and capturable, and a
whole step is one CUDA graph. The data lie on the device, in an order drawn there anew for each epoch.
"""

from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import torch
from common import PIXELS
from gpu_settings import Row, Settings, in_time, rates, repeated, replayed, seconds, spread
from gpu_speed import training_images
from torch import Tensor
from torch_loop import Loss

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


def floors(settings: Settings) -> Iterator[Row]:
    """All of it, in the order of what it is needed for."""
    cases = [(precision, batch) for precision in DTYPES for batch in settings.sizes.batches]
    yield copied(settings)
    yield from in_time(settings, cases, partial(products_of_a_step, settings))
    yield from in_time(settings, cases, partial(by_hand, settings))
    yield from in_time(settings, [*_products(settings).items()], partial(_product, settings))


# ---- the loop


def by_hand(settings: Settings, case: tuple[str, int]) -> Row:
    """Images/s of the loop, an epoch of `fit` a round after one that is not timed; and its last loss."""
    precision, batch = case
    num, epochs = settings.sizes.batches[batch]
    torch.manual_seed(settings.seed)
    loop = _Loop(settings, training_images(settings, num).to(settings.device), batch, precision == "bf16")
    loop.epoch()
    times = [seconds(settings, lambda: [loop.epoch() for _ in range(epochs)]) for _ in range(settings.sizes.rounds)]
    return {
        "what": "loop by hand",
        "precision": precision,
        "batch": batch,
        "images": num,
        "images_per_second": spread([num * epochs / time for time in times]),
        "loss": loop.loss(),
    }


class _Loop:
    """The loop by hand; see the file."""

    def __init__(self, settings: Settings, x: Tensor, batch: int, bf16: bool) -> None:
        self.x, self.batch = x, batch
        self.module = Loss(settings.problem(kind="best", bf16=bf16)).to(settings.device)
        self.rows, self.total = x[:batch].clone(), torch.zeros((), device=x.device)
        self.index = torch.arange(batch, device=x.device)
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=1e-3, fused=True, capturable=settings.on_gpu)
        self.replay = replayed(settings, self.step)

    def step(self) -> None:
        """What a graph replays: no argument and no result but tensors that stay where they are."""
        torch.index_select(self.x, 0, self.index, out=self.rows)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.module(self.rows) / self.batch
        loss.backward()
        self.optimizer.step()
        self.total += loss.detach()

    def epoch(self) -> None:
        """All images in a new order, rounded down to whole batches."""
        self.total.zero_()
        order = torch.randperm(len(self.x), device=self.x.device)
        for index in order[: len(self.x) // self.batch * self.batch].split(self.batch):
            self.index.copy_(index)
            self.replay()

    def loss(self) -> float:
        """Mean of the last epoch, nats per image."""
        return self.total.item() / (len(self.x) // self.batch)


# ---- products and bytes


def products_of_a_step(settings: Settings, case: tuple[str, int]) -> Row:
    """Of each layer the product forwards, that for its weights, and (but for the first) that for its input."""
    precision, batch = case
    like = {"device": settings.device, "dtype": DTYPES[precision]}
    sizes = layers(settings)
    inputs = [torch.rand(batch, fan_in, **like) for fan_in, _ in sizes]
    errors = [torch.randn(batch, fan_out, **like) for _, fan_out in sizes]
    weights = [torch.randn(fan_out, fan_in, **like) for fan_in, fan_out in sizes]

    def step() -> None:
        for layer, (x, error, weight) in enumerate(zip(inputs, errors, weights, strict=True)):
            torch.mm(x, weight.T)
            torch.mm(error.T, x)
            if layer:
                torch.mm(error, weight)

    time = repeated(settings, replayed(settings, step))
    return {
        "what": "products of a step",
        "precision": precision,
        "batch": batch,
        "images_per_second": rates(batch, time),
        "flops_per_second": rates(batch * flops_of_a_step(sizes), time),
        "bytes_of_a_step": bytes_of_a_step(sizes, batch),
    }


def layers(settings: Settings) -> list[tuple[int, int]]:
    """Inputs and outputs of the layers of the VAE that is trained."""
    hidden, latent = settings.sizes.hidden, settings.sizes.latent
    return [*pairwise((PIXELS, hidden, 2 * latent)), *pairwise((latent, hidden, PIXELS))]


def flops_of_a_step(sizes: list[tuple[int, int]]) -> int:
    """Of an image: two for each weight, in each of three products (of the first layer in two)."""
    weights = [fan_in * fan_out for fan_in, fan_out in sizes]
    return 2 * (3 * sum(weights) - weights[0])


def bytes_of_a_step(sizes: list[tuple[int, int]], batch: int) -> int:
    """The least that a step moves, in float32: x, each layer's output written and read again, and Adam's update.

    Adam reads the weight, its gradient and two moments, and writes all but the gradient.
    """
    outputs = sum(fan_out for _, fan_out in sizes)
    return 4 * (batch * (sizes[0][0] + 2 * outputs) + 7 * sum((fan_in + 1) * fan_out for fan_in, fan_out in sizes))


def copied(settings: Settings) -> Row:
    """Bytes read and written by a copy from one place of the device's memory to another."""
    source = torch.zeros(settings.sizes.copied, dtype=torch.uint8, device=settings.device)
    target = torch.empty_like(source)
    time = repeated(settings, lambda: target.copy_(source))
    return {"what": "copy", "bytes": source.numel(), "bytes_per_second": rates(2 * source.numel(), time)}


def _products(settings: Settings) -> dict[str, tuple[str, int, list[int]]]:
    """By name: precision, rows, and the layers that the rows go through."""
    sizes = settings.sizes
    return {
        "decoder of log_marginal": ("float32", 12_500, [sizes.latent, sizes.hidden, PIXELS]),
        "decoder of ais": ("float32", sizes.annealed * sizes.chains, [50, 200, 200, PIXELS]),
        "square": ("float32", sizes.side, [sizes.side, sizes.side]),
        "square in bf16": ("bf16", sizes.side, [sizes.side, sizes.side]),
    }


def _product(settings: Settings, case: tuple[str, tuple[str, int, list[int]]]) -> Row:
    name, (precision, rows, widths) = case
    like = {"device": settings.device, "dtype": DTYPES[precision]}
    inputs = [torch.randn(rows, width, **like) for width in widths[:-1]]
    weights = [torch.randn(fan_in, fan_out, **like) for fan_in, fan_out in pairwise(widths)]

    def multiply() -> None:
        for x, weight in zip(inputs, weights, strict=True):
            torch.mm(x, weight)

    time = repeated(settings, replayed(settings, multiply))
    flops = 2 * rows * flops_of_a_row(widths)
    return {
        "what": "products",
        "of": name,
        "precision": precision,
        "rows": rows,
        "widths": widths,
        "flops_per_second": rates(flops, time),
    }


def flops_of_a_row(widths: list[int]) -> int:
    """Products of numbers in one pass of a row; half of its floating point operations."""
    return sum(fan_in * fan_out for fan_in, fan_out in pairwise(widths))
