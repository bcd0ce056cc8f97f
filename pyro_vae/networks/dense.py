"""Networks on flat inputs: `MLP`, `GatedMLP`."""

from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.arguments.values import check_choice, check_dropout, check_widths
from pyro_vae.networks.base import Network
from pyro_vae.networks.layers import (
    Activation,
    DenseNorm,
    Gate,
    dense_layers,
    linear,
    linear_of_two,
    nonlinearity,
    start_constant,
)


class _Dense(Network):
    """Hidden layers on flat inputs, then one linear layer."""

    def __init__(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...], hidden: nn.Sequential, last: int) -> None:
        super().__init__(in_shape, out_shape)
        self.hidden = hidden
        self.output = linear(last, prod(out_shape))

    def of_two(self, x: Tensor, c: Tensor) -> Tensor:
        """As `Network` has it; what is broadcast is multiplied by its weights before that."""
        own = type(self).forward is not _Dense.forward  # of a subclass: it takes them side by side
        if own or x.shape[:-1] == c.shape[:-1] or x.shape[-1] + c.shape[-1] != prod(self.in_shape):
            return super().of_two(x, c)
        return self._mapped(torch.broadcast_shapes(x.shape[:-1], c.shape[:-1]), x, c)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Map `[*leading, *in_shape]`, or the two parts of flat inputs, to `[*leading, *out_shape]`."""
        if c is not None:
            return self._of_parts(x, c)
        leading = self._leading(x)
        return self.output(self.hidden(x.reshape(*leading, prod(self.in_shape)))).reshape(*leading, *self.out_shape)

    def _of_parts(self, x: Tensor, c: Tensor) -> Tensor:
        layers: list[Any] = [*self.hidden, self.output]
        first, *others = layers
        out = linear_of_two(first, x, c)
        for layer in others:
            out = layer(out)
        return out.reshape(*out.shape[:-1], *self.out_shape)

    @torch.no_grad()
    def set_output_bias(self, bias: Tensor) -> None:
        """Set the last layer's bias to `bias` of shape `[*out_shape]`."""
        self.output.bias.copy_(bias.reshape(-1))

    def start_output_at(self, values: Tensor) -> None:
        """Set the last layer's weights to zero and its biases to `values`, where these are not nan."""
        start_constant(self.output, values)


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
        norm: before each nonlinearity: `"layer"`, over the layer's units, or `"batch"`, over all leading dimensions,
            which couples the data of a batch and can be neither compiled nor distributed over processes.
        dropout: probability that a hidden unit is set to zero in training, independent for each input.

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
        dropout: probability that a hidden unit is set to zero in training, independent for each input.

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
