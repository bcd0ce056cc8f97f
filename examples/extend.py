"""Parts of your own: a likelihood, a prior and a guide, checked by the contract of their axes, then used.

    python examples/extend.py

No registration is needed: a class in your own file can be used from Python (`likelihood=Logistic`), from the command
line (`--vae.likelihood extend.Logistic`) and in a run directory (`load(run, trust=["extend"])`).
"""

import argparse
from functools import partial
from math import pi
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae import VAE, fit, log_marginal
from pyro_vae.errors import UsageError
from pyro_vae.guides import Guide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.networks import MLP
from pyro_vae.priors import Prior
from pyro_vae.testing import check_part


class Logistic(Likelihood):
    """Real elements with logistic noise, whose tails are heavier than the normal's.

    Args:
        shapes: the sizes of the VAE.
        min_scale: added to the scale; keeps the density bounded.
    """

    num_params = 2  # the decoder gives the mean of each element, and the log of its scale
    remedy = "remove NaN and infinite values, or mask them"

    def __init__(self, shapes, min_scale: float = 1e-3) -> None:
        super().__init__(shapes)
        self.min_scale = min_scale

    def distribution(self, *params: Tensor) -> dist.TorchDistribution:
        """Logistic with mean `params[0]` and log scale `params[1]`."""
        return dist.Logistic(params[0], params[1].exp() + self.min_scale)

    def initial_params(self, mean: Tensor, std: Tensor) -> Tensor:
        """The means, and the log scales for these standard deviations."""
        return torch.stack([mean, (std * 3**0.5 / pi).clamp(min=1e-2).log()])


class HeavyTails(Prior):
    """Student's t in each latent dimension, with a learned scale.

    Args:
        shapes: the sizes of the VAE.
        df: degrees of freedom, more than 2.
    """

    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"df": 20.0},)  # further options for the contract's checks

    def __init__(self, shapes, df: float = 8.0) -> None:
        super().__init__(shapes)
        if not df > 2:
            raise UsageError(f"HeavyTails needs df > 2, for a finite variance, got {df}")
        self.df, self.log_scale = df, nn.Parameter(torch.zeros(shapes.latent))

    def forward(self, encode, context: Tensor | None = None) -> dist.TorchDistribution:
        """Independent t over `(latent,)`."""
        return dist.StudentT(self.df, torch.zeros_like(self.log_scale), self.log_scale.exp()).to_event(1)


class DiagonalLaplace(Guide):
    """Independent Laplace distributions: the encoder gives a location and a log scale for each latent dimension."""

    def __init__(self, shapes) -> None:
        super().__init__(shapes)
        self.param_shape = (2, shapes.latent)

    def distribution(self, params: Tensor) -> dist.TorchDistribution:
        """Laplace over `(latent,)`."""
        loc, log_scale = params.unbind(-2)
        return dist.Laplace(loc, log_scale.exp()).to_event(1)


def main(epochs: int) -> None:
    """Check the parts, train a VAE with them, estimate log p(x)."""
    for part in (Logistic, HeavyTails, DiagonalLaplace):
        outcomes = check_part(part)
        passed = [outcome for outcome in outcomes if not outcome.left_out]
        print(f"{part.__name__}: {len(passed)} checks passed, {len(outcomes) - len(passed)} do not apply")
    torch.manual_seed(0)
    x = torch.randn(2000, 2) @ torch.randn(2, 6) + dist.Logistic(0.0, 0.3).sample((2000, 6))
    network = partial(MLP, hidden=(32,))
    vae = VAE((6,), 2, HeavyTails, Logistic, DiagonalLaplace, encoder=network, decoder=network)
    fit(vae, x[:1600], epochs=epochs, optimizer=partial(torch.optim.Adam, lr=5e-3))
    print(log_marginal(vae.model, vae.guide, x[1600:], num_particles=500))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    main(parser.parse_args().epochs)
