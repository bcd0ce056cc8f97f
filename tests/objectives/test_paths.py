"""The score of flows at their own draws: against an inversion in double precision, recorded, and in float32."""

from functools import partial

import pytest
import torch

from pyro_vae.autoencoders import VAE
from pyro_vae.guides import InverseAutoregressiveFlow, SplineFlow, flows
from pyro_vae.networks import MLP
from pyro_vae.objectives import DReG, StickingTheLanding
from pyro_vae.process.seeding import seeded
from pyro_vae.shapes import Shapes
from pyro_vae.training.steps import Batch, EagerStep, GraphStep, Loss

IAF = partial(InverseAutoregressiveFlow, hidden=(8,), context=3, transforms=3)
SPLINE = partial(SplineFlow, hidden=(8,), context=3, bins=4)
SMALL = partial(MLP, hidden=(6,))
each = pytest.mark.parametrize("make", [pytest.param(IAF, id="IAF"), pytest.param(SPLINE, id="SplineFlow")])


def member(make, latent, leading=(4,), scale=0.7, dtype=torch.float64):
    """A distribution with random parameters, and all that it depends on."""
    with seeded(0, "member"):
        guide = make(Shapes((2, 3), latent))
        params = scale * torch.randn(*leading, *guide.param_shape)
    guide, params = guide.to(dtype), params.to(dtype).requires_grad_()
    return guide.distribution(params), [params, *guide.parameters()]


def gradients(log_prob, weights):
    found = torch.autograd.grad(log_prob.sum(), weights, allow_unused=True, retain_graph=True)
    pairs = zip(weights, found, strict=True)
    return torch.cat([torch.zeros_like(w).flatten() if g is None else g.flatten() for w, g in pairs])


@each
@pytest.mark.parametrize("latent", [1, 2, 7])
@pytest.mark.parametrize("particles", [(), (5,)])
def test_score_is_that_of_an_inversion(make, latent, particles):
    q, weights = member(make, latent)
    z = q.rsample(particles)
    held = q.log_prob_held(z)
    assert torch.equal(held, q.log_prob(z))
    expected = gradients(q.log_density(z.detach()), weights)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(gradients(held, weights), expected, rtol=1e-8, atol=1e-8)


@each
def test_expansions_and_other_values(make):
    """In a plate the family is expanded; at a value that is no draw of its own there is only the inversion."""
    q, weights = member(make, 3, leading=())
    wide = q.expand((6,))
    z = wide.rsample()
    expected = gradients(wide.log_density(z.detach()), weights)
    torch.testing.assert_close(gradients(wide.log_prob_held(z), weights), expected, rtol=1e-8, atol=1e-8)
    other = torch.randn(6, 3, dtype=torch.float64)
    torch.testing.assert_close(wide.log_prob_held(other), wide.log_density(other))
    again = wide.expand((2, 6))
    torch.testing.assert_close(again.log_prob_held(z), wide.log_density(z).expand(2, 6))


@each
@pytest.mark.parametrize("objective", [StickingTheLanding(2), DReG(3)], ids=str)
def test_objectives_invert_nothing(make, objective, monkeypatch):
    """Nor does the gradient for the model change: it is that with an inversion."""
    vae, x = VAE((6,), 3, guide=make, encoder=SMALL, decoder=SMALL).double(), torch.rand(5, 6).round().double()
    results = []
    for held in (True, False):
        with monkeypatch.context() as patch:
            if held:
                patch.setattr(flows._Autoregressive, "inverse", lambda *_: pytest.fail("inverted"))
            else:
                patch.setattr(flows._Flow, "log_prob_held", lambda q, z: q.log_density(z.detach()))
            with seeded(1):
                loss = objective(vae.model, vae.guide, x)
        results.append([loss.detach(), *torch.autograd.grad(loss, list(vae.parameters()))])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


@each
@pytest.mark.parametrize("objective", [pytest.param(StickingTheLanding(2), marks=pytest.mark.slow), DReG(3)], ids=str)
def test_recorded_is_eager(make, objective):
    vae, x = VAE((6,), 3, guide=make, encoder=SMALL, decoder=SMALL), torch.rand(5, 6).round()
    loss = Loss(vae, objective, lambda batch: batch, lambda size: 0.0)
    graphs = GraphStep(loss, full=0)
    graphs.prepare(Batch(x), 0.0, 1.0)
    results = []
    for step in (graphs, EagerStep(loss)):
        with seeded(7):
            value, _, found = step(Batch(1 - x), 0.0, 1.0)
        results.append([value, *found])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_single_precision_where_gates_are_nearly_closed():
    """An inversion loses the noise, and with it the gradient; the Jacobian at the draw keeps it."""
    found = {}
    for dtype in (torch.float64, torch.float32):
        q, weights = member(IAF, 6, leading=(20,), scale=1.0, dtype=dtype)
        with torch.no_grad():
            for step in q.steps[1:]:
                step.network[-1].bias.sub_(6.0)
        noise = torch.randn(20, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
        z = q.from_noise(noise)
        found[dtype] = [gradients(log_q, weights).double() for log_q in (q.log_prob_held(z), q.log_density(z.detach()))]
    exact, _ = found[torch.float64]
    errors = [((f - exact).norm() / exact.norm()).item() for f in found[torch.float32]]
    assert errors[0] < 1e-2 and errors[0] < errors[1] / 10
