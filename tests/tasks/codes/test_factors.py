"""MIG, SAP and DCI: 1 on a code that is the factors, 0 on one that knows nothing, and known values in between."""

from math import log

import pytest
import torch

from pyro_vae.errors import DataError, UsageError
from pyro_vae.process.seeding import generator
from pyro_vae.tasks.codes import dci, mig, sap

GRID = torch.cartesian_prod(torch.arange(5), torch.arange(3), torch.arange(4), torch.arange(7))
"""All combinations of three factors, and of a fourth quantity that no code needs."""
FACTORS = GRID[:, :3]


def noise(num, size):
    return torch.randn(num, size, generator=generator(0, "noise"), dtype=torch.float64)


def test_a_code_that_is_the_factors():
    """Permuted, scaled and with a coordinate more that is independent of them."""
    code = torch.stack([2.0 * FACTORS[:, 2], GRID[:, 3].double(), -FACTORS[:, 0] + 1.0, 0.1 * FACTORS[:, 1]], 1)
    assert abs(mig(code, FACTORS).value - 1) < 1e-12 and abs(sap(code, FACTORS).value - 1) < 1e-12


@pytest.mark.parametrize("model", ["lasso", "trees"])
def test_dci_of_a_code_that_is_the_factors(model):
    pytest.importorskip("sklearn", reason="the extra 'sklearn' is not installed")
    found = dci(FACTORS[:, [2, 0, 1]], FACTORS, model=model, num_resamples=2)
    assert min(found.disentanglement.value, found.completeness.value, found.informativeness.value) > 0.99
    assert torch.equal(found.importance.argmax(0), torch.tensor([1, 2, 0]))
    assert found.summary()["model"] == model


def test_a_code_that_knows_nothing():
    """Gaps of the noise of 2,000 data: information up to 20 * 6 / 4000 nats, squared correlations of 1 / 2000."""
    pytest.importorskip("sklearn", reason="the extra 'sklearn' is not installed")
    rows = torch.randint(len(GRID), (2000,), generator=generator(0, "rows"))
    code = noise(2000, 4)
    assert mig(code, FACTORS[rows]).value < 0.01 and sap(code, FACTORS[rows]).value < 0.01
    found = dci(code, FACTORS[rows], num_resamples=2)
    assert found.informativeness.value < 0.02


def test_a_factor_in_two_coordinates_has_no_gap():
    code = torch.stack([FACTORS[:, 0], FACTORS[:, 0], FACTORS[:, 1], FACTORS[:, 2]], 1)
    assert abs(mig(code, FACTORS).value - 2 / 3) < 1e-12 and abs(sap(code, FACTORS).value - 2 / 3) < 1e-12


def test_known_values_of_a_code_that_merges_values():
    """z tells v in {0, 1} from v in {2, 3}: half of the information log 4; corr(z, v)^2 = 4 / 5."""
    v = torch.arange(4).repeat(5)
    z = torch.stack([v // 2, torch.arange(20) // 4], 1)
    assert abs(mig(z, v).value - log(2) / log(4)) < 1e-12
    assert abs(sap(z, v).value - 0.8) < 1e-12


def test_disentanglement_and_completeness_by_hand():
    """z0 = v0 + v1 serves both factors alike: D = 0, C = 1."""
    pytest.importorskip("sklearn", reason="the extra 'sklearn' is not installed")
    v = torch.cartesian_prod(torch.arange(20.0), torch.arange(20.0))
    found = dci(v.sum(1, keepdim=True), v, num_resamples=2)
    assert found.disentanglement.value < 1e-3 and abs(found.completeness.value - 1) < 1e-9


def test_standard_error_is_that_of_new_data():
    """SAP of 120 data sets: their spread is known to 6.5 %, the mean standard error better; false alarm below 1e-8."""
    found = []
    for index in range(120):
        stream = generator(1, "data", index)
        v = torch.randn(150, 1, generator=stream, dtype=torch.float64)
        code = torch.cat([v, 0 * v], 1) + torch.randn(150, 2, generator=stream, dtype=torch.float64)
        found.append(sap(code, v, num_resamples=30))
    spread = torch.tensor([f.value for f in found]).std()
    assert abs(spread / torch.tensor([f.standard_error for f in found]).mean() - 1) < 0.4


def test_refusals():
    with pytest.raises(DataError, match=r"codes \[N, L\]"):
        mig(torch.zeros(3, 2), torch.zeros(4, 1))
    with pytest.raises(DataError, match="factor 1 has one value"):
        sap(torch.zeros(3, 2), torch.tensor([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]]))
    with pytest.raises(DataError, match="finite"):
        mig(torch.full((3, 2), torch.nan), torch.arange(3))
    with pytest.raises(UsageError, match="num_resamples >= 2"):
        mig(torch.zeros(3, 2), torch.arange(3), num_resamples=1)
    pytest.importorskip("sklearn", reason="the extra 'sklearn' is not installed")
    with pytest.raises(UsageError, match="unknown model"):
        dci(torch.zeros(30, 2), torch.arange(30), model="forest")  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match="at least 20"):
        dci(torch.zeros(3, 2), torch.arange(3))
