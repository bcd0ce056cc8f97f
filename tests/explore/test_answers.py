"""What the page is answered: the numbers of torch, for every kind of model."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from pyro_vae.autoencoders import VAE, VQVAE, HierarchicalVAE, NotAtRandom, SemiSupervisedVAE
from pyro_vae.data import Table
from pyro_vae.errors import DataError, UsageError
from pyro_vae.explore.answers import Answers
from pyro_vae.explore.subject import Explored
from pyro_vae.guides import Delta, SplineFlow
from pyro_vae.likelihoods import Mixed, Normal
from pyro_vae.networks import MLP
from pyro_vae.priors import ConditionalNormal, MixtureOfNormals, VampPrior
from pyro_vae.tasks import reconstruct
from tests.support.packed import unpacked

SMALL = {"encoder": partial(MLP, hidden=(8,)), "decoder": partial(MLP, hidden=(8,))}
X = (torch.rand(30, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.5).float()


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
    """Searches for the best member of a guide's family end soon."""
    monkeypatch.setattr("pyro_vae.explore.datum.STEPS", 100)


def answers_of(vae, x=X, **more):
    return Answers(Explored(vae, x, **more))


def test_a_point_is_decoded_as_by_the_decoder():
    vae = VAE((4, 4), 2, **SMALL).eval()
    z = [[0.3, -1.2], [2.0, 0.5]]
    found = unpacked(answers_of(vae)("decode", {"places": z})["x"])
    with torch.no_grad():
        exact = vae.decode(torch.tensor(z)).mean
    assert found.shape == (2, 4, 4) and np.abs(found - exact.numpy()).max() < 1e-6


def test_a_datum():
    vae = VAE((4, 4), 2, **SMALL).eval()
    found = answers_of(vae)("datum", {"index": 3})
    with torch.no_grad():
        q = vae.encode(X[3:4])
        reconstruction = vae.decode(q.mean).mean[0]
    assert np.allclose(found["place"], q.mean[0], atol=1e-6)
    assert np.allclose(found["guide"]["covariance"], np.diag(q.variance[0]), atol=1e-6)
    assert np.abs(unpacked(found["reconstruction"]["x"])[0] - reconstruction.numpy()).max() < 1e-6
    assert (unpacked(found["x"]) == X[3].numpy()).all() and found["mask"] is None
    assert unpacked(found["posterior"]["log_density"]).shape == (101, 101)


def test_values_that_were_drawn_and_hidden():
    """The datum itself gives the same; a hidden element has no influence, whatever its value in the data."""
    answers = answers_of(VAE((4, 4), 2, **SMALL))
    whole = X[3].flatten().tolist()
    assert answers("datum", {"index": 3, "x": whole})["numbers"] == answers("datum", {"index": 3})["numbers"]
    hidden = [None, *whole[1:]]
    found = answers("datum", {"index": 3, "x": hidden})
    assert unpacked(found["mask"])[0, 0] == 0 and unpacked(found["mask"]).sum() == 15
    assert found["numbers"]["log_p"] > answers("datum", {"index": 3})["numbers"]["log_p"]  # fewer binary elements


def test_a_refined_guide_has_a_higher_bound():
    answers = answers_of(VAE((4, 4), 2, **SMALL))
    before, after = (answers(name, {"index": 0})["numbers"] for name in ("datum", "refine"))
    assert after["elbo"] > before["elbo"] and after["log_p"] == before["log_p"]


def test_weighed_draws_sum_to_one():
    found = answers_of(VAE((4, 4), 3, **SMALL))("draws", {"index": 0, "axes": [2, 1]})
    assert unpacked(found["draws"]).shape == (1000, 2) and abs(unpacked(found["shares"]).sum() - 1) < 1e-5


def test_restoring_keeps_what_is_observed():
    answers = answers_of(VAE((4, 4), 2, **SMALL))
    x = [None if i < 8 else 1.0 for i in range(16)]
    draws = unpacked(answers("restore", {"x": x})["draws"])
    assert draws.shape == (8, 4, 4) and (draws[:, 2:] == 1).all() and 0 < draws[:, :2].mean() < 1
    noisy = unpacked(answers("restore", {"x": [1.0] * 16, "flip": 0.4, "better": True})["draws"])
    assert 0 < noisy.mean() < 1


MODELS = {
    "one dimension": lambda: VAE((4, 4), 1, **SMALL),
    "two, a flow": lambda: VAE((4, 4), 2, guide=SplineFlow, **SMALL),
    "two, a mixture": lambda: VAE((4, 4), 2, prior=MixtureOfNormals, **SMALL),
    "three, VampPrior": lambda: VAE((4, 4), 3, prior=VampPrior, **SMALL),
    "a point guide": lambda: VAE((4, 4), 2, guide=Delta, **SMALL),
    "layers": lambda: HierarchicalVAE((4, 4), (3, 2), **SMALL),
    "classes": lambda: SemiSupervisedVAE((4, 4), 3, 2, **SMALL),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_continuous_model(name):
    answers = answers_of(MODELS[name](), labels=torch.arange(30) % 3)
    start = answers.start()
    json.dumps(start, allow_nan=False)
    where = {"index": 1, **({"class": 2} if start["classes"] else {})}
    size = len(start["frames"]["coordinates"]["names"])
    assert unpacked(answers("plane", {})["codes"]).shape == (30, 2)
    assert unpacked(answers("decode", {**where, "places": [[0.1] * size]})["x"]).shape == (1, 4, 4)
    found = answers("datum", where)
    json.dumps(found, allow_nan=False)
    assert (found["posterior"] is not None) == start["can"]["grid"]
    assert (found["numbers"] is not None) == start["can"]["draws"]
    for question, can in (("refine", "refine"), ("draws", "draws")):
        if start["can"][can]:
            answers(question, where)
        else:
            with pytest.raises(UsageError):
                answers(question, where)


def test_a_context_and_gaps_of_the_data():
    """The context of the datum is that of its decoder and its prior; what the data lack has no influence."""
    c, mask = torch.eye(5)[torch.arange(30) % 5], X.roll(1, 0) > 0
    vae = VAE((4, 4), 2, context=(5,), prior=ConditionalNormal, **SMALL).eval()
    answers = answers_of(vae, inputs={"c": c})
    found = unpacked(answers("decode", {"index": 2, "places": [[0.5, 1.0]] * 3})["x"])
    with torch.no_grad():
        exact = vae.decode(torch.tensor([0.5, 1.0]), c[2]).mean
        prior = vae.prior_distribution(c[2])
    assert np.abs(found - exact.numpy()).max() < 1e-6
    assert np.allclose(answers("plane", {"index": 2})["prior"]["mean"], prior.mean, atol=1e-6)
    vae = VAE((4, 4), 2, **SMALL)
    of_any = [answers_of(vae, torch.where(mask, X, other), inputs={"mask": mask}) for other in (torch.nan, 1.0)]
    assert of_any[0]("datum", {"index": 4})["numbers"] == of_any[1]("datum", {"index": 4})["numbers"]
    assert (unpacked(of_any[0]("datum", {"index": 4})["mask"]) == mask[4].numpy()).all()


def test_discrete_codes():
    vae = VQVAE((4, 4), codes=(2, 2), codebook_size=5, embedding_dim=3).eval()
    answers = answers_of(vae)
    start, found = answers.start(), answers("codes", {"index": 2})
    assert start["kind"] == "codes" and start["codes"] == {"shape": [2, 2], "size": 5}
    with torch.no_grad():
        k = vae.encode(X[2:3]).sample()
        exact = vae.decode(k).log_prob(X[2:3]).item()
    assert found["k"] == k.flatten().tolist() and found["numbers"]["reconstruction"] == pytest.approx(exact, abs=1e-4)
    again = answers("decode_codes", {"k": [found["k"]]})
    assert again["x"] == found["reconstruction"]["x"]
    assert np.allclose(unpacked(again["x"])[0], reconstruct(vae, X[2:3])[0], atol=1e-6)
    with pytest.raises(UsageError, match="whole numbers from 0 to 4"):
        answers("decode_codes", {"k": [[0, 1, 2, 5]]})
    with pytest.raises(UsageError, match="no such question"):
        answers("datum", {"index": 2})


def test_a_table_has_probabilities_of_its_levels():
    table = Table.of({"a": "real", "b": {"category": ["x", "y", "z"]}, "c": {"binary": ["no", "yes"]}})
    vae = VAE((3,), 2, likelihood=lambda shapes: Mixed(shapes, kinds=table.kinds))
    x = torch.stack([torch.randn(30), torch.arange(30) % 3, torch.arange(30) % 2], 1).float()
    answers = answers_of(vae, x, table=table)
    found = answers("decode", {"places": [[0.5, 0.5]]})
    levels = found["levels"][0]
    assert sorted(levels) == ["1", "2"] and [len(levels[i]) for i in "12"] == [3, 2]
    assert all(abs(sum(shares) - 1) < 1e-5 for shares in levels.values())
    best = unpacked(found["x"])[0]
    assert best[1] == np.argmax(levels["1"]) and best[2] == pytest.approx(levels["2"][1], abs=1e-5)
    assert [c["name"] for c in answers.start()["view"]["columns"]] == ["a", "b", "c"]
    gone = answers("datum", {"x": [None, 1, None]})
    assert gone["numbers"]["log_p"] > answers("datum", {"x": [0.0, 1, 1]})["numbers"]["log_p"]
    with pytest.raises(DataError, match="column 2 is category:3"):
        answers("datum", {"x": [0.0, 7, 1]})


def test_models_that_draw_missing_elements_are_refused_by_name():
    vae = NotAtRandom((4,), lambda event: VAE(event, 2, likelihood=Normal))
    with pytest.raises(UsageError, match="a NotAtRandom that draws the missing elements"):
        Explored(vae, torch.randn(5, 4))
