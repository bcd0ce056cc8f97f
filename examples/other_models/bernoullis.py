"""A mixture of Bernoulli distributions, by EM: on bits what a Gaussian mixture is on real numbers."""

import torch
from torch import Tensor

from other_models.common import Budget, Data, LogP, Trained


def train(data: Data, budget: Budget, components: int = 50) -> Trained:
    r"""p(x) = sum_k w_k prod_d p_kd^x_d (1 - p_kd)^(1 - x_d), by 100 steps of EM on stacked passes."""
    x = data.passes(budget.stacked, budget.seed)
    weights = torch.full((components,), 1 / components)
    means = x[torch.randperm(len(x))[:components]] * 0.5 + 0.25
    for _ in range(min(budget.epochs, 100)):
        shares = log_joint(x, weights, means).softmax(1)
        count = shares.sum(0)
        weights = count / len(x)
        means = (shares.T @ x + 1) / (count[:, None] + 2)  # a one and a zero more than there were: none is impossible

    def encode(x: Tensor) -> Tensor:
        return log_joint(x, weights, means).softmax(1)

    def log_prob(x: Tensor) -> Tensor:
        return log_joint(x, weights, means).logsumexp(1)

    def imputed(x: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask, x, log_joint(x, weights, means, mask).softmax(1) @ means)

    return Trained(
        name=f"mixture of {components} Bernoullis",
        family="exact",
        parameters=means.numel() + components - 1,
        sample=lambda n: torch.bernoulli(means[weights.multinomial(n, replacement=True)]),
        log_p=lambda x: LogP(log_prob(x), "exact", "closed form"),
        reconstruct=lambda x: encode(x) @ means,
        encode=encode,
        impute=imputed,
        anomaly=lambda x: -log_prob(x),
    )


def log_joint(x: Tensor, weights: Tensor, means: Tensor, mask: Tensor | None = None) -> Tensor:
    """The sum log w_k + log p(x | k) over the observed pixels, `[N, K]`."""
    ones, zeros = x, 1 - x
    if mask is not None:
        ones, zeros = ones * mask, zeros * mask
    return weights.log() + ones @ means.log().T + zeros @ (1 - means).log().T
