"""Networks from images to vectors or from vectors to images: `ConvNet`, and `ResNet` with residual blocks."""

from math import prod

import torch
from torch import Tensor, nn

from pyro_vae.arguments.values import check_choice, check_widths
from pyro_vae.errors import UsageError
from pyro_vae.networks.base import Network, Shape, concatenated
from pyro_vae.networks.dense import MLP
from pyro_vae.networks.layers import (
    Activation,
    DenseNorm,
    Norm,
    Residual,
    halves,
    levels_down,
    levels_up,
    nonlinearity,
    plane_norm,
)


class _Convolutional(Network):
    """Convolutions with stride 2 and a dense part, from an image to a vector or from a vector to an image."""

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        channels: tuple[int, ...],
        hidden: tuple[int, ...],
        kernel: int,
        activation: Activation,
        norm: Norm,
        blocks: int,
    ) -> None:
        super().__init__(in_shape, out_shape)
        self._check(channels, kernel, norm)
        self.upward = not _is_image(in_shape)
        act = nonlinearity(activation)
        dense_norm: DenseNorm = "layer" if norm == "group" else norm

        def tail(planes: int) -> list[nn.Module]:
            residual = [Residual(planes, kernel, norm, act) for _ in range(blocks)]
            return [*residual, *plane_norm(norm, planes), act()]

        def dense(start: Shape, end: Shape) -> MLP:
            return MLP(start, end, hidden=hidden, activation=activation, norm=dense_norm)

        image = out_shape if self.upward else in_shape
        planes = [prod(image[:-2]), *channels]
        sizes = halves((image[-2], image[-1]), len(channels))
        code = (channels[-1], *sizes[-1])
        if self.upward:
            self.dense = dense(in_shape, code)
            self.convolutions = levels_up(planes[::-1], sizes[::-1], kernel, norm, tail)
            self.bias = nn.Parameter(torch.zeros(out_shape))
        else:
            self.convolutions = levels_down(planes, kernel, norm, tail)
            self.dense = dense(code, out_shape)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[*leading, *in_shape]` to `[*leading, *out_shape]`."""
        leading = self._leading(x)
        if self.upward:
            images = self.convolutions(self.dense(x.reshape(-1, *self.in_shape)))
            return images.reshape(*leading, *self.out_shape) + self.bias
        images = x.reshape(-1, prod(self.in_shape[:-2]), *self.in_shape[-2:])
        return self.dense(self.convolutions(images)).reshape(*leading, *self.out_shape)

    @torch.no_grad()
    def set_output_bias(self, bias: Tensor) -> None:
        """Set the last bias, which has one number for each element, to `bias` of shape `[*out_shape]`."""
        if self.upward:
            self.bias.copy_(bias.reshape(self.out_shape))
        else:
            self.dense.set_output_bias(bias)

    def start_output_at(self, values: Tensor) -> None:
        """As `Network`, from images to vectors; upwards nothing is done."""
        if not self.upward:
            self.dense.start_output_at(values)

    @classmethod
    def joined_shape(cls, in_shape: tuple[int, ...], context: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of an image with c as further planes: c itself if it is an image, else a plane for each number.

        Args:
            in_shape: shape of one x; if it is a vector, both are flattened.
            context: shape of one c: `(n,)`, or `(H, W)` or `(n, H, W)` of the image's size.

        Raises:
            UsageError: if the context has another shape.
        """
        if not _is_image(in_shape):
            return super().joined_shape(in_shape, context)
        return (prod(in_shape[:-2]) + cls._context_planes(in_shape, context), *in_shape[-2:])

    @classmethod
    def join(cls, x: Tensor, c: Tensor, in_shape: tuple[int, ...], context: tuple[int, ...]) -> Tensor:
        """As `Network.join`, by the rule of `joined_shape`."""
        if not _is_image(in_shape):
            return super().join(x, c, in_shape, context)
        size = in_shape[-2:]
        x = x.reshape(*x.shape[: x.dim() - len(in_shape)], prod(in_shape[:-2]), *size)
        spatial = size if len(context) > 1 else (1, 1)
        c = c.reshape(*c.shape[: c.dim() - len(context)], cls._context_planes(in_shape, context), *spatial)
        return concatenated(x, c.expand(*c.shape[:-2], *size), event_dims=3)

    @classmethod
    def _context_planes(cls, in_shape: tuple[int, ...], context: tuple[int, ...]) -> int:
        if len(context) <= 1:
            return prod(context)
        if not _is_image(context) or context[-2:] != in_shape[-2:]:
            raise UsageError(
                f"{cls.__name__} on images {list(in_shape)} takes a context [n], or an image of the same height and "
                f"width as planes, got {list(context)}: flatten it, or resize it"
            )
        return prod(context[:-2])

    def _check(self, channels: tuple[int, ...], kernel: int, norm: Norm) -> None:
        name = type(self).__name__
        if not (_is_image(self.in_shape) or (len(self.in_shape) == 1 and len(self.out_shape) in (3, 4))):
            raise UsageError(
                f"{name} maps an image (H, W) or (C, H, W) to anything, or a vector (n,) to images (num_params, H, W) "
                f"or (num_params, C, H, W), got {self.in_shape} to {self.out_shape}: use MLP, or give the data the "
                "shape of images"
            )
        for image in (self.in_shape, self.out_shape[1:]):
            if _is_channels_last(image):
                raise UsageError(
                    f"{name} takes images with channels first, (C, H, W), got {image}, which looks like (H, W, C): "
                    f"give the data as x.movedim(-1, 1), and event_shape={(*image[-1:], *image[:-1])}"
                )
        if not channels:
            raise UsageError(f"{name} needs channels of at least one convolution, e.g. (32, 64); for none use MLP")
        check_widths("channels", channels)
        check_choice("norm", norm, Norm)
        if kernel < 1 or kernel % 2 == 0:
            raise UsageError(f"{name} needs a kernel of odd size, got {kernel}")


class ConvNet(_Convolutional):
    r"""Convolutions with stride 2 between an image and a vector, with a dense part next to the vector.

    The direction follows from the shapes. Down, from an image `(H, W)` or `(C, H, W)`: convolutions halve the sides
    (rounded up: 28, 14, 7, 4); an `MLP` follows. Up, from a vector to images `(num_params, H, W)` or
    `(num_params, C, H, W)`: an `MLP`, then transposed convolutions with exactly the same sizes in reverse order, then a
    bias for each element. So encoder and decoder can have the same options. A context joins images as further planes.

    Convolutions start by He's uniform rule (transposed ones: by the number of terms in each sum, which the stride
    reduces), the dense part as `MLP` does, biases at zero.

    Args:
        in_shape: shape of one input.
        out_shape: shape of one output.
        channels: planes after each convolution downwards, starting next to the image; upwards in reverse order.
        hidden: widths of the dense part's hidden layers; empty for one affine map.
        kernel: side of the kernels, odd.
        activation: the nonlinearity after each layer but the last.
        norm: before each nonlinearity: `"batch"`, as for `MLP`; `"layer"`, over all planes of an image;
            `"group"`, over each of at most 8 groups of planes. The dense part uses `"layer"` for the last two.

    Raises:
        UsageError: if neither direction fits the shapes, a size is not positive, the kernel is even, or a name is not
            known.

    References:
        Radford et al. 2016, Unsupervised representation learning with deep convolutional generative adversarial
        networks. He et al. 2015, Delving deep into rectifiers. Wu & He 2018, Group normalization.

    Example:
        >>> encoder, decoder = ConvNet((28, 28), (2, 50)), ConvNet((50,), (1, 28, 28))
        >>> params = encoder(torch.zeros(5, 28, 28))
        >>> params.shape, decoder(params[:, 0]).shape
        (torch.Size([5, 2, 50]), torch.Size([5, 1, 28, 28]))
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        channels: tuple[int, ...] = (32, 64),
        hidden: tuple[int, ...] = (256,),
        kernel: int = 3,
        activation: Activation = "silu",
        norm: Norm = "none",
    ) -> None:
        super().__init__(in_shape, out_shape, channels, hidden, kernel, activation, norm, blocks=0)


class ResNet(_Convolutional):
    r"""`ConvNet` with residual blocks at each size of the image.

    .. math:: h' = h + W_2 * \mathrm{act}(\mathrm{norm}(W_1 * \mathrm{act}(\mathrm{norm}(h))))

    Directions, sizes, first weights and the joining of a context are those of `ConvNet`. A norm and a nonlinearity
    follow the last block of each size.

    Args:
        in_shape: shape of one input.
        out_shape: shape of one output.
        channels: planes at each size downwards, starting at half the image's size; upwards in reverse order.
        blocks: residual blocks at each size.
        hidden: widths of the dense part's hidden layers; empty for one affine map.
        kernel: side of the kernels, odd.
        activation: the nonlinearity.
        norm: as for `ConvNet`.

    Raises:
        UsageError: as `ConvNet`; or if `blocks` is below 1.

    References:
        He et al. 2016, Identity mappings in deep residual networks. Kingma et al. 2016, Improved variational inference
        with inverse autoregressive flow, has such networks for VAEs.

    Example:
        >>> ResNet((3, 32, 32), (2, 64), channels=(16, 32, 32))(torch.zeros(5, 3, 32, 32)).shape
        torch.Size([5, 2, 64])
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        channels: tuple[int, ...] = (32, 64),
        blocks: int = 2,
        hidden: tuple[int, ...] = (256,),
        kernel: int = 3,
        activation: Activation = "silu",
        norm: Norm = "group",
    ) -> None:
        if blocks < 1:
            raise UsageError(f"ResNet needs blocks >= 1 at each size, got {blocks}; for none use ConvNet")
        super().__init__(in_shape, out_shape, channels, hidden, kernel, activation, norm, blocks)


def _is_channels_last(shape: tuple[int, ...]) -> bool:
    """Whether a shape is that of a square image followed by 1, 3 or 4 channels."""
    return len(shape) == 3 and shape[0] == shape[1] > 4 and shape[2] in (1, 3, 4)


def _is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) in (2, 3)
