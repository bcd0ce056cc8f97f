"""`Likelihood`, the base class: the check of the data and of the decoder's output are the same for all."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from pyro_vae.arguments.calling import Called
from pyro_vae.arguments.remedies import in_words
from pyro_vae.data.storage import chunk_rows, find
from pyro_vae.data.support import fitting
from pyro_vae.errors import DataError, UsageError
from pyro_vae.shapes import Shapes


class Likelihood(Called, nn.Module, ABC):
    """A distribution p(x|z), elementwise over the event, whose parameters the decoder gives.

    A subclass takes `(shapes, **its own options)`, says how many parameters an element has (`num_params`), what data it
    gives probability to (`support`, and `remedy` for data outside), and implements `distribution`. Masks of observed
    elements, the sum over the event and the check of the data are the same for every likelihood and written once.

    Args:
        shapes: the sizes of the VAE.
    """

    role = "likelihood"

    num_params: int = 1
    support: constraints.Constraint = constraints.real
    remedy: str = "choose a likelihood whose support holds these data"
    placeholder: float = 0.0
    """A value inside the support: stands in for elements that are not observed."""
    caveat: str | None = None
    """Caveat printed with each log-density, e.g. for a likelihood that is not normalised."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.shapes = shapes

    @abstractmethod
    def distribution(self, *params: Tensor) -> dist.TorchDistribution:
        """Map `num_params` tensors `[*leading, *event]` to independent elements, batch shape `[*leading, *event]`."""

    def initial_params(self, mean: Tensor, std: Tensor) -> Tensor:
        """Decoder outputs that reproduce the data's mean (and spread) per element, where the decoder should start.

        Args:
            mean: mean of the training data, `[*event]`.
            std: standard deviation of the training data, `[*event]`.

        Returns:
            `[num_params, *event]`.

        Raises:
            UsageError: if this likelihood defines no such start.
        """
        raise UsageError(
            f"{type(self).__name__} does not say where a decoder starts: implement initial_params, or do not ask for it"
        )

    @property
    def data_support(self) -> constraints.Constraint:
        """The support of the data."""
        return self.support

    @property
    def discrete(self) -> bool:
        """Whether p(x|z) is a probability, as of grey levels and counts, and not a density."""
        return self.support.is_discrete

    @property
    def param_shape(self) -> tuple[int, ...]:
        """What the decoder must return for one code: `(num_params, *event)`.

        A likelihood whose elements have different numbers of parameters has its own, and its own `split`.
        """
        return (self.num_params, *self.shapes.event)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """What an encoder gets for one datum: the shape of `encoder_input`, by default the event shape."""
        return self.shapes.event

    def encoder_input(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """What an encoder gets in place of x: of a size with which networks train; by default x itself.

        Args:
            x: data `[*leading, *event]`, also outside the support (learned inputs of a prior, noisy data).
            mask: True where an element is observed; elsewhere x has the placeholder, and no value of it may count.

        Returns:
            `[*leading, *input_shape]`.
        """
        return x

    def start_from(self, parts: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        """Take from the training data what this likelihood needs to know of them; by default nothing. `fit` calls it.

        Args:
            parts: data `[rows, *event]` part by part, each with its mask of observed elements, or None.
        """

    def averaged(self, elements: Any) -> Tensor:
        """Numbers of p(x|z) whose averages over codes z decide the best value of x, by default E[x|z].

        Args:
            elements: p(x|z), as a program of an autoencoder has it at its site `"x"`.

        Returns:
            `[*leading, *numbers]`.
        """
        return elements.mean

    def best(self, averages: Tensor) -> Tensor:
        """The value of x that is reported, `[*leading, *event]`, for averages of `averaged`; by default they are it."""
        return averages

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        """Map the decoder's output `[*leading, *param_shape]` to elementwise p(x|z).

        Raises:
            UsageError: if the parameters, or the distribution made of them, have another shape.
        """
        dims = params.dim() - len(self.param_shape)
        if dims < 0 or params.shape[dims:] != self.param_shape:
            raise UsageError(
                f"{type(self).__name__} needs parameters of shape [..., {', '.join(map(str, self.param_shape))}], its "
                f"param_shape; the decoder returned {list(params.shape)}"
            )
        elements = self.distribution(*self.split(params))
        if elements.event_shape:
            raise UsageError(
                f"{type(self).__name__}.distribution must be elementwise, with event shape (), got "
                f"{tuple(elements.event_shape)}: leave out to_event, the VAE applies it after the mask"
            )
        expected = (*params.shape[:dims], *self.shapes.event)
        if elements.batch_shape != expected:
            raise UsageError(
                f"{type(self).__name__}.distribution must have its parameters' batch shape {list(expected)}, got "
                f"{list(elements.batch_shape)}: its scale must broadcast to {list(self.shapes.event)}"
            )
        return elements

    def split(self, params: Tensor) -> tuple[Tensor, ...]:
        """Split the decoder's output `[*leading, *param_shape]` into the arguments of `distribution`; by default one by
        one.
        """
        return params.unbind(-1 - len(self.shapes.event))

    def filled(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The data with the placeholder where the mask, of the shape of x, is False; x itself without a mask."""
        return x if mask is None else torch.where(mask, x, self.placeholder)

    def check(self, x: Tensor, name: str = "x", mask: Tensor | None = None) -> None:
        """Refuse data of another shape, or that this likelihood gives no probability to.

        Args:
            x: data `[N, *event]`; read part by part.
            name: their name in the message.
            mask: True where an element is observed, of the shape of x: others are not looked at. None where all are.

        Raises:
            DataError: with the first offending value, its position and the remedy.
        """
        if tuple(x.shape[1:]) != tuple(self.shapes.event) or len(x) == 0:
            raise DataError(
                f"{name}: expected shape [N >= 1, {', '.join(map(str, self.shapes.event))}], got {list(x.shape)}"
            )
        rows = chunk_rows(x)
        masks = (None,) * len(x) if mask is None else mask.split(rows)
        parts = (self.filled(part, of_part) for part, of_part in zip(x.split(rows), masks, strict=False))
        count, where, value = find(parts, lambda part: ~(self.data_support.check(part) & part.isfinite()))
        if count:
            advice = self.advice(self.filled(x, mask))
            raise DataError(
                f"{name}: {count} of {x.numel()} values are outside the support of {type(self).__name__} "
                f"({self.allowed_at(where[1:])}), the first is {value:.6g} at {where}: {advice}"
            )

    def allowed_at(self, index: tuple[int, ...]) -> str:
        """The values that the element at an index of the event can have, in words."""
        return _in_words(self.data_support)

    def advice(self, x: Tensor) -> str:
        """What to do about data outside the support, in terms of Python or of the command line."""
        fits, remedy = fitting(x), in_words(self.remedy)
        return f"{fits}; otherwise {remedy}" if fits else remedy


_WORDS = {
    "Boolean()": "0 and 1",
    "IntegerGreaterThan(lower_bound=0)": "whole numbers from 0",
    "Interval(lower_bound=0.0, upper_bound=1.0)": "from 0 to 1",
    "Real()": "finite numbers",
}


def _in_words(support: constraints.Constraint) -> str:
    """A support in words instead of torch's name for it."""
    return _WORDS.get(str(support), str(support))
