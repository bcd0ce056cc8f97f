"""Two latent dimensions: log p(x) by quadrature, for a nonlinear decoder and every likelihood of the package."""

from functools import partial

import pytest
import torch

from pyro_vae.autoencoders import VAE
from pyro_vae.evidence import log_marginal
from pyro_vae.guides import FullNormal
from pyro_vae.inference.weighing import weigh
from pyro_vae.likelihoods import Likelihood
from pyro_vae.networks import MLP
from pyro_vae.testing import axis_of
from pyro_vae.training.fitting import fit


def quadrature(vae, x, half_width=7.0, side=141):
    """log of the integral of p(x, z) over a square, by the trapezoid rule (spectrally accurate for smooth tails)."""
    axis = torch.linspace(-half_width, half_width, side, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis).unsqueeze(1)
    with torch.no_grad():
        joint = torch.cat([sum(weigh(vae.model, {"z": z}, datum)) for datum in x.split(1)], -1)
    return torch.logsumexp(joint, 0) + 2 * (axis[1] - axis[0]).log()


def settings():
    """Every likelihood by its defaults, and with its options in the slow suite."""
    for part in axis_of(Likelihood).parts():
        yield pytest.param(part, id=str(part), marks=[pytest.mark.slow] if part.options else [])


@pytest.mark.parametrize("likelihood", list(settings()))
def test_importance_sampling_agrees_with_quadrature(likelihood):
    """K = 2000 from a trained guide, 10 data of the model: each within 5 of its standard errors (false alarm < 6e-6).

    The decoder is a mild one and the guide widened a little, so that the weights have no heavy tail and the standard
    errors are calibrated.
    """
    torch.manual_seed(0)
    network = partial(MLP, hidden=(8,))
    vae = VAE((3,), 2, likelihood=likelihood.factory, guide=FullNormal, encoder=network, decoder=network).double()
    vae.decoder.requires_grad_(False).output.weight.mul_(0.3)
    x = vae.decode(torch.randn(200, 2, dtype=torch.float64)).sample()
    fit(vae, x, epochs=40, optimizer=partial(torch.optim.Adam, lr=1e-2), progress=False)
    with torch.no_grad():
        vae.encoder.output.bias[2:4] += 0.3
    evidence, exact = log_marginal(vae.model, vae.guide, x[:10], num_particles=2000), quadrature(vae, x[:10])
    assert evidence.unreliable == 0
    assert ((evidence.log_p - exact).abs() < 5 * evidence.standard_error + 1e-6).all()
