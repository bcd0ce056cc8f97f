"""Your own Pyro programs: two latent layers, trained by `fit`; `log_marginal` and the exact value.

The model is linear and Gaussian, z2 ~ N(0, 1), z1 ~ N(a z2, 1), x_d ~ N(w_d z1, 1), so that log p(x) is known exactly
and the estimate can be compared with it. Nothing here is a `VAE`: any module with `model(x)` and `guide(x)` can be used
if its sample sites are in one plate over the data at dimension -1.

    python examples/own_programs.py
"""

import argparse
from functools import partial

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae import fit, log_marginal
from pyro_vae.schedules import Cosine


class TwoLayers(nn.Module):
    """p(z2) p(z1 | z2) p(x | z1) and q(z1 | x) q(z2 | z1)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.a, self.w = nn.Parameter(torch.tensor(0.5)), nn.Parameter(0.1 * torch.randn(dim))
        self.bottom, self.top = nn.Linear(dim, 1), nn.Linear(1, 1)
        self.log_scales = nn.Parameter(torch.zeros(2))  # a linear Gaussian posterior has the same spread for every x

    def model(self, x: Tensor) -> None:
        """The generative program."""
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(self.a * z2, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z1 * self.w, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """The inference program, from the bottom up."""
        with pyro.plate("data", len(x), dim=-1):
            bottom, top = self.log_scales.exp()
            z1 = pyro.sample("z1", dist.Normal(self.bottom(x), bottom).to_event(1))
            pyro.sample("z2", dist.Normal(self.top(z1), top).to_event(1))

    def exact_log_prob(self, x: Tensor) -> Tensor:
        """The density of a normal with covariance (1 + a^2) w w^T + I."""
        covariance = (1 + self.a**2) * torch.outer(self.w, self.w) + torch.eye(len(self.w))
        return torch.distributions.MultivariateNormal(torch.zeros(len(self.w)), covariance).log_prob(x)


def main(epochs: int) -> None:
    """Train, estimate, compare."""
    torch.manual_seed(0)
    true_w = torch.tensor([1.0, -2.0, 0.5, 1.5])
    x = 1.3 * torch.randn(2000, 1) * true_w + torch.randn(2000, 4)
    pair = TwoLayers(dim=4)
    fit(pair, x, epochs=epochs, optimizer=partial(torch.optim.Adam, lr=2e-2), lr_schedule=Cosine())
    evidence = log_marginal(pair.model, pair.guide, x[:500], num_particles=1000)
    exact = pair.exact_log_prob(x[:500]).mean().item()
    print(evidence)
    print(f"exact: {exact:.4f} nats per datum, off by {evidence.mean - exact:+.4f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    main(parser.parse_args().epochs)
