"""Layers of networks: initialised linear maps and convolutions, norms, nonlinearities, residual blocks."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import sqrt
from typing import Literal

import torch
from torch import Tensor, nn

from pyro_vae.arguments.values import check_choice

Activation = Literal["tanh", "relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "sigmoid"]


DenseNorm = Literal["none", "batch", "layer"]


Norm = Literal["none", "batch", "layer", "group"]


_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "sigmoid": nn.Sigmoid,
}


_MOST_GROUPS, _LEAST_IN_GROUP = 8, 4
"""GroupNorm limits: with few channels per group, a 1x1 map would be normalised to zero."""


# ---- dense ----------------------------------------------------------------------------------------------------------


def linear(fan_in: int, fan_out: int, maps: int = 1, bias: bool = True) -> nn.Linear:
    """`maps` affine maps side by side; weights start by Glorot's uniform rule for each map, biases at zero."""
    layer = nn.Linear(fan_in, maps * fan_out, bias=bias)
    with torch.no_grad():
        for weight in layer.weight.chunk(maps):
            nn.init.xavier_uniform_(weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def linear_of_two(layer: nn.Linear, x: Tensor, c: Tensor) -> Tensor:
    """The layer's output for x and c side by side, `[*leading, n]` and `[*leading, m]`, which broadcast afterwards."""
    of_x, of_c = layer.weight.split([x.shape[-1], c.shape[-1]], 1)
    return nn.functional.linear(x, of_x, layer.bias) + nn.functional.linear(c, of_c)


@torch.no_grad()
def start_constant(layer: nn.Linear, values: Tensor) -> None:
    """Initialise outputs of a layer as constants: zero weights, and `values` as biases where these are not nan.

    Example:
        >>> layer = torch.nn.Linear(2, 3)
        >>> start_constant(layer, torch.tensor([1.0, 2.0, 3.0]))
        >>> layer(torch.randn(2)).detach()
        tensor([1., 2., 3.])
    """
    fixed = ~values.isnan().to(layer.weight.device)
    layer.weight[fixed] = 0.0
    layer.bias[fixed] = values.to(layer.bias)[fixed]


def dense_layers(
    widths: Sequence[int], nonlinearity: Callable[[], nn.Module], norm: DenseNorm, dropout: float, maps: int = 1
) -> nn.Sequential:
    """A linear map, norm, nonlinearity and dropout from each width to the next, on inputs `[*leading, widths[0]]`.

    Args:
        widths: of the input and of each layer's output.
        nonlinearity: makes the module after the norm, whose input has `maps` times the width.
        norm: before the nonlinearity.
        dropout: probability that an output of a layer is set to zero in training.
        maps: linear maps in each layer.
    """
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [linear(fan_in, fan_out, maps, bias=_has_bias(norm)), *_dense_norm(norm, maps * fan_out)]
        layers += [nonlinearity(), *([nn.Dropout(dropout)] if dropout else [])]
    return nn.Sequential(*layers)


class Gate(nn.Module):
    """`a * sigmoid(b)`, for `a` and `b` the halves of the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `[*leading, 2 n]` to `[*leading, n]`."""
        value, gate = x.chunk(2, -1)
        return value * gate.sigmoid()


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation of the last dimension, over all leading ones (particles and data)."""

    def forward(self, input: Tensor) -> Tensor:
        """Map `[*leading, n]` to the same shape."""
        return super().forward(input.reshape(-1, input.shape[-1])).reshape(input.shape)


def _dense_norm(norm: DenseNorm, width: int) -> list[nn.Module]:
    if norm == "none":
        return []
    return [BatchNorm(width) if norm == "batch" else nn.LayerNorm(width)]


def _has_bias(norm: Norm) -> bool:
    """Whether the layer has a bias: batch normalisation would remove it again."""
    return norm != "batch"


# ---- convolutions ---------------------------------------------------------------------------------------------------


def levels_down(channels: Sequence[int], kernel: int, norm: Norm, tail: Callable[[int], list[nn.Module]]) -> nn.Module:
    """Convolutions from `channels[0]` planes through each number of planes; each halves the sides (rounded up).

    Args:
        channels: planes of the image and of each level.
        kernel: side of the kernels.
        norm: the norm in `tail`.
        tail: makes the modules after the convolution of a level, given its planes.
    """
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(channels):
        layers += [_conv(fan_in, fan_out, kernel, stride=2, bias=_has_bias(norm)), *tail(fan_out)]
    return nn.Sequential(*layers)


def levels_up(
    channels: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    kernel: int,
    norm: Norm,
    tail: Callable[[int], list[nn.Module]],
) -> nn.Module:
    """The reverse of `levels_down`: from `channels[0]` planes of `sizes[0]` to an image with the last of each.

    The last layer has no bias.

    Args:
        channels: planes of each level and of the image.
        sizes: their heights and widths; each is half of the next, rounded up.
        kernel: side of the kernels.
        norm: the norm in `tail`.
        tail: makes the modules before the convolution of a level, given its planes.
    """
    layers: list[nn.Module] = []
    last = len(channels) - 2
    for i, (fan_in, fan_out) in enumerate(pairwise(channels)):
        bias = i < last and _has_bias(norm)
        layers += [*tail(fan_in), _transposed(fan_in, fan_out, kernel, sizes[i], sizes[i + 1], bias)]
    return nn.Sequential(*layers)


def halves(size: tuple[int, int], times: int) -> list[tuple[int, int]]:
    """Height and width, and their values after each halving, rounded up."""
    sizes = [size]
    for _ in range(times):
        height, width = sizes[-1]
        sizes.append((-(-height // 2), -(-width // 2)))
    return sizes


def plane_norm(norm: Norm, channels: int) -> list[nn.Module]:
    """The norm of images `[N, channels, H, W]`, as a list of one module or none."""
    if norm == "none":
        return []
    if norm == "batch":
        return [nn.BatchNorm2d(channels)]
    return [nn.GroupNorm(1 if norm == "layer" else _groups(channels), channels)]


class Residual(nn.Module):
    """A block `x + conv(act(norm(conv(act(norm(x))))))`, of He et al. 2016.

    Args:
        channels: planes of input and output.
        kernel: side of the kernels.
        norm: before each nonlinearity.
        nonlinearity: makes the modules after the norms.
    """

    def __init__(self, channels: int, kernel: int, norm: Norm, nonlinearity: Callable[[], nn.Module]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            conv = _conv(channels, channels, kernel, stride=1, bias=_has_bias(norm))
            layers += [*plane_norm(norm, channels), nonlinearity(), conv]
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, channels, H, W]` to the same shape."""
        return x + self.body(x)


def _groups(channels: int) -> int:
    fitting = (n for n in range(1, _MOST_GROUPS + 1) if channels % n == 0)
    return max(n for n in fitting if n == 1 or channels // n >= _LEAST_IN_GROUP)


def _conv(channels_in: int, channels_out: int, kernel: int, stride: int, bias: bool) -> nn.Conv2d:
    """A convolution, padded so that a side of n becomes one of n / stride, rounded up."""
    conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=bias)
    _he(conv, channels_in * kernel**2)
    return conv


def _transposed(
    channels_in: int, channels_out: int, kernel: int, start: tuple[int, int], end: tuple[int, int], bias: bool
) -> nn.ConvTranspose2d:
    """The transpose of the convolution with stride 2 that maps images of size `end` to size `start`."""
    extra = (end[0] - 2 * start[0] + 1, end[1] - 2 * start[1] + 1)
    conv = nn.ConvTranspose2d(channels_in, channels_out, kernel, 2, kernel // 2, output_padding=extra, bias=bias)
    _he(conv, channels_in * kernel**2 / 4)
    return conv


def _he(conv: nn.Conv2d | nn.ConvTranspose2d, fan_in: float) -> None:
    """He's uniform rule; `fan_in` is the mean number of terms in a sum, which a transposed stride reduces."""
    limit = sqrt(6 / fan_in)
    nn.init.uniform_(conv.weight, -limit, limit)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


# ---- options --------------------------------------------------------------------------------------------------------


def nonlinearity(activation: Activation) -> type[nn.Module]:
    """The class of an activation.

    Raises:
        UsageError: if it is not known.
    """
    check_choice("activation", activation, Activation)
    return _ACTIVATIONS[activation]
