"""`Network`, the base class: a map that keeps leading dimensions and can join a context to its input."""

from abc import ABC, abstractmethod
from inspect import signature
from math import prod

import torch
from torch import Tensor, nn

from pyro_vae.arguments.calling import Called
from pyro_vae.errors import UsageError

Shape = tuple[int, ...]


class FromShapes(nn.Module, ABC):
    """The type of a VAE's `encoder` and `decoder`: a torch module made by `cls(in_shape, out_shape, **options)`.

    `issubclass` is True for every `Network` and for every other `torch.nn.Module` with such a constructor, which need
    not derive from this class. `build` makes a `Network` of either.
    """

    @classmethod
    def __subclasshook__(cls, candidate: type) -> bool:
        if cls is FromShapes and issubclass(candidate, nn.Module) and _takes_two(candidate):
            return True
        return NotImplemented


class Network(Called, FromShapes):
    """A map from `in_shape` to `out_shape` that keeps any number of leading dimensions (particles, batch).

    A subclass takes `(in_shape, out_shape, **options)` and implements `forward`. One that ends in a bias also
    implements `set_output_bias`; one whose inputs are not flattened, `joined_shape` and `join`, for a context.

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
            UsageError: if the shape of `x` is not `[*leading, *in_shape]`, or that of the output not
                `[*leading, *out_shape]`, which log-densities would broadcast.
        """
        if tuple(x.shape[x.dim() - len(self.in_shape) :]) != self.in_shape:
            raise UsageError(
                f"{type(self).__name__}: expected an input of shape [..., {', '.join(map(str, self.in_shape))}], got "
                f"{list(x.shape)}"
            )
        return self._mapped(self._leading(x), x)

    def of_two(self, x: Tensor, c: Tensor) -> Tensor:
        """The output for x and c side by side; a network that begins with a linear map can do with fewer products.

        Args:
            x: `[*leading, n]`.
            c: `[*leading, m]`, with n + m numbers in an input; its leading dimensions and those of x broadcast.
        """
        return self(concatenated(x, c, event_dims=1))

    def _mapped(self, leading: torch.Size, *inputs: Tensor) -> Tensor:
        """`forward` in `compute_dtype`; the shape of the result is checked."""
        if self.compute_dtype is None:
            return self._checked(leading, super().__call__(*inputs))
        with torch.autocast(inputs[0].device.type, self.compute_dtype):
            return self._checked(leading, super().__call__(*inputs)).to(inputs[0].dtype)

    def _checked(self, leading: torch.Size, out: Tensor) -> Tensor:
        expected = (*leading, *self.out_shape)
        if out.shape != expected:
            raise UsageError(
                f"{type(self).__name__} must map {[*leading, *self.in_shape]} to {list(expected)}, the leading "
                f"dimensions and its out_shape {self.out_shape}; it returned {list(out.shape)}"
            )
        return out

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Map `[*leading, *in_shape]` to `[*leading, *out_shape]`."""

    def set_output_bias(self, bias: Tensor) -> None:
        """Set the bias of the output layer to `bias`, `[*out_shape]`.

        Raises:
            UsageError: if this network has no output bias.
        """
        raise UsageError(
            f"{type(self).__name__} has no output bias to set: implement set_output_bias, or do not ask for it"
        )

    def start_output_at(self, values: Tensor) -> None:
        """Initialise elements of the output as constants, the same for every input; by default nothing is done.

        Used for log standard deviations of a guide. A network that ends in a linear map sets the weights of these
        elements to zero, by `start_constant`.

        Args:
            values: the constants, `[prod(out_shape)]`; nan for elements that are left unchanged.
        """

    @property
    def has_output_bias(self) -> bool:
        """Whether `set_output_bias` is implemented."""
        return type(self).set_output_bias is not Network.set_output_bias

    @classmethod
    def joined_shape(cls, in_shape: tuple[int, ...], context: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of an input joined with a context, the `in_shape` to build this class with; here both are flattened.

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
    """Concatenate along dimension `-event_dims`; the dimensions before it broadcast."""
    leading = torch.broadcast_shapes(x.shape[:-event_dims], c.shape[:-event_dims])
    return torch.cat([t.expand(*leading, *t.shape[-event_dims:]) for t in (x, c)], dim=-event_dims)
