"""`Scaled`: the base class of likelihoods with a scale that is fixed, learned or given by the decoder."""

from math import log
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pyro_vae.arguments.values import scalar
from pyro_vae.distributions.log_scales import positive
from pyro_vae.errors import UsageError
from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.shapes import Shapes

Size = float | Literal["learned", "per_element"]
"""A positive number that is fixed, one parameter for all elements, or given by the decoder for each element."""
Scale = Size | Literal["learned_each"]
"""The same, or one parameter for each element, which does not depend on the code."""


_LEARNED = ("learned", "learned_each")


class Scaled(Likelihood):
    """A likelihood with a scale; abstract.

    Args:
        shapes: the sizes of the VAE.
        scale: a number (fixed), `"learned"`, `"learned_each"` where the class offers it, or `"per_element"`.
        min_scale: added to a scale that is not fixed.
        each: whether the class offers `"learned_each"`.

    Raises:
        UsageError: if a fixed scale is not positive, or `min_scale` is negative.
    """

    def __init__(self, shapes: Shapes, scale: Scale, min_scale: float, each: bool = False) -> None:
        super().__init__(shapes)
        check_size(self, "scale", scale, each=each)
        if min_scale < 0:
            raise UsageError(f"{type(self).__name__} needs min_scale >= 0, got {min_scale}")
        self.scale, self.min_scale = scale, min_scale

    def learn_scale(self, start: float = 1.0, shape: tuple[int, ...] = ()) -> None:
        """Make the parameter of a learned scale, which starts at `start` (without `min_scale`); its shape for
        `"learned"`, while for `"learned_each"` it has that of the event.
        """
        if self.scale in _LEARNED:
            shape = shape if self.scale == "learned" else self.shapes.event
            self.log_scale = nn.Parameter(torch.full(shape, log(start)))

    def scale_of(self, params: tuple[Tensor, ...]) -> Tensor:
        """The scale, where `params` are the location and, per element, what the decoder gives for the scale."""
        if self.scale == "per_element":
            return positive(params[1]) + self.min_scale
        if self.scale in _LEARNED:
            return positive(self.log_scale) + self.min_scale
        return constant(float(self.scale), params[0])

    def initial_log_scale(self, scale: Tensor) -> Tensor:
        """The decoder's initial output for a scale per element."""
        return (scale - self.min_scale).clamp(min=1e-6).log()


def check_size(owner: Any, name: str, value: Any, above: float = 0.0, each: bool = False) -> None:
    """Refuse an option that is neither a number above a limit, nor the name of a way to find one."""
    names = ("learned", *["learned_each"] * each, "per_element")
    if value in names or (isinstance(size := scalar(value), int | float) and size > above):
        return
    number = "a positive number" if above == 0 else f"a number above {above:g}"
    first = ", ".join(map(repr, names[:-1]))
    raise UsageError(f"{type(owner).__name__} needs {name} to be {number}, {first} or {names[-1]!r}, got {value!r}")


def constant(value: float, like: Tensor) -> Tensor:
    """A number as a tensor of another's type and device."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)
