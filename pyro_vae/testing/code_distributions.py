"""The contract of a distribution over codes: a prior p(z) or a guide q(z|x)."""

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.errors import UsageError
from pyro_vae.testing.contract import expect_close, expect_finite, expect_shape, not_applicable
from pyro_vae.testing.measure import (
    Grid,
    expect_boxes_filled,
    expect_distributed,
    expect_mean,
    expect_normalised,
    line,
    square,
)

Codes = dist.TorchDistribution


def draw(codes: Codes, *shape: int) -> Tensor:
    """Draws without gradients, `[*shape, *batch, latent]`."""
    with torch.no_grad():
        return codes.rsample(torch.Size(shape)) if codes.has_rsample else codes.sample(torch.Size(shape))


def require_density(codes: Codes) -> None:
    """Skip the check if log_prob refuses other z than its own draws (NotImplementedError or UsageError).

    Raises:
        NotApplicable: in that case, or if this is a point mass.
    """
    require_spread(codes)
    try:
        codes.log_prob(draw(codes) + 0.1)
    except (NotImplementedError, UsageError) as reason:
        raise not_applicable(f"log_prob is known at its own draws only: {reason}") from reason


def require_spread(codes: Codes) -> None:
    """Skip the check if all draws are equal.

    Raises:
        NotApplicable: if this is a point mass.
    """
    z = draw(codes, 5)
    if bool((z == z[0]).all()):
        raise not_applicable("a point mass has no density")


def expect_codes(codes: Codes, batch: tuple[int, ...], latent: int) -> None:
    """Check the shapes of the distribution, its draws and its log-densities, and that the latter are finite."""
    expect_shape("batch shape", codes.batch_shape, batch)
    expect_shape("event shape", codes.event_shape, (latent,), "end with .to_event(1)")
    with torch.no_grad():
        z = draw(codes, 5)
        log_prob = codes.log_prob(z)
    expect_shape("draws of shape", z.shape, (5, *batch, latent))
    expect_shape("log_prob of shape", log_prob.shape, (5, *batch))
    expect_finite("the log-density of its draws", log_prob)


def expect_codes_normalised(on_line: Codes, on_plane: Codes) -> None:
    """The density must integrate to 1 in double precision: over the line within 1e-6, over the plane within 2e-3.

    Args:
        on_line: with one latent dimension and batch shape ().
        on_plane: with two.
    """
    expect_normalised(masses_on(line(draw(on_line, 2000)), on_line))
    grid = square(draw(on_plane, 2000))
    with torch.no_grad():
        expect_normalised(grid.masses(on_plane.log_prob), 2e-3)


def masses_on(grid: Grid, codes: Codes) -> Tensor:
    """The probability at the points of a line, `[n, 1]`."""
    with torch.no_grad():
        return grid.masses(lambda z: codes.log_prob(z).unsqueeze(-1))


def expect_draws_follow(codes: Codes) -> None:
    """Compare 20,000 draws of one latent dimension with the integral of the density."""
    draws = draw(codes, 20_000)
    grid = line(draws)
    expect_distributed(draws, grid, masses_on(grid, codes))


def expect_density_of_draws(codes: Codes) -> None:
    """Compare 40,000 draws in any number of dimensions with their own densities."""

    def drawn(n: int) -> tuple[Tensor, Tensor]:
        with torch.no_grad():  # both: a log-density cached with the draw then has no gradient
            z = draw(codes, n)
            return z, codes.log_prob(z)

    expect_boxes_filled(drawn)


def expect_moments(codes: Codes) -> None:
    """Compare 20,000 draws with `mean` and `variance`, within 5.5 standard errors: false alarms 4e-8 for each entry.

    Raises:
        NotApplicable: if these are not implemented.
    """
    try:
        mean, variance = codes.mean.detach(), codes.variance.detach()
    except NotImplementedError as reason:
        raise not_applicable("mean and variance are not implemented") from reason
    z = draw(codes, 20_000)
    expect_shape("mean of shape", mean.shape, z.shape[1:])
    expect_mean("draws with mean", z, mean, 1e-6)
    expect_mean("draws with variance", (z - mean).square(), variance, 1e-6)


def expect_rows_apart(codes: Codes, rows: list[Codes]) -> None:
    """The log-density of a batch must equal that of its rows, each evaluated alone.

    Args:
        codes: batch shape `[B]`.
        rows: the distribution of each row, batch shape ().
    """
    require_density(codes)
    z = draw(codes, 3)
    apart = torch.stack([row.log_prob(z[:, i]) for i, row in enumerate(rows)], 1)
    expect_close("each row's log-density, as if it were alone,", codes.log_prob(z.clone()), apart, 1e-4, 1e-4)
