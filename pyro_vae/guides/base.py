"""`Guide`, the base class of the variational families."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.arguments.calling import Called
from pyro_vae.shapes import Shapes

LogJoint = Callable[[Tensor], Tensor]
"""log p(x, z) of codes `[*particles, *leading, latent]` for the data at hand, `[*particles, *leading]`, nats."""


class Guide(Called, nn.Module, ABC):
    """A family of distributions over codes whose parameters the encoder gives.

    A subclass takes `(shapes, **its own options)`, sets `param_shape` (what the encoder must return for one datum) and
    implements `distribution`. Draws must be reparameterised. A family whose log q(z) is more accurate, or cheaper, at
    its own draws than elsewhere returns a `FromNoise`. One with a scale gives its initial value by `initial_params`.

    Args:
        shapes: the sizes of the VAE.
    """

    role = "guide"

    param_shape: tuple[int, ...]

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.shapes = shapes

    @abstractmethod
    def distribution(self, params: Tensor) -> dist.TorchDistribution:
        """Map `[*leading, *param_shape]` to q(z|x) with batch shape `[*leading]` and event shape `(latent,)`."""

    def initial_params(self) -> Tensor:
        """The encoder's initial output, for any data: q(z|x) then is about as wide as N(0, I).

        Returns:
            `[*param_shape]`; nan for elements that the encoder's first weights determine. Here all of them.
        """
        return torch.full(self.param_shape, float("nan"))

    def refine(self, params: Tensor, log_joint: LogJoint) -> Tensor:
        """The variational parameters from the encoder's output: refined by `SemiAmortized`; here unchanged.

        The VAE calls it on the encoder's output before `distribution`. What comes back must be a function of the datum:
        draw nothing from torch's generators.

        Args:
            params: the encoder's output, `[*leading, *param_shape]`.
            log_joint: log p(x, z) of the data at hand as a function of z.
        """
        return params
