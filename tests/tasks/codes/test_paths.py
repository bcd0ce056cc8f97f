"""Paths between codes: lengths and geodesics of surfaces where they are known, and log p(x) along a path."""

from functools import partial
from math import acos, cos, pi, sin
from typing import Any

import pytest
import torch
from torch import nn

from pyro_vae import VAE, HierarchicalVAE
from pyro_vae.errors import UsageError
from pyro_vae.likelihoods import Normal
from pyro_vae.networks import MLP
from pyro_vae.process.seeding import generator, seeded
from pyro_vae.tasks.codes import interpolate
from tests.support.ppca import make_exact, truth, vae_of


class Sphere(nn.Module):
    """Polar angle and longitude to the unit sphere."""

    def __init__(self, in_shape, out_shape):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, z):
        a, b = z.unbind(-1)
        return torch.stack([a.sin() * b.cos(), a.sin() * b.sin(), a.cos()], -1).unsqueeze(-2)


class Cylinder(Sphere):
    """An angle and a height to a cylinder of radius 2, which is flat."""

    def forward(self, z):
        a, b = z.unbind(-1)
        return torch.stack([2 * a.cos(), 2 * a.sin(), b], -1).unsqueeze(-2)


def onto(surface) -> Any:
    return VAE((3,), 2, likelihood=partial(Normal, scale=0.1), encoder=partial(MLP, hidden=(3,)), decoder=surface)


@pytest.mark.parametrize("kind", ["straight", "geodesic"])
def test_a_linear_decoder_has_straight_geodesics(kind):
    process = truth()
    vae = vae_of(process)
    z0, z1 = torch.randn(2, 4, 3, generator=generator(0, "z"), dtype=torch.float64)
    paths = interpolate(vae, z0, z1, kind, steps=5)
    expected = ((z1 - z0) @ process.weight.T).norm(dim=-1)
    line = torch.lerp(z0[:, None], z1[:, None], torch.linspace(0, 1, 5, dtype=torch.float64)[:, None])
    assert torch.allclose(paths.length, expected, rtol=1e-10) and torch.allclose(paths.z, line, atol=1e-6)
    assert (paths.unevenness < 1e-6).all() and not paths.flagged.any()


def test_a_cylinder_is_flat():
    """Also once around and more: the circle's arc is 2 |dz|."""
    z0, z1 = torch.tensor([[0.0, 0.0], [0.5, 1.0]]), torch.tensor([[3.0, 1.0], [0.5 + 7.0, 1.0]])
    paths = interpolate(onto(Cylinder), z0, z1, "geodesic")
    assert torch.allclose(paths.length, torch.tensor([37.0**0.5, 14.0], dtype=torch.float64), rtol=1e-8)


def test_geodesics_of_the_sphere_are_great_circles():
    """The straight path in the chart is longer: along a parallel 2 pi / 3 of a circle of radius sin(0.9)."""
    ends = [((0.9, 0.0), (0.9, 2 * pi / 3)), ((1.2, -0.5), (2.0, 1.0)), ((1.0, 0.3), (1.0, 0.3))]
    z0, z1 = (torch.tensor([pair[i] for pair in ends]) for i in (0, 1))
    expected = [acos(cos(a) * cos(c) + sin(a) * sin(c) * cos(b - d)) for (a, b), (c, d) in ends[:2]] + [0.0]
    paths = interpolate(onto(Sphere), z0, z1, "geodesic", steps=9)
    assert torch.allclose(paths.length, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    assert abs(paths.straight_length[0] - 2 * pi / 3 * sin(0.9)) < 1e-6
    assert (paths.unevenness < 1e-2).all() and not paths.flagged.any()
    normal = torch.linalg.cross(paths.x[0, 0], paths.x[0, -1])
    assert (paths.x[0] @ normal).abs().max() < 1e-3  # the plane of both ends and the centre


def test_a_path_that_can_not_bend_enough_is_flagged():
    far = interpolate(onto(Sphere), torch.tensor([[0.2, 0.0]]), torch.tensor([[0.2, 3.0]]), "geodesic", bends=1)
    assert far.flagged.all() and far.length < far.straight_length


def test_spherical_keeps_the_length_and_the_angle_even():
    z0, z1 = torch.tensor([[3.0, 0.0], [1.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 3.0], [-2.0, 0.0], [2.0, 2.0]])
    paths = interpolate(onto(Cylinder), z0, z1, "spherical", steps=4)
    angles = torch.tensor([0.0, pi / 6, pi / 3, pi / 2], dtype=torch.float64)
    circle = 3 * torch.stack([angles.cos(), angles.sin()], -1)
    assert torch.allclose(paths.z[0], circle, atol=1e-12)
    assert torch.allclose(paths.z[1, :, 0], torch.tensor([1.0, 0.0, -1.0, -2.0], dtype=torch.float64))
    assert torch.allclose(paths.z[2], torch.linspace(1, 2, 4, dtype=torch.float64)[:, None].expand(4, 2))


def test_log_p_along_a_path_is_that_of_draws():
    """With the exact posterior log p(x) has no error: its mean over 4 * 60 draws within 5 standard errors, 6e-7."""
    process = truth()
    vae = make_exact(vae_of(process), process)
    z = torch.zeros(4, 3, dtype=torch.float64)
    paths = interpolate(vae, z, z, "straight", steps=60, num_particles=20)
    with seeded(0, "reference"):
        x = vae.decode(torch.zeros(4000, 3, dtype=torch.float64)).sample()
    expected = process.log_prob(x)
    assert paths.mean_log_p is not None and paths.log_p is not None and len(paths.mean_log_p) == 4
    error = (paths.log_p.standard_error_data**2 + expected.var().item() / 4000) ** 0.5
    assert abs(paths.mean_log_p.mean - expected.mean()) < 5 * error
    assert paths.mean_log_p.standard_errors.max() < 1e-6


def test_a_context_is_decoded_with():
    vae = VAE((4,), 2, context=(3,), encoder=partial(MLP, hidden=(5,)), decoder=partial(MLP, hidden=(5,)))
    c = torch.eye(3)[1]
    paths = interpolate(vae, torch.zeros(2, 2), torch.ones(2, 2), "geodesic", steps=3, c=c)
    ends = torch.stack([torch.zeros(2), torch.ones(2)])
    assert torch.allclose(paths.x[0, ::2], vae.decode(ends, c).mean.detach())


def test_refusals():
    vae, z = onto(Cylinder), torch.zeros(3, 2)
    with pytest.raises(UsageError, match="one latent site"):
        interpolate(HierarchicalVAE((4,), latent_dims=(3, 2)), z, z)
    with pytest.raises(UsageError, match="expected codes"):
        interpolate(vae, z, torch.zeros(3, 3))
    with pytest.raises(UsageError, match="finite codes"):
        interpolate(vae, z, z + torch.nan)
    with pytest.raises(UsageError, match="unknown kind 'curved'"):
        interpolate(vae, z, z, "curved")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="steps >= 2"):
        interpolate(vae, z, z, steps=1)
