"""Coordinates of the plane."""

import pytest
import torch

from pyro_vae.autoencoders import VAE, HierarchicalVAE
from pyro_vae.errors import UsageError
from pyro_vae.explore.frames import frame_of, frames, normal_moments
from pyro_vae.explore.plane import plane_of
from pyro_vae.explore.subject import Explored
from pyro_vae.guides import FullNormal, Householder, LowRankNormal, MixtureOfNormals, SplineFlow
from pyro_vae.inference.programs import evaluation_mode
from pyro_vae.shapes import Shapes
from tests.support.packed import unpacked


def explored(latent, **parts):
    return Explored(VAE((5,), latent, **parts), (torch.rand(20, 5) < 0.5).float())


@pytest.mark.parametrize("latent", [1, 2, 5])
def test_codes_and_places_are_inverse(latent):
    for frame in frames(explored(latent)).values():
        z = torch.randn(7, latent).double()
        assert (frame.codes(frame.places(z)) - z).abs().max() < 1e-12
        assert (frame.low < frame.high).all() and len(frame.names) == max(latent, 2)


def test_two_dimensions_are_shown_as_they_are():
    found = frames(explored(2))
    assert list(found) == ["coordinates"] and found["coordinates"].names == ("z[0]", "z[1]")
    assert (found["coordinates"].axes == torch.eye(2)).all()
    with pytest.raises(UsageError, match="this model has coordinates, got 'principal'"):
        frame_of(found, "principal")


def test_coordinates_are_in_the_order_of_their_divergence():
    found = frames(explored(6))["coordinates"]
    assert (found.carried.diff() <= 0).all() and found.unit == "KL, nats"
    index = int(found.names[0][2:-1])
    z = torch.randn(6).double()
    assert found.places(z)[0] == z[index]


def test_principal_axes_have_the_variances_of_the_codes():
    subject = explored(4)
    frame = frames(subject)["principal"]
    places = frame.places(subject.encoded.codes)
    assert (frame.axes.T @ frame.axes - torch.eye(4)).abs().max() < 1e-12
    assert torch.allclose(torch.cov(places.T), torch.diag(frame.carried), atol=1e-10)


@pytest.mark.parametrize("guide", [FullNormal, LowRankNormal, Householder])
def test_moments_of_normals_in_any_frame(guide):
    """The covariance of 200,000 draws, whose entries have a relative error below 0.5 %: 4 % is eight of them."""
    subject = explored(3, guide=guide)
    frame = frames(subject)["principal"]
    with evaluation_mode(subject.vae):
        q = subject.vae.encode(subject.x[:1])
        mean, covariance = (value[0] for value in normal_moments(q))
        draws = frame.places(q.sample((200_000,))[:, 0])
    assert torch.allclose(torch.cov(draws.T), frame.covariance(covariance), atol=0.04)
    assert torch.allclose(draws.mean(0), frame.places(mean), atol=0.02)


@pytest.mark.parametrize("guide", [MixtureOfNormals, SplineFlow])
def test_what_is_not_normal_has_no_ellipse(guide):
    family = guide(Shapes((5,), 2))
    assert normal_moments(family.distribution(torch.zeros(1, *family.param_shape))) is None


def test_the_plane_has_the_codes_of_the_data():
    subject = explored(3)
    frame = frames(subject)["coordinates"]
    plane = plane_of(subject, frame, (2, 0), subject.datum(0))
    codes = frame.places(subject.encoded.codes)
    assert (torch.from_numpy(unpacked(plane["codes"]).copy()) - codes[:, [2, 0]]).abs().max() < 1e-6
    assert plane["prior"]["kind"] == "normal" and plane["prior"]["covariance"] == [[1, 0], [0, 1]]


def test_of_several_layers_the_top_is_shown():
    subject = Explored(HierarchicalVAE((5,), (4, 2)), (torch.rand(20, 5) < 0.5).float())
    assert subject.site == "z2" and frames(subject)["coordinates"].names == ("z2[0]", "z2[1]")
