"""MLP's own options; what every network promises is in tests/contract."""

from functools import partial

import pytest

from pyro_vae.errors import UsageError
from pyro_vae.networks import MLP
from pyro_vae.testing import check_part


@pytest.mark.parametrize("options", [{"hidden": ()}, {"hidden": (5, 4), "activation": "softplus"}], ids=str)
def test_depths_keep_the_contract(options):
    assert check_part(partial(MLP, **options))


def test_refuses_bad_options():
    with pytest.raises(UsageError, match="choose one of tanh"):
        MLP((3,), (2,), activation="tahn")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="positive"):
        MLP((3,), (2,), hidden=(0,))
