"""The ELBO's own options; what every objective promises is in tests/contract, exact values in tests/exact."""

from functools import partial

import pytest

from pyro_vae.objectives import ELBO
from pyro_vae.schedules import Linear
from pyro_vae.testing import axis_of, check_part

BETAS = [{"beta": 0.5}, {"beta": Linear(0.0, 0.5)}, {"beta": 2.0, "analytic_kl": True, "num_particles": 2}]


@pytest.mark.parametrize("analytic_kl", [False, True])
def test_particles_keep_the_contract(analytic_kl):
    assert check_part(partial(ELBO, num_particles=3, analytic_kl=analytic_kl))


@pytest.mark.parametrize("options", BETAS, ids=str)
def test_weights_keep_the_contract(options):
    """All but the exact value, which a weight other than 1 does not have."""
    kept = {check.__name__ for check in axis_of(ELBO).checks} - {"is_met_by_the_exact_posterior"}
    assert check_part(partial(ELBO, **options), only=kept)
