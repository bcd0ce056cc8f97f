"""Attribute vectors and edits, exact on a linear model."""

from functools import partial

import pytest
import torch

from pyro_vae import VAE, HierarchicalVAE
from pyro_vae.errors import DataError, UsageError
from pyro_vae.networks import MLP
from pyro_vae.process.seeding import generator
from pyro_vae.tasks.codes import attribute_vector, edit, encode_data
from tests.support.ppca import make_exact, truth, vae_of


def test_a_linear_model_moves_by_what_the_attribute_adds():
    """x with the attribute has d more on average: codes move by A d, edits by s W A d, and encode to A W A d of it."""
    process = truth()
    vae = make_exact(vae_of(process), process)
    x = torch.randn(40, 6, generator=generator(0, "x"), dtype=torch.float64)
    has = torch.arange(40) % 2 == 0
    gain = process.posterior(torch.eye(6, dtype=torch.float64))[0] - process.posterior(torch.zeros(1, 6).double())[0]
    d = x[has].mean(0) - x[~has].mean(0)
    attribute = attribute_vector(encode_data(vae, x, 1).codes, has)
    assert torch.allclose(attribute.vector, d @ gain, atol=1e-12)
    edited = edit(vae, x, attribute, (-1.0, 0.0, 0.5, 2.0))
    moved = process.weight @ attribute.vector
    for index, s in enumerate(edited.strengths):
        assert torch.allclose(edited.x[index] - edited.x[1], s * moved, atol=1e-10)
        slope = (moved @ gain) @ attribute.vector / attribute.vector.square().sum()
        assert torch.allclose(edited.found[index] - edited.found[1], s * slope, atol=1e-10)
    assert abs(edited.reached(3).mean - edited.found[3].mean().item()) < 1e-12


def test_errors_of_the_vector():
    """300 vectors from 2 * 25 codes: (v - true) / se has variance 1, within 5 errors of Student's: false alarm 1e-6."""
    codes = torch.randn(300, 50, 2, generator=generator(0, "codes"), dtype=torch.float64)
    has = torch.arange(50) < 25
    found = [attribute_vector(c + 3 * has[:, None], has) for c in codes]
    standard = torch.stack([(f.vector - 3) / f.standard_error for f in found])
    assert abs(standard.square().mean() - 48 / 46) < 5 * (2.2 / 600) ** 0.5
    lengths = torch.tensor([f.length for f in found])
    assert abs(lengths.std() / torch.tensor([f.length_standard_error for f in found]).mean() - 1) < 0.2


def test_refusals():
    vae = VAE((4,), 2, encoder=partial(MLP, hidden=(5,)), decoder=partial(MLP, hidden=(5,)))
    x = torch.ones(3, 4)
    with pytest.raises(DataError, match="2 data with the attribute"):
        attribute_vector(torch.zeros(3, 2), torch.tensor([True, False, False]))
    with pytest.raises(DataError, match="one bool for each"):
        attribute_vector(torch.zeros(3, 2), torch.tensor([1, 0, 0]))
    with pytest.raises(UsageError, match="expected 2 finite numbers"):
        edit(vae, x, torch.ones(3))
    with pytest.raises(UsageError, match="not all 0"):
        edit(vae, x, torch.zeros(2))
    with pytest.raises(UsageError, match="strengths: expected finite"):
        edit(vae, x, torch.ones(2), [float("nan")])
    with pytest.raises(UsageError, match="one latent site"):
        edit(HierarchicalVAE((4,), latent_dims=(3, 2)), x, torch.ones(5))
