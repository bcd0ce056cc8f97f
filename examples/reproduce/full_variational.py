"""Kingma & Welling 2013, appendix F: a posterior over the decoder's weights, against weights that maximise.

    python examples/reproduce/full_variational.py --data_root FOLDER              # 3e6 samples
    python examples/reproduce/full_variational.py --quick --out runs/quick        # a minute

The paper gives the algorithm and no numbers. Here the setting is that of its Figure 3 with 1000 images of grey MNIST,
where weights can be fitted too closely: one tanh layer of 100, three latent dimensions, batches of 100, Adagrad with
the step that has the best training bound after 1e5 samples. `map` maximises the bound plus the N(0, 1) log-prior of the
decoder's weights, `full` has a normal posterior over them with the same prior.

Log p(x) is that of the first 1000 training and test images by importance sampling, of `full` at the posterior mean of
the weights, and averaged over weights drawn from the posterior (`predictive`: log of the mean of p(x|theta)).
`divergence` is KL(q(theta) || p(theta)) / N, so the bound on log p of all training data is `running` minus it, nats per
image; `map` has no such bound.
"""

import argparse
import sys
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from math import log
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae import VAE
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.networks import MLP, Bayesian, weight_divergence
from pyro_vae.objectives import ELBO
from pyro_vae.statistics.averages import standard_error

sys.path.append(str(Path(__file__).parent))

import record
from aevb_figure3 import Marginal, images
from curves import follow
from variances import NormalByVariance

NAME = "full_variational"
TITLE = "A posterior over the decoder's weights (Kingma & Welling 2013, appendix F)"
PARTS = ("map", "full")
SIZE = 1000


@dataclass(frozen=True)
class Full(Marginal):
    """A training whose weights may have a posterior.

    Args:
        num_weights: draws of the weights for the predictive log p(x).
    """

    num_weights: int = 20

    def measured(self, vae: Any, epochs: int, rows: list[dict[str, float]]) -> dict[str, float]:
        """Those of Figure 3, and `predictive` and `divergence`."""
        found = super().measured(vae, epochs, rows)
        divergence = weight_divergence(vae)
        if not isinstance(divergence, Tensor):
            return found
        with record.timed(self.cost):
            log_p = self._predictive(vae)
        error = {"predictive": round(log_p.mean().item(), 3), "predictive_error": round(standard_error(log_p), 3)}
        return {**found, **error, "divergence": round(divergence.item() / len(self.data.train), 3)}

    def _predictive(self, vae: Any) -> Tensor:
        """Log of the mean of p(x|theta) over draws of theta, for the test images, nats."""
        generator = torch.Generator().manual_seed(self.seed)
        found = [self._importance(with_drawn_weights(vae, generator), "test").log_p for _ in range(self.num_weights)]
        return torch.logsumexp(torch.stack(found), 0) - log(len(found))


def with_drawn_weights(vae: Any, generator: torch.Generator) -> Any:
    """A copy of a VAE with weights of the decoder drawn from their posterior."""
    drawn = deepcopy(vae)
    with torch.no_grad():
        for mean, log_scale in zip(drawn.decoder.mean.parameters(), drawn.decoder.log_scales, strict=True):
            mean += log_scale.exp() * torch.randn(mean.shape, generator=generator)
    return drawn


def autoencoder(part: str, event: tuple[int, ...], options: argparse.Namespace) -> VAE:
    """The networks of Figure 3; all weights and biases, or the posterior's means, start from N(0, 0.01^2)."""
    network = partial(MLP, hidden=(8 if options.quick else 100,), activation="tanh")
    decoder = partial(Bayesian, network=network) if part == "full" else network
    parts = {"likelihood": partial(Bernoulli, grey=True), "guide": NormalByVariance}
    vae = VAE(event, 3, **parts, encoder=network, decoder=decoder)
    generator = torch.Generator().manual_seed(options.seed)
    with torch.no_grad():
        for parameter in (p for name, p in vae.named_parameters() if "log_scales" not in name):
            parameter.normal_(0, 0.01, generator=generator)
    return vae


def compute(part: str, options: argparse.Namespace, folder: Path) -> None:
    """One curve."""
    data = images(SIZE, options)
    training = Full(
        partial(autoencoder, part, data.event_shape, options),
        data,
        ELBO(analytic_kl=True),
        torch.optim.Adagrad,
        (0.01, 0.02, 0.1),
        seed=options.seed,
        compile=not options.quick,
        trial=200 if options.quick else 1e5,
        num_particles=50 if options.quick else 1000,
        num_weights=2 if options.quick else 20,
        weight_prior=None if part == "full" else 1.0,  # the posterior has its own
    )
    about = {"data": data.protocol, "protocol": f"3 latent, 100 hidden, {part}, batches of 100"}
    follow(training, options.samples or (200 if options.quick else 3e6), folder, about)


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Compute the curves that are asked for; returns and saves the result."""
    return record.run(options, NAME, TITLE, {part: partial(compute, part, options) for part in PARTS})


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = record.options(__doc__, NAME)
    parser.add_argument("--samples", type=float, help="training samples seen (3e6); more of them lengthen a training")
    return parser


if __name__ == "__main__":
    record.script(main, parser())
