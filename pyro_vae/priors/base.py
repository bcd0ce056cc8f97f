"""`Prior`, the base class: p(z), which may depend on the encoder."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import pyro.distributions as dist
from torch import Tensor, nn

from pyro_vae.arguments.calling import Called
from pyro_vae.shapes import Shapes

Encode = Callable[[Tensor], dist.TorchDistribution]


class Prior(Called, nn.Module, ABC):
    """A distribution p(z) over codes, as a module.

    A subclass takes `(shapes, **its own options)` and implements `forward`. Its parameters are trained with the rest.
    One that starts from data also sets `start_count` and implements `start_from`; `fit` calls it.

    Args:
        shapes: the sizes of the VAE.
    """

    role = "prior"

    start_count: int = 0
    """How many rows of training data `start_from` needs; 0 for none."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.shapes = shapes

    @abstractmethod
    def forward(self, encode: Encode, c: Tensor | None = None) -> dist.TorchDistribution:
        """The prior, with event shape `(latent,)` and batch shape `()`, or that of the context where it depends on it.

        Args:
            encode: the VAE's map x -> q(z|x) by its encoder alone (`amortize`), which only priors built from the
                aggregate posterior use.
            c: the context, `[*leading, *context]`; only priors p(z|c) use it.
        """

    def start_from(self, x: Tensor) -> None:
        """Initialise from training data; by default nothing is done.

        Args:
            x: rows of the training data, `[start_count, *event]`, or all there are if they are fewer.
        """
