"""Independent pixels: the floor of every measure, and where annealing of a Boltzmann machine starts."""

import torch
from torch import Tensor
from torch.special import xlogy

from other_models.common import Budget, Data, LogP, Trained


def rates(data: Data) -> Tensor:
    """The share of ones of each pixel, `[64]`, away from 0 and 1 by one datum in the training set."""
    return (data.grey.double().sum(0) + 0.5) / (len(data.grey) + 1)


def train(data: Data, budget: Budget) -> Trained:
    """p(x) as a product over pixels; one number a pixel."""
    p = rates(data)

    def log_prob(x: Tensor) -> Tensor:
        return (xlogy(x, p) + xlogy(1 - x, 1 - p)).sum(-1)

    return Trained(
        name="independent pixels",
        family="exact",
        parameters=len(p),
        sample=lambda n: torch.bernoulli(p.float().expand(n, -1)),
        log_p=lambda x: LogP(log_prob(x.double()), "exact", "closed form"),
        impute=lambda x, mask: torch.where(mask, x, p.float()),
        anomaly=lambda x: -log_prob(x.double()),
    )
