"""`GridNet`: convolutions between an image and a grid of codes, without a dense part."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from pyro_vae.arguments.values import check_choice, check_widths
from pyro_vae.errors import UsageError
from pyro_vae.networks.base import Network
from pyro_vae.networks.layers import (
    Activation,
    Norm,
    Residual,
    halves,
    levels_down,
    levels_up,
    nonlinearity,
    plane_norm,
)


class GridNet(Network):
    r"""Convolutions with stride 2 and residual blocks, from an image to a grid of vectors or back; no dense part.

    The direction follows from the shapes. Down, from an image `(H, W)` or `(C, H, W)` to a grid `(D, h, w)`: each
    convolution halves the sides (rounded up: 28, 14, 7). Up, from a grid to images `(num_params, H, W)` or
    `(num_params, C, H, W)`: exactly the same sizes in reverse order, then a bias for each element. Each vector
    depends on the image near its position only.

    Args:
        in_shape: shape of one input.
        out_shape: shape of one output.
        width: planes at each size.
        blocks: residual blocks at each size.
        kernel: side of the kernels, odd.
        activation: the nonlinearity.
        norm: before each nonlinearity, as for `ConvNet`.

    Raises:
        UsageError: if neither shape follows from the other by halving its sides, a size is not positive, the kernel is
            even, or a name is not known.

    References:
        van den Oord et al. 2017, Neural discrete representation learning, section 4.1.

    Example:
        >>> encoder, decoder = GridNet((28, 28), (16, 7, 7)), GridNet((16, 7, 7), (1, 28, 28))
        >>> grid = encoder(torch.zeros(5, 28, 28))
        >>> grid.shape, decoder(grid).shape
        (torch.Size([5, 16, 7, 7]), torch.Size([5, 1, 28, 28]))
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        width: int = 64,
        blocks: int = 1,
        kernel: int = 3,
        activation: Activation = "silu",
        norm: Norm = "none",
    ) -> None:
        super().__init__(in_shape, out_shape)
        check_widths("width and blocks", (width, blocks))
        check_choice("norm", norm, Norm)
        self.upward, sizes = self._sizes(kernel)
        act = nonlinearity(activation)

        def tail(planes: int) -> list[nn.Module]:
            residual = [Residual(planes, kernel, norm, act) for _ in range(blocks)]
            return [*residual, *plane_norm(norm, planes), act()]

        planes_in, planes_out = prod(self.in_shape[:-2]), prod(self.out_shape[:-2])
        inner = [width] * (len(sizes) - 1)
        if self.upward:
            self.ends = nn.Conv2d(planes_in, width, 1)
            self.levels = levels_up([*inner, planes_out], sizes[::-1], kernel, norm, tail)
            self.bias = nn.Parameter(torch.zeros(out_shape))
        else:
            self.levels = levels_down([planes_in, *inner], kernel, norm, tail)
            self.ends = nn.Conv2d(width, planes_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[*leading, *in_shape]` to `[*leading, *out_shape]`."""
        leading, planes = self._leading(x), x.reshape(-1, prod(self.in_shape[:-2]), *self.in_shape[-2:])
        if self.upward:
            return self.levels(self.ends(planes)).reshape(*leading, *self.out_shape) + self.bias
        return self.ends(self.levels(planes)).reshape(*leading, *self.out_shape)

    @torch.no_grad()
    def set_output_bias(self, bias: Tensor) -> None:
        """Set the last bias, which has one number for each element, to `bias` of shape `[*out_shape]`; upward only."""
        if not self.upward:
            super().set_output_bias(bias)
        self.bias.copy_(bias.reshape(self.out_shape))

    @property
    def has_output_bias(self) -> bool:
        """Whether it maps grids to images."""
        return self.upward

    def _sizes(self, kernel: int) -> tuple[bool, Sequence[tuple[int, int]]]:
        """Whether it maps grids to images, and the heights and widths from the image to the grid."""
        if kernel < 1 or kernel % 2 == 0:
            raise UsageError(f"GridNet needs a kernel of odd size, got {kernel}")
        if len(self.in_shape) >= 2 and len(self.out_shape) >= 2:
            start, end = self.in_shape[-2:], self.out_shape[-2:]
            upward = prod(start) < prod(end)
            image, grid = (end, start) if upward else (start, end)
            for times in range(1, max(image).bit_length() + 1):
                if (sizes := halves((image[0], image[1]), times))[-1] == tuple(grid):
                    return upward, sizes
        raise UsageError(
            "GridNet maps an image to a grid whose sides are its own halved once or more (rounded up: 28, 14, 7, 4), "
            f"or back, got {self.in_shape} to {self.out_shape}: take other codes=(height, width), or another network"
        )
