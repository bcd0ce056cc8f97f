"""`Network`, the base class: a map that keeps leading dimensions and joins a context."""

from abc import ABC, abstractmethod
from inspect import signature
from math import prod

import torch
from torch import Tensor, nn

from pyro_vae.arguments.calling import Called
from pyro_vae.errors import UsageError

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


class Network(Called, FromShapes):
    """A map from `in_shape` to `out_shape` that keeps any number of leading dimensions (particles, batch).

    A subclass takes `(in_shape, out_shape, **its own options)` and implements `forward`.
    One that ends in a bias also implements `set_output_bias`; one that is not for flat inputs says by `joined_shape`
    and `join` how its input takes up a context.

    Args:
        in_shape: shape of one input.
        out_shape: shape of one output.
    """

    role = "encoder"

    compute_dtype: torch.dtype | None = None
    """Type in which products are computed; None for that of the weights. Set temporarily by `computing_in`."""

    def __init__(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)

    def __call__(self, x: Tensor) -> Tensor:
        """`forward`, in `compute_dtype`; the result has the type of `x`.

        Raises:
            UsageError: if it is given another shape than `[*leading, *in_shape]`, or returns another than
                `[*leading, *out_shape]`, which densities would broadcast.
        """
        if tuple(x.shape[x.dim() - len(self.in_shape) :]) != self.in_shape:
            raise UsageError(
                f"{type(self).__name__}: expected an input of shape [..., {', '.join(map(str, self.in_shape))}], got "
                f"{list(x.shape)}"
            )
        if self.compute_dtype is None:
            return self._checked(x, super().__call__(x))
        with torch.autocast(x.device.type, self.compute_dtype):
            return self._checked(x, super().__call__(x)).to(x.dtype)

    def _checked(self, x: Tensor, out: Tensor) -> Tensor:
        expected = (*self._leading(x), *self.out_shape)
        if out.shape != expected:
            raise UsageError(
                f"{type(self).__name__} must map {list(x.shape)} to {list(expected)}, the leading dimensions and its "
                f"out_shape {self.out_shape}; it returned {list(out.shape)}"
            )
        return out

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

    def start_output_at(self, values: Tensor) -> None:
        """Let elements of the output start as constants, whatever the input is; by default nothing is done.

        For the widths of a guide, which are exponentials: a network that ends in a linear map sets its weights to zero
        there. `start_constant` does it.

        Args:
            values: the constants, flat, as many numbers as an output has; nan where the output starts as it is.
        """

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
        return concatenated(flat(x, in_shape), flat(c, context), event_dims=1)

    def _leading(self, x: Tensor) -> torch.Size:
        return x.shape[: x.dim() - len(self.in_shape)]


def _takes_two(cls: type) -> bool:
    try:
        signature(cls).bind((), ())
    except (TypeError, ValueError):
        return False
    return True


def flat(x: Tensor, shape: Shape) -> Tensor:
    """Map `[*leading, *shape]` to `[*leading, n]`."""
    return x.reshape(*x.shape[: x.dim() - len(shape)], prod(shape))


def concatenated(x: Tensor, c: Tensor, event_dims: int) -> Tensor:
    """Along the first of the last `event_dims` dimensions; those before them broadcast."""
    leading = torch.broadcast_shapes(x.shape[:-event_dims], c.shape[:-event_dims])
    return torch.cat([t.expand(*leading, *t.shape[-event_dims:]) for t in (x, c)], dim=-event_dims)
