"""Encoder and decoder networks. To add one, subclass `Network`; any leading dimensions pass through unchanged."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from inspect import signature
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.errors import PyroVaeError, UsageError
from pyro_vae.layers import (
    Activation,
    DenseNorm,
    Gate,
    Norm,
    Residual,
    check_choice,
    check_dropout,
    check_widths,
    dense_layers,
    halves,
    levels_down,
    levels_up,
    linear,
    nonlinearity,
    plane_norm,
)

Shape = tuple[int, ...]


class FromShapes(nn.Module, ABC):
    """What a VAE's `encoder` and `decoder` build: a torch module made by `cls(in_shape, out_shape, **its own options)`.

    Every `Network`, and every other `torch.nn.Module` with such a constructor, without a word about it in its own code:
    `issubclass` goes by the constructor. `build` makes a `Network` of either.
    """

    @classmethod
    def __subclasshook__(cls, candidate: type) -> bool:
        if cls is FromShapes and issubclass(candidate, nn.Module) and _takes_two(candidate):
            return True
        return NotImplemented


class Network(FromShapes):
    """A map from `in_shape` to `out_shape` that keeps any number of leading dimensions (particles, batch).

    A subclass takes `(in_shape, out_shape, **its own options)` and implements `forward`.
    One that ends in a bias also implements `set_output_bias`; one that is not for flat inputs says by `joined_shape`
    and `join` how its input takes up a context.

    Args:
        in_shape: shape of one input.
        out_shape: shape of one output.
    """

    compute_dtype: torch.dtype | None = None
    """Type that products are computed in; None for that of the weights. `computing_in` sets it for a time."""

    def __init__(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)

    def __call__(self, x: Tensor) -> Tensor:
        """`forward`, in `compute_dtype`; the result has the type of `x`."""
        if self.compute_dtype is None:
            return super().__call__(x)
        with torch.autocast(x.device.type, self.compute_dtype):
            return super().__call__(x).to(x.dtype)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Map `[*leading, *in_shape]` to `[*leading, *out_shape]`."""

    def set_output_bias(self, bias: Tensor) -> None:
        """Make the output start at `bias` of shape `[*out_shape]`, whatever the input's mean contribution is.

        Raises:
            UsageError: if this network has no output bias.
        """
        raise UsageError(
            f"{type(self).__name__} has no output bias to set: implement set_output_bias, or do not ask for it"
        )

    @property
    def has_output_bias(self) -> bool:
        """Whether `set_output_bias` can be asked for."""
        return type(self).set_output_bias is not Network.set_output_bias

    @classmethod
    def joined_shape(cls, in_shape: tuple[int, ...], context: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of an input joined with a context: the `in_shape` to build this class with. Here both flattened.

        Args:
            in_shape: shape of one x.
            context: shape of one c.
        """
        return (prod(in_shape) + prod(context),)

    @classmethod
    def join(cls, x: Tensor, c: Tensor, in_shape: tuple[int, ...], context: tuple[int, ...]) -> Tensor:
        """Join inputs with contexts, whose leading dimensions broadcast.

        Args:
            x: inputs `[*leading, *in_shape]`.
            c: contexts `[*leading, *context]`.
            in_shape: shape of one x.
            context: shape of one c.

        Returns:
            `[*leading, *joined_shape]`.
        """
        return _concatenated(_flat(x, in_shape), _flat(c, context), event_dims=1)

    def _leading(self, x: Tensor) -> torch.Size:
        return x.shape[: x.dim() - len(self.in_shape)]


# ---- dense ----------------------------------------------------------------------------------------------------------


class _Dense(Network):
    """Hidden layers on flat inputs, then one linear layer."""

    def __init__(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...], hidden: nn.Sequential, last: int) -> None:
        super().__init__(in_shape, out_shape)
        self.hidden = hidden
        self.output = linear(last, prod(out_shape))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[*leading, *in_shape]` to `[*leading, *out_shape]`."""
        leading = self._leading(x)
        return self.output(self.hidden(x.reshape(*leading, prod(self.in_shape)))).reshape(*leading, *self.out_shape)

    @torch.no_grad()
    def set_output_bias(self, bias: Tensor) -> None:
        """Set the last layer's bias to `bias` of shape `[*out_shape]`."""
        self.output.bias.copy_(bias.reshape(-1))


class MLP(_Dense):
    r"""A multilayer perceptron: `h = act(W h + b)` for each hidden width, then one linear layer.

    Weights start by Glorot's uniform rule, biases at zero. With `hidden=()` the map is affine, which makes a VAE with
    Normal likelihood probabilistic PCA.

    Args:
        in_shape: shape of one input; it is flattened.
        out_shape: shape of one output.
        hidden: widths of the hidden layers, each at least 1; empty for an affine map.
        activation: the nonlinearity after each hidden layer. The default ended 2.8 nats of validation ELBO above `tanh`
            on static MNIST (784-200-200-50, 250 epochs, one seed).
        norm: of what goes into each nonlinearity: `"layer"`, over the layer's units, or `"batch"`, over all leading
            dimensions, which couples the data of a batch and can be neither compiled nor shared out over processes.
        dropout: share of the hidden units set to zero, afresh for each input, in training.

    Raises:
        UsageError: if a width is not positive, `dropout` is outside [0, 1), or a name is not known.

    References:
        Glorot & Bengio 2010, Understanding the difficulty of training deep feedforward neural networks. Ioffe & Szegedy
        2015, Batch normalization. Ba et al. 2016, Layer normalization.

    Example:
        >>> MLP((28, 28), (2, 50), hidden=(200, 200))(torch.zeros(5, 3, 28, 28)).shape
        torch.Size([5, 3, 2, 50])
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        hidden: tuple[int, ...] = (500,),
        activation: Activation = "silu",
        norm: DenseNorm = "none",
        dropout: float = 0.0,
    ) -> None:
        _check_dense(hidden, norm, dropout)
        widths = [prod(in_shape), *hidden]
        layers = dense_layers(widths, nonlinearity(activation), norm, dropout)
        super().__init__(in_shape, out_shape, layers, widths[-1])


class GatedMLP(_Dense):
    r"""A multilayer perceptron of gated units, then one linear layer.

    .. math:: h' = (A h + a) \odot \sigma(B h + b)

    The network of the VampPrior experiments, there with two hidden layers of 300 on each side. Weights start by
    Glorot's uniform rule, A and B each, biases at zero.

    Args:
        in_shape: shape of one input; it is flattened.
        out_shape: shape of one output.
        hidden: widths of the hidden layers, each at least 1; empty for an affine map.
        norm: of `A h + a` and `B h + b` together: `"layer"` or `"batch"`, as for `MLP`.
        dropout: share of the hidden units set to zero, afresh for each input, in training.

    Raises:
        UsageError: if a width is not positive, `dropout` is outside [0, 1), or the norm is not known.

    References:
        Tomczak & Welling 2018, VAE with a VampPrior, section 4.1. Dauphin et al. 2017, Language modeling with gated
        convolutional networks. Glorot & Bengio 2010.

    Example:
        >>> GatedMLP((28, 28), (2, 40))(torch.zeros(5, 28, 28)).shape
        torch.Size([5, 2, 40])
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        hidden: tuple[int, ...] = (300, 300),
        norm: DenseNorm = "none",
        dropout: float = 0.0,
    ) -> None:
        _check_dense(hidden, norm, dropout)
        widths = [prod(in_shape), *hidden]
        super().__init__(in_shape, out_shape, dense_layers(widths, Gate, norm, dropout, maps=2), widths[-1])


def _check_dense(hidden: tuple[int, ...], norm: DenseNorm, dropout: float) -> None:
    check_widths("hidden widths", hidden)
    check_choice("norm", norm, DenseNorm)
    check_dropout(dropout)


# ---- convolutional --------------------------------------------------------------------------------------------------


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

    @classmethod
    def joined_shape(cls, in_shape: tuple[int, ...], context: tuple[int, ...]) -> tuple[int, ...]:
        """Of images more planes: a context of an image's size is some, one number of a vector is a constant plane.

        Args:
            in_shape: shape of one x; of a vector, as for other networks.
            context: shape of one c: `(n,)`, or `(H, W)` or `(n, H, W)` of the image's size.

        Raises:
            UsageError: if a context is neither.
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
        return _concatenated(x, c.expand(*c.shape[:-2], *size), event_dims=3)

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
        if not channels:
            raise UsageError(f"{name} needs channels of at least one convolution, e.g. (32, 64); for none use MLP")
        check_widths("channels", channels)
        check_choice("norm", norm, Norm)
        if kernel < 1 or kernel % 2 == 0:
            raise UsageError(f"{name} needs a kernel of odd size, which has a middle, got {kernel}")


class ConvNet(_Convolutional):
    r"""Convolutions with stride 2, down to a vector or up from one, and a dense part beside the vector.

    The shapes say which: an image `(H, W)` or `(C, H, W)` goes down, each convolution halving its sides (rounded up:
    28, 14, 7, 4), then through an `MLP`. A vector goes the mirrored way to images `(num_params, H, W)` or
    `(num_params, C, H, W)`: an `MLP`, then transposed convolutions whose sizes are the same to the pixel, and at last
    a bias for each element. So one setting serves encoder and decoder. A context joins images as further planes.

    Convolutions start by He's uniform rule (transposed ones by the number of terms that their stride leaves), the dense
    part as `MLP` does, biases at zero.

    Args:
        in_shape: shape of one input.
        out_shape: shape of one output.
        channels: planes after each convolution downwards, from the image on; upwards in reverse order.
        hidden: widths of the dense part's hidden layers; empty for one affine map.
        kernel: side of the kernels, odd.
        activation: the nonlinearity after each layer but the last.
        norm: of what goes into each nonlinearity: `"batch"`, as for `MLP`; `"layer"`, over all planes of an image;
            `"group"`, over each of at most 8 groups of planes. The dense part has `"layer"` for the last two.

    Raises:
        UsageError: if the shapes are of neither kind, a size is not positive, the kernel is even, or a name is not
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
        channels: planes at each size downwards, from the half of the image on; upwards in reverse order.
        blocks: residual blocks at each size.
        hidden: widths of the dense part's hidden layers; empty for one affine map.
        kernel: side of the kernels, odd.
        activation: the nonlinearity.
        norm: as for `ConvNet`.

    Raises:
        UsageError: as `ConvNet`; or if there are no blocks.

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


def _is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) in (2, 3)


# ---- any module as a network, and networks of a context -------------------------------------------------------------


Factory = Callable[[Shape, Shape], nn.Module]


class Conditioned(nn.Module):
    """A network of x and a context c, which joins them by the rule of its class and runs it.

    Args:
        factory: the network's class, a partial of it, or a function, called with the joined shape and `out_shape`.
        in_shape: shape of one x.
        out_shape: shape of one output.
        context: shape of one c.

    Raises:
        UsageError: if `factory` makes no network, or can't join such a context.
    """

    def __init__(self, factory: Factory, in_shape: Shape, out_shape: Shape, context: Shape) -> None:
        super().__init__()
        self.in_shape, self.out_shape, self.context = tuple(in_shape), tuple(out_shape), tuple(context)
        self.rule = joining(factory)
        self.network = build(factory, self.rule.joined_shape(self.in_shape, self.context), self.out_shape)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Map x `[*leading, *in_shape]` and c `[*leading, *context]`, broadcast, to `[*leading, *out_shape]`."""
        return self.network(self.rule.join(x, c.to(x.dtype), self.in_shape, self.context))

    def set_output_bias(self, bias: Tensor) -> None:
        """As of the network."""
        self.network.set_output_bias(bias)

    @property
    def has_output_bias(self) -> bool:
        """As of the network."""
        return self.network.has_output_bias


def conditioned(factory: Factory, in_shape: Shape, out_shape: Shape, context: Shape) -> Conditioned:
    """A network of x and a context c; see `Conditioned`.

    Example:
        >>> network = conditioned(ConvNet, (28, 28), (2, 50), context=(10,))
        >>> network.network.in_shape, network(torch.zeros(3, 5, 28, 28), torch.eye(10)[:5]).shape
        ((11, 28, 28), torch.Size([3, 5, 2, 50]))
    """
    return Conditioned(factory, in_shape, out_shape, context)


def joining(factory: Callable[..., Any]) -> type[Network]:
    """The class whose rule joins a context: that of a factory or of a partial; `Network` for anything else."""
    cls = _behind(factory)
    return cls if isinstance(cls, type) and issubclass(cls, Network) else Network


def build(factory: Factory, in_shape: Shape, out_shape: Shape) -> Network:
    """The network that a factory makes; a module that is none is given the batch with one leading dimension.

    Args:
        factory: a class, a partial of one, or a function.
        in_shape: shape of one input.
        out_shape: shape of one output.

    Raises:
        UsageError: if the factory of another module than a `Network` fails, or makes no module.

    Example:
        >>> class Two(nn.Module):
        ...     def __init__(self, in_shape, out_shape):
        ...         super().__init__()
        ...         self.layers = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Unflatten(1, out_shape))
        ...
        ...     def forward(self, x):
        ...         return self.layers(x)
        >>> build(Two, (2, 3), (2, 2))(torch.zeros(5, 4, 2, 3)).shape
        torch.Size([5, 4, 2, 2])
    """
    if joining(factory) is not Network:
        network = factory(in_shape, out_shape)
        assert isinstance(network, Network)
        return network
    module = _made(factory, in_shape, out_shape)
    return module if isinstance(module, Network) else _Flattened(module, in_shape, out_shape)


class _Flattened(Network):
    """A module of its own kind as a network: leading dimensions become one, and its results are checked."""

    def __init__(self, module: nn.Module, in_shape: Shape, out_shape: Shape) -> None:
        super().__init__(in_shape, out_shape)
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        out, leading = self.module(x.reshape(-1, *self.in_shape)), self._leading(x)
        shape = getattr(out, "shape", None)
        if shape not in ((prod(leading), *self.out_shape), (prod(leading), prod(self.out_shape))):
            raise UsageError(
                f"{type(self.module).__name__} must map [N, {', '.join(map(str, self.in_shape))}] to "
                f"[N, {', '.join(map(str, self.out_shape))}], its out_shape, or the same flat; for N = {prod(leading)} "
                f"it returned {type(out).__name__ if shape is None else list(shape)}"
            )
        return out.reshape(*leading, *self.out_shape)

    def set_output_bias(self, bias: Tensor) -> None:
        setter: Any = getattr(self.module, "set_output_bias", None)
        if setter is None:
            raise UsageError(
                f"{type(self.module).__name__} has no output bias to set: give it a method set_output_bias(bias), or "
                "do not ask for it"
            )
        setter(bias)

    @property
    def has_output_bias(self) -> bool:
        return hasattr(self.module, "set_output_bias")


def _made(factory: Callable[..., Any], in_shape: Shape, out_shape: Shape) -> nn.Module:
    name = getattr(_behind(factory), "__name__", repr(factory))
    try:
        module = factory(in_shape, out_shape)
    except PyroVaeError:
        raise
    except Exception as error:  # a user's module can fail in any way
        raise UsageError(
            f"can't build {name}({in_shape}, {out_shape}), the shapes of one input and one output: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(module, nn.Module):
        raise UsageError(f"{name}({in_shape}, {out_shape}) must make a torch module, got {module!r}")
    return module


def _behind(factory: Callable[..., Any]) -> Callable[..., Any]:
    """What partials are of."""
    while isinstance(factory, partial):
        factory = factory.func
    return factory


def _takes_two(cls: type) -> bool:
    try:
        signature(cls).bind((), ())
    except (TypeError, ValueError):
        return False
    return True


def _flat(x: Tensor, shape: Shape) -> Tensor:
    return x.reshape(*x.shape[: x.dim() - len(shape)], prod(shape))


def _concatenated(x: Tensor, c: Tensor, event_dims: int) -> Tensor:
    """Along the first of the last `event_dims` dimensions; those before them broadcast."""
    leading = torch.broadcast_shapes(x.shape[:-event_dims], c.shape[:-event_dims])
    return torch.cat([t.expand(*leading, *t.shape[-event_dims:]) for t in (x, c)], dim=-event_dims)


# ---- precision ------------------------------------------------------------------------------------------------------


@contextmanager
def computing_in(module: nn.Module, dtype: torch.dtype | None) -> Iterator[None]:
    """Compute the products of all networks in a module in `dtype`, for the time of the block; weights keep theirs.

    Args:
        module: e.g. a `VAE`; only its `Network`s are affected, so densities stay in full precision.
        dtype: e.g. `torch.bfloat16`; None to change nothing.
    """
    networks = [m for m in module.modules() if isinstance(m, Network)]
    before = [network.compute_dtype for network in networks]
    try:
        for network in networks:
            network.compute_dtype = dtype
        yield
    finally:
        for network, previous in zip(networks, before, strict=True):
            network.compute_dtype = previous
