"""The VAE of this package, its log p(x) by importance sampling."""

from functools import partial

import torch
from torch import Tensor

from other_models.common import Budget, Data, LogP, Trained, size
from pyro_vae import VAE, fit, impute, log_marginal, sample
from pyro_vae.networks import MLP
from pyro_vae.schedules import Cosine


def train(data: Data, budget: Budget) -> Trained:
    """A VAE with one hidden layer on either side and a mean-field guide."""
    network = partial(MLP, hidden=(budget.hidden,))
    vae = VAE((8, 8), budget.latent, encoder=network, decoder=network)
    adam = partial(torch.optim.Adam, lr=4e-3)
    settings = {"batch_size": 50, "seed": budget.seed, "progress": False, "device": "cpu", "keep": "last"}
    fit(vae, data.source, epochs=budget.epochs, optimizer=adam, lr_schedule=Cosine(), **settings)
    return trained(vae, budget)


def trained(vae: VAE, budget: Budget) -> Trained:
    """What a trained VAE can compute: all of it."""
    seed, draws = budget.seed, budget.draws

    def log_p(x: Tensor) -> LogP:
        found = log_marginal(vae.model, vae.guide, images(x), num_particles=draws, seed=seed)
        how = f"importance sampling, K = {draws}, {found.unreliable:.1%} flagged"
        return LogP(found.log_p, "estimate", how, found.standard_error_monte_carlo)

    def codes(x: Tensor) -> Tensor:
        with torch.no_grad():
            return vae.encode(images(x)).mean

    def decoded(x: Tensor) -> Tensor:
        with torch.no_grad():
            return vae.decode(codes(x)).mean.flatten(1)

    def imputed(x: Tensor, mask: Tensor) -> Tensor:
        given = impute(vae, images(x), images(mask), num_draws=1, num_particles=draws, seed=seed)
        return given.best.flatten(1)

    return Trained(
        name="VAE",
        family="bounded",
        parameters=size(vae),
        sample=lambda n: sample(vae, n, int(torch.randint(2**31, ()))).x.flatten(1),
        log_p=log_p,
        reconstruct=decoded,
        encode=codes,
        impute=imputed,
        anomaly=lambda x: -log_p(x).values,
    )


def images(x: Tensor) -> Tensor:
    """Rows of 64 as images of 8 x 8."""
    return x.unflatten(1, (8, 8))
