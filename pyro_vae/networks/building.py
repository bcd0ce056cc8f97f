"""Networks from factories: any torch module, with or without a context."""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

from torch import Tensor, nn

from pyro_vae.arguments.values import factory
from pyro_vae.errors import PyroVaeError, UsageError
from pyro_vae.networks.base import Network, Shape, flat

Factory = Callable[[Shape, Shape], nn.Module]


class Conditioned(nn.Module):
    """A network of x and a context c, joined by `join` of the network's class.

    Args:
        factory: the network's class, a partial of it, or a function, called with the joined shape and `out_shape`.
        in_shape: shape of one x.
        out_shape: shape of one output.
        context: shape of one c.

    Raises:
        UsageError: if `factory` makes no torch module, or its class can't join such a context.
    """

    def __init__(self, factory: Factory, in_shape: Shape, out_shape: Shape, context: Shape) -> None:
        super().__init__()
        self.in_shape, self.out_shape, self.context = tuple(in_shape), tuple(out_shape), tuple(context)
        self.rule = joining(factory)
        self.network = build(factory, self.rule.joined_shape(self.in_shape, self.context), self.out_shape)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Map x `[*leading, *in_shape]` and c `[*leading, *context]`, broadcast, to `[*leading, *out_shape]`."""
        if self.rule.join.__func__ is Network.join.__func__:  # side by side
            return self.network.of_two(flat(x, self.in_shape), flat(c.to(x.dtype), self.context))
        return self.network(self.rule.join(x, c.to(x.dtype), self.in_shape, self.context))

    def set_output_bias(self, bias: Tensor) -> None:
        """See `Network`."""
        self.network.set_output_bias(bias)

    def start_output_at(self, values: Tensor) -> None:
        """See `Network`."""
        self.network.start_output_at(values)

    @property
    def has_output_bias(self) -> bool:
        """See `Network`."""
        return self.network.has_output_bias


def conditioned(factory: Factory, in_shape: Shape, out_shape: Shape, context: Shape) -> Conditioned:
    """A network of x and a context c; see `Conditioned`.

    Example:
        >>> from pyro_vae.networks import ConvNet
        >>> network = conditioned(ConvNet, (28, 28), (2, 50), context=(10,))
        >>> network.network.in_shape, network(torch.zeros(3, 5, 28, 28), torch.eye(10)[:5]).shape
        ((11, 28, 28), torch.Size([3, 5, 2, 50]))
    """
    return Conditioned(factory, in_shape, out_shape, context)


def joining(factory: Callable[..., Any]) -> type[Network]:
    """The class whose `join` is used: the factory, or that of a partial, if it is a `Network`; otherwise `Network`.

    Example:
        >>> from pyro_vae.networks import ConvNet
        >>> joining(ConvNet).__name__, joining(torch.nn.Linear).__name__
        ('ConvNet', 'Network')
    """
    cls = _behind(factory)
    return cls if isinstance(cls, type) and issubclass(cls, Network) else Network


def build(factory: Factory, in_shape: Shape, out_shape: Shape) -> Network:
    """The network that a factory makes; a module that is not a `Network` gets the data with one leading dimension.

    Args:
        factory: a class, a partial of one, or a function.
        in_shape: shape of one input.
        out_shape: shape of one output.

    Raises:
        UsageError: if the factory of a module that is not a `Network` fails, or makes no torch module.

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
    """Wraps a torch module as a `Network`: flattens the leading dimensions and checks the shape of the result."""

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

    def start_output_at(self, values: Tensor) -> None:
        getattr(self.module, "start_output_at", lambda _: None)(values)

    @property
    def has_output_bias(self) -> bool:
        return hasattr(self.module, "set_output_bias")


def network_factory(name: str, value: Any) -> Any:
    """Check a factory of networks: a class, a partial of one, or a function; see `factory`.

    Raises:
        UsageError: for an instance, a name, or an option that the class does not have.

    Example:
        >>> from pyro_vae.networks import MLP
        >>> network_factory("encoder", MLP) is MLP
        True
    """
    return factory(name, value, Network, strict=False)


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
    """The class or function inside nested partials."""
    while isinstance(factory, partial):
        factory = factory.func
    return factory
