"""The warm-up of Hamiltonian Monte Carlo: step sizes by dual averaging, scales from the draws."""

from math import log

import torch
from torch import Tensor

from pyro_vae.inference.trajectories import Walk


class Adaptation:
    """The warm-up of a walk: step sizes by dual averaging, scales from its draws in two windows.

    Args:
        walk: the chains.
        step_size: where to start, one for all or `[N]`.
        target: acceptance probability.
        num_steps: number of warm-up steps.
    """

    def __init__(self, walk: Walk, step_size: float | Tensor, target: float, num_steps: int) -> None:
        z = walk.point[0]
        self.walk, self.target, self.done = walk, target, 0
        self.scale = torch.ones_like(z[0])
        initial = torch.as_tensor(step_size, dtype=z.dtype, device=z.device).expand(len(z[0]))[:, None]
        self.steps = DualAveraging(self._rough(initial) if num_steps else initial, target)
        self.windows = {num_steps * share // 8 for share in (3, 6)} if num_steps >= 40 else set()
        self.opening = num_steps // 8
        self._open_window()

    def step(self) -> None:
        """Make one trajectory of every chain and update step sizes and scales."""
        accept = self.walk.step(self.steps.current * self.scale)
        self.steps.update(accept.mean(0)[:, None])
        self.done += 1
        if self.windows and self.opening < self.done <= max(self.windows):
            self._add(self.walk.point[0])
        if self.done in self.windows:
            self.scale = self._estimated_scale()
            self.steps = DualAveraging(self._rough(self.steps.average), self.target)
            self._open_window()

    def result(self) -> Tensor:
        """The step sizes found, `[N, 1]`."""
        return self.steps.average

    def _rough(self, step: Tensor) -> Tensor:
        return step * self.walk.rough_step_size(step * self.scale)

    def _open_window(self) -> None:
        self.count, self.mean, self.squares = 0, torch.zeros_like(self.scale), torch.zeros_like(self.scale)

    def _add(self, z: Tensor) -> None:
        """Take in draws `[chains, N, size]`: mean and squared deviations without cancellation (Chan et al. 1983)."""
        mean, total = z.mean(0), self.count + len(z)
        shift = mean - self.mean
        within = (z - mean).square().sum(0)
        self.squares = self.squares + within + shift.square() * self.count * len(z) / total
        self.mean, self.count = self.mean + shift * len(z) / total, total

    def _estimated_scale(self) -> Tensor:
        """Standard deviations, shrunk a little towards a fraction of the previous ones as Stan does, so none is 0."""
        return ((self.squares + 5e-3 * self.scale.square()) / (self.count + 5)).sqrt()


class DualAveraging:
    """Step sizes that bring acceptance to a target: stochastic approximation on their logarithm, and its average.

    Args:
        step_size: where to start, `[N, 1]`; the search is drawn towards ten times this value.
        target: acceptance probability.

    References:
        Hoffman & Gelman 2014, section 3.2.
    """

    def __init__(self, step_size: Tensor, target: float) -> None:
        self.current, self.target, self.count = step_size, target, 0
        self.centre, self.short = step_size.log() + log(10), torch.zeros_like(step_size)
        self.log_average = step_size.log()

    @property
    def average(self) -> Tensor:
        """The average, which converges; the start before the first update."""
        return self.log_average.exp() if self.count else self.current

    def update(self, accept: Tensor) -> None:
        """Take in acceptance probabilities, `[N, 1]`."""
        self.count += 1
        t = self.count
        self.short = self.short + (self.target - accept - self.short) / (t + 10)
        logarithm = self.centre - t**0.5 / 0.05 * self.short
        weight = t**-0.75
        self.log_average = weight * logarithm + (1 - weight) * self.log_average
        self.current = logarithm.exp()
