"""p(mask|x): why elements are missing, where that depends on their values. To add one, derive from `Missingness`."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vae.arguments.calling import Called
from pyro_vae.arguments.values import choice
from pyro_vae.shapes import Shapes

Missing = Literal["free", "high", "low"]


class Missingness(Called, nn.Module, ABC):
    r"""A model of which elements of x are observed, given all of x; independent of each other given x.

    .. math:: p(mask|x) = \prod_d \sigma(l_d(x))^{mask_d} \, (1 - \sigma(l_d(x)))^{1 - mask_d}

    A subclass takes `(shapes, **its own options)` and implements `forward`. Its parameters are trained with the rest.

    Args:
        shapes: the sizes of the VAE.
    """

    role = "missingness"

    elementwise: bool = False
    """Whether `l_d` depends on x_d alone: missing elements with finitely many values are then summed out exactly."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.shapes = shapes

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """The logits l(x) of being observed, `[*leading, *event]`.

        Args:
            x: complete data, `[*leading, *event]`; standardised where the VAE standardises.
        """


class SelfMasking(Missingness):
    r"""Whether an element is missing depends on its own value, by a logistic curve for each element.

    .. math:: l_d(x) = a_d - w_d x_d

    Both start at 0, a known w at log 2. The slope and the intercept say how the element is missing: with a slope of 0
    at random, with a large one above (below) a threshold of `a_d / w_d`.

    Args:
        shapes: the sizes of the VAE.
        missing: which values are missing more often: `"high"` or `"low"` ones, where that is known (w is then positive
            or negative), or `"free"`. Data say little about a free sign, so take the known one where there is one.

    Raises:
        UsageError: if `missing` is none of these.

    References:
        Ipsen, Mattei & Frellsen 2021, not-MIWAE: deep generative modelling with missing not at random data, section 3.

    Example:
        >>> SelfMasking(Shapes((3,), 2), missing="high").slope
        tensor([0.6931, 0.6931, 0.6931], grad_fn=<SoftplusBackward0>)
    """

    elementwise = True

    def __init__(self, shapes: Shapes, missing: Missing = "free") -> None:
        super().__init__(shapes)
        choice("missing", missing, ("free", "high", "low"))
        self.missing = missing
        self.intercept = nn.Parameter(torch.zeros(shapes.event))
        self.raw_slope = nn.Parameter(torch.zeros(shapes.event))

    @property
    def slope(self) -> Tensor:
        """The slope w, `[*event]`: positive where high values are missing more often."""
        if self.missing == "free":
            return self.raw_slope
        size = softplus(self.raw_slope)
        return size if self.missing == "high" else -size

    def forward(self, x: Tensor) -> Tensor:
        """The logits of being observed."""
        return self.intercept - self.slope * x

    def extra_repr(self) -> str:
        """The sign."""
        return f"missing={self.missing!r}"
