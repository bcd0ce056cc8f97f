"""A generative stochastic network (Bengio et al. 2014): a Markov chain that is trained to return to the data.

One hidden layer with tied weights. The chain adds noise on the way to h and draws x from p(x|h). If it mixes, its
stationary distribution is p(x) = E_h[p(x|h)] over the h that it visits.
"""

from math import log

import torch
from torch import Tensor, nn

from other_models.common import Budget, Data, LogP, Trained, bit_log_prob, descend, size


class Network(nn.Module):
    """x -> noisy x -> noisy h -> logits of x."""

    def __init__(self, hidden: int, noise: float = 0.1, flipped: float = 0.3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, hidden) / 8)
        self.visible, self.hidden = nn.Parameter(torch.zeros(64)), nn.Parameter(torch.zeros(hidden))
        self.noise, self.flipped = noise, flipped

    def encode(self, x: Tensor, noise: bool = True) -> Tensor:
        """h, with noise on x (a share of the bits is drawn by a coin) and on both sides of the nonlinearity."""
        if not noise:
            return (x @ self.weight + self.hidden).tanh()
        coins = (torch.rand_like(x) < 0.5).to(x)
        x = torch.where(torch.rand_like(x) < self.flipped, coins, x)
        before = x @ self.weight + self.hidden
        h = (before + self.noise * torch.randn_like(before)).tanh()
        return h + self.noise * torch.randn_like(h)

    def decode(self, h: Tensor) -> Tensor:
        """Logits of x."""
        return h @ self.weight.T + self.visible


def train(data: Data, budget: Budget, walk: int = 3) -> Trained:
    """By walkback: the chain runs `walk` steps away from a datum, and each step is asked to return to it."""
    network = Network(budget.hidden)

    def loss(x: Tensor) -> Tensor:
        state, total = x, torch.zeros(())
        for _ in range(walk):
            logits = network.decode(network.encode(state))
            total = total - bit_log_prob(logits, x).mean()
            state = torch.bernoulli(logits.detach().sigmoid())
        return total / walk

    descend(network, loss, data, budget.epochs)
    network.requires_grad_(False)
    states = visited(network, data, budget)
    return Trained(
        name="generative stochastic network",
        family="bounded",
        parameters=size(network),
        sample=lambda n: torch.bernoulli(states[torch.randperm(len(states))[:n]].sigmoid()),
        log_p=lambda x: conservative(states, x, budget.chains),
        reconstruct=lambda x: network.decode(network.encode(x, noise=False)).sigmoid(),
        encode=lambda x: network.encode(x, noise=False),
        impute=lambda x, mask: clamped(network, x, mask),
        anomaly=lambda x: -conservative(states, x, budget.chains).values,
    )


def visited(network: Network, data: Data, budget: Budget) -> Tensor:
    """Logits of x at the states of chains that begin at random bits, `[chains * draws / 10, 64]`; a tenth is kept."""
    x, kept = torch.bernoulli(torch.full((budget.chains, 64), 0.5)), []
    for step in range(100 + budget.draws):
        logits = network.decode(network.encode(x))
        x = torch.bernoulli(logits.sigmoid())
        if step >= 100 and step % 10 == 0:
            kept.append(logits)
    return torch.cat(kept)


def conservative(states: Tensor, x: Tensor, chains: int) -> LogP:
    """The log of mean_s p(x | h_s) (Bengio & Yao 2013): in expectation below log p(x) of the chain, and rising with S.

    The chains' averages are independent; their spread gives the error of the mean over data (jackknife over blocks).
    """
    terms = x @ states.T - nn.functional.softplus(states).sum(1)
    values = terms.logsumexp(1) - log(len(states))
    blocks = terms.unflatten(1, (-1, chains)).logsumexp(1)  # one number for each chain
    blocks = torch.stack([part.logsumexp(1) for part in blocks.split(max(1, chains // 20), 1)], 1)
    left = [torch.cat([blocks[:, :b], blocks[:, b + 1 :]], 1).logsumexp(1).mean() for b in range(blocks.shape[1])]
    error = torch.stack(left).std(correction=0).item() * (len(left) - 1) ** 0.5
    return LogP(values, "lower bound", f"mean of p(x|h) over {len(states):,} states of the chain", error)


def clamped(network: Network, x: Tensor, mask: Tensor, steps: int = 200) -> Tensor:
    """The mean of p(x|h) over a chain whose observed bits are put back at every step."""
    state, total = torch.where(mask, x, torch.bernoulli(torch.full_like(x, 0.5))), torch.zeros_like(x)
    for step in range(steps):
        mean = network.decode(network.encode(state)).sigmoid()
        state = torch.where(mask, x, torch.bernoulli(mean))
        total += mean * (step >= steps // 4)
    return torch.where(mask, x, total / (steps - steps // 4))
