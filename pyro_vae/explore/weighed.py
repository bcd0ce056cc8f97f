"""Draws of a guide for one datum with their weights: ELBO, log p(x), the gap between them, each with its error."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log, sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.explore.grid import GridPosterior
from pyro_vae.inference.programs import Program, evaluation_mode
from pyro_vae.inference.weighing import importance
from pyro_vae.process.seeding import seeded
from pyro_vae.statistics.averages import squared_error_of_log_mean
from pyro_vae.statistics.pareto import smooth_tail
from pyro_vae.statistics.reliability import error_bar_below
from pyro_vae.statistics.rounding import rounding_error


@dataclass(frozen=True, eq=False)
class Weighed:
    r"""K draws z_k ~ q(z|x) for one datum, and w_k = p(x, z_k) / q(z_k|x).

    Args:
        latents: the draws by site, `[K, ...]`.
        log_weights: log w_k, `[K]`, nats, double precision.
        log_likelihood: log p(x|z_k), `[K]`, nats.
        rounding: about how far log w_k is off by rounding, nats.
    """

    latents: Mapping[str, Tensor]
    log_weights: Tensor
    log_likelihood: Tensor
    rounding: Tensor

    @property
    def shares(self) -> Tensor:
        """The weights, normalised to sum 1, `[K]`."""
        return self.log_weights.softmax(0)

    @property
    def ess(self) -> Tensor:
        """Effective number of draws, `(sum w)^2 / sum w^2`, `[1]`."""
        return 1 / self.shares.square().sum(0, keepdim=True)

    @property
    def pareto_k(self) -> Tensor:
        """Shape of the tail of the weights, `[1]`."""
        rows = np.ascontiguousarray(self.log_weights[None].numpy())
        return torch.from_numpy(smooth_tail(rows, len(self.log_weights), self.rounding.numpy())[1])

    @property
    def log_p(self) -> float:
        """Log p(x) by importance sampling, nats."""
        return self.log_weights.logsumexp(0).item() - log(len(self.log_weights))

    @property
    def log_p_error(self) -> float:
        """Its standard error by the delta method, with rounding, nats."""
        return sqrt(squared_error_of_log_mean(self.ess, len(self.log_weights)).item() + self.rounding.item() ** 2)

    @property
    def elbo(self) -> float:
        """The mean of the log-weights, nats."""
        return self.log_weights.mean().item()

    @property
    def gap_error(self) -> float:
        """Standard error of `log_p - elbo`, which are of the same draws, nats."""
        influence = self.shares * len(self.shares) - self.log_weights
        return _error_of_mean(influence)

    def numbers(self, grid: GridPosterior | None = None) -> dict[str, Any]:
        """What the page shows of them. log p(x) is that of the grid where there is one, else that of the weights."""
        threshold = error_bar_below(len(self.log_weights))
        log_p, error, by_grid = self.log_p, self.log_p_error, False
        if grid is not None and grid.found:
            log_p, error, by_grid = grid.log_p, grid.error, True
        elbo_error = _error_of_mean(self.log_weights)
        return {
            "elbo": self.elbo,
            "elbo_error": elbo_error,
            "log_p": log_p,
            "log_p_error": error,
            "method": "quadrature" if by_grid else "importance",
            "importance": self.log_p,
            "importance_error": self.log_p_error,
            "gap": log_p - self.elbo,
            "gap_error": sqrt(elbo_error**2 + error**2) if by_grid else self.gap_error,
            "reconstruction": self.log_likelihood.mean().item(),
            "kl": self.log_likelihood.mean().item() - self.elbo,
            "pareto_k": self.pareto_k.item(),
            "threshold": threshold,
            "flagged": not self.pareto_k.item() <= threshold,
            "ess": self.ess.item(),
            "num_particles": len(self.log_weights),
        }


def _error_of_mean(values: Tensor) -> float:
    return (values.std() / len(values) ** 0.5).item()


def weighed(model: Program, guide: Program, inputs: Mapping[str, Any], num_particles: int, seed: int = 0) -> Weighed:
    """Draw from a guide for one datum, and weigh.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z|x), with a density.
        inputs: what both take, by name, `[1, ...]`, `x` among it.
        num_particles: K.
        seed: of the draws.
    """
    with evaluation_mode(model, guide), seeded(seed, "explore", "weigh"):
        found = importance(model, guide, num_particles=num_particles, **inputs)
    log_joint = found.log_likelihood + found.log_prior
    latents = {name: value[:, 0].cpu() for name, value in found.latents.items()}
    columns = (found.log_weights[:, 0], found.log_likelihood[:, 0])
    log_weights, log_likelihood = (column.double().cpu() for column in columns)
    return Weighed(latents, log_weights, log_likelihood, rounding_error(log_joint, found.log_guide).cpu())
