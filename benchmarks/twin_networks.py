"""Networks of the twins in plain torch: perceptrons, masked perceptrons, convolutions with and without blocks."""

from argparse import Namespace
from collections.abc import Callable

import torch
from common import PIXELS, make_layers
from torch import Tensor, nn
from torch.nn.functional import linear
from torch_common import network

Networks = Callable[[Namespace, int], tuple[nn.Module, nn.Module]]
"""Encoder, to so many numbers, and decoder."""
_SIDE, _GROUPS = 28, {16: 4, 32: 8}


def perceptron(*sizes: int, seed: int = 0) -> nn.Sequential:
    """With tanh between its layers."""
    return network(make_layers(list(sizes), seed))


def perceptrons(args: Namespace, outputs: int) -> tuple[nn.Module, nn.Module]:
    """The reference problem's."""
    encoder = perceptron(PIXELS, args.hidden, outputs, seed=args.seed + 1)
    return encoder, perceptron(args.latent, args.hidden, PIXELS, seed=args.seed + 2)


class Made(nn.Module):
    """A masked perceptron: `outputs` numbers for each code, from the codes before it and a context."""

    first: Tensor
    second: Tensor

    def __init__(self, size: int, context: int, outputs: int, hidden: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(size + context, hidden), nn.Linear(hidden, size * outputs)
        places = torch.arange(size)
        degrees = torch.arange(hidden) % size  # how many codes a unit sees
        sees = torch.cat([places < degrees.unsqueeze(-1), torch.ones(hidden, context, dtype=torch.bool)], -1)
        self.register_buffer("first", sees.float())
        self.register_buffer("second", (degrees <= places.repeat_interleave(outputs).unsqueeze(-1)).float())

    def forward(self, z: Tensor, context: Tensor) -> Tensor:
        """`[B, size]` and `[B, context]` to `[B, size * outputs]`."""
        inputs = torch.cat([z, context], -1)
        hidden = nn.functional.elu(linear(inputs, self.first * self.inner.weight, self.inner.bias))
        return linear(hidden, self.second * self.outer.weight, self.outer.bias)


def convolutions(args: Namespace, outputs: int) -> tuple[nn.Module, nn.Module]:
    """16 and 32 planes by stride 2, a dense layer of 128, SiLU."""
    encoder = nn.Sequential(_down(1, 16), nn.SiLU(), _down(16, 32), nn.SiLU(), nn.Flatten(), *_dense(1568, outputs))
    up = [nn.SiLU(), _up(32, 16, True), nn.SiLU(), _up(16, 1, False)]
    return Images(encoder), Upward(nn.Sequential(*_dense(args.latent, 1568)), nn.Sequential(*up))


def residual(args: Namespace, outputs: int) -> tuple[nn.Module, nn.Module]:
    """The same with a residual block at each size, and group norms."""
    down = [_down(1, 16), *_block(16), _down(16, 32), *_block(32)]
    encoder = nn.Sequential(*down, nn.Flatten(), *_dense(1568, outputs, norm=True))
    up = [*_block(32), _up(32, 16, True), *_block(16), _up(16, 1, False)]
    return Images(encoder), Upward(nn.Sequential(*_dense(args.latent, 1568, norm=True)), nn.Sequential(*up))


class Images(nn.Module):
    """A network of images that takes `[B, 784]`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """`[B, 784]` to `[B, outputs]`."""
        return self.network(x.view(-1, 1, _SIDE, _SIDE))


class Upward(nn.Module):
    """A dense part and transposed convolutions, with a bias for each pixel."""

    def __init__(self, dense: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(PIXELS))
        self.dense, self.network = dense, network

    def forward(self, z: Tensor) -> Tensor:
        """`[B, latent]` to `[B, 784]`."""
        return self.network(self.dense(z).view(-1, 32, 7, 7)).flatten(1) + self.bias


class Residual(nn.Module):
    """x + conv(act(norm(conv(act(norm(x))))))."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.GroupNorm(_GROUPS[planes], planes), nn.SiLU(), nn.Conv2d(planes, planes, 3, padding=1)]
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, planes, H, W]` to the same shape."""
        return x + self.body(x)


def _block(planes: int) -> list[nn.Module]:
    return [Residual(planes), nn.GroupNorm(_GROUPS[planes], planes), nn.SiLU()]


def _down(before: int, after: int) -> nn.Module:
    return nn.Conv2d(before, after, 3, 2, 1)


def _up(before: int, after: int, bias: bool) -> nn.Module:
    return nn.ConvTranspose2d(before, after, 3, 2, 1, output_padding=1, bias=bias)


def _dense(before: int, after: int, norm: bool = False) -> list[nn.Module]:
    return [nn.Linear(before, 128), *([nn.LayerNorm(128)] if norm else []), nn.SiLU(), nn.Linear(128, after)]
