"""A generative adversarial network: draws, and nothing else.

A draw is x = g(z), one image for each z. The density of x would need all z that g maps to it, and for a datum that
was not drawn there may be none: then p(x) = 0. So it has no log p(x) that could be computed, averaged or bounded.
"""

import torch
from torch import Tensor, nn

from other_models.common import Budget, Data, Trained, batches, layers, size

NOISE = 16
"""Numbers in z."""


def train(data: Data, budget: Budget) -> Trained:
    """The losses of Goodfellow et al. 2014, the generator's non-saturating."""
    generator = layers(NOISE, budget.hidden, 64)
    critic = nn.Sequential(
        nn.Linear(64, budget.hidden), nn.LeakyReLU(0.2), nn.Dropout(0.3), nn.Linear(budget.hidden, 1)
    )
    rates = {generator: 3e-4, critic: 1e-3}
    step_of = {m: torch.optim.Adam(m.parameters(), lr=rate, betas=(0.5, 0.999)) for m, rate in rates.items()}
    for _, x in batches(data, budget.epochs):
        drawn = draws(generator, len(x))
        loss = nn.functional.softplus(-critic(x)).mean() + nn.functional.softplus(critic(drawn.detach())).mean()
        take(step_of[critic], loss)
        take(step_of[generator], nn.functional.softplus(-critic(drawn)).mean())
    critic.eval()
    for network in (generator, critic):
        network.requires_grad_(False)
    return Trained(
        name="generative adversarial network",
        family="none",
        parameters=size(generator) + size(critic),
        sample=lambda n: draws(generator, n),
        anomaly=lambda x: -critic(x).squeeze(1),
    )


def take(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def draws(generator: nn.Module, n: int) -> Tensor:
    """Bits of n draws, `[n, 64]`; their gradient is that of the probabilities before rounding."""
    p = generator(torch.randn(n, NOISE)).sigmoid()
    return (p > 0.5).float() + p - p.detach()
