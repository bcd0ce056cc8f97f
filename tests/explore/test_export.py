"""The page without a server: its script, run by node, gives the numbers of torch."""

import json
import re
import shutil
import subprocess
from functools import partial

import numpy as np
import pytest
import torch

from pyro_vae.autoencoders import VAE, HierarchicalVAE
from pyro_vae.errors import UsageError
from pyro_vae.explore.answers import Answers
from pyro_vae.explore.export import exported
from pyro_vae.explore.page import part
from pyro_vae.explore.subject import Explored
from pyro_vae.guides import FullNormal, SplineFlow
from pyro_vae.likelihoods import Normal, StudentT
from pyro_vae.networks import MLP, ConvNet, GatedMLP
from pyro_vae.priors import Laplace
from tests.support.packed import unpacked

X = (torch.rand(20, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.5).float()
node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not on this machine")


def answers_of(**parts):
    small = partial(MLP, hidden=(8,))
    vae = VAE((4, 4), **{"latent_dim": 2, "encoder": small, "decoder": small, **parts})
    with torch.no_grad():
        for weight in vae.parameters():  # away from their starts, where many are 0
            weight.add_(0.3 * torch.randn_like(weight))
    return Answers(Explored(vae, X, facts={"run": "r"}))


def by_node(answers, *questions):
    """What the exported page's script answers to (name, fields)."""
    text = exported(answers)
    start = re.search(r'id="start"[^>]*>(.*?)</script>', text, re.DOTALL)[1]
    asked = json.dumps([list(question) for question in questions])
    plain = "(_, v) => ArrayBuffer.isView(v) ? [...v] : v"
    script = f"""
      const text = {json.dumps(start)};
      globalThis.document = {{ getElementById: () => ({{ textContent: text }}) }};
      {part("ask.js")}{part("offline.js")}
      Promise.all({asked}.map(([name, fields]) => ask(name, fields))).then((all) => {{
        process.stdout.write(JSON.stringify(all, {plain}));
      }});"""
    done = subprocess.run(["node", "-"], input=script, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


def values(array):
    return np.array(array["data"]).reshape(array["shape"])


WHERE = {"frame": "coordinates", "axes": [0, 1]}
CASES = {
    "the default": {},
    "gates and a full covariance": {
        "encoder": partial(GatedMLP, hidden=(8, 6)),
        "decoder": partial(GatedMLP, hidden=(8,)),
        "guide": FullNormal,
    },
    "tanh and a layer norm": {"decoder": partial(MLP, hidden=(8, 8), activation="tanh", norm="layer")},
    "a batch norm": {"decoder": partial(MLP, hidden=(8,), activation="relu", norm="batch")},
    "scales per element": {"likelihood": partial(Normal, scale="per_element")},
    "learned scales, bounded": {"likelihood": partial(Normal, scale="learned_each", bounded=True)},
    "three dimensions": {"latent_dim": 3, "guide": FullNormal, "decoder": partial(MLP, hidden=(8,), activation="elu")},
}


@node
@pytest.mark.parametrize("name", CASES)
def test_numbers_are_those_of_torch(name):
    answers = answers_of(**CASES[name])
    size = max(2, answers.explored.vae.shapes.latent)
    places = [[0.4, -1.1, 0.2][:size], [2.0, 0.3, -0.7][:size]]
    questions = [("decode", {"places": places, "frame": "coordinates"}), ("datum", {"index": 3, **WHERE})]
    questions += [("plane", WHERE), ("draws", {"index": 3, **WHERE})]
    decoded, datum, plane, draws = by_node(answers, *questions)
    assert np.abs(values(decoded["x"]) - unpacked(answers("decode", questions[0][1])["x"])).max() < 1e-5
    exact = answers("datum", questions[1][1])
    assert np.allclose(datum["place"], exact["place"], atol=1e-5)
    assert np.allclose(datum["guide"]["covariance"], exact["guide"]["covariance"], rtol=1e-4, atol=1e-5)
    found = unpacked(exact["reconstruction"]["x"])
    assert np.abs(values(datum["reconstruction"]["x"]) - found).max() < 1e-5
    ours, theirs = exact["numbers"], datum["numbers"]
    for value, error in (("elbo", "elbo_error"), ("importance", "importance_error"), ("gap", "gap_error")):
        assert abs(ours[value] - theirs[value]) < 5 * np.hypot(ours[error], theirs[error]) + 1e-5
    if size == 2:
        assert abs(ours["log_p"] - theirs["log_p"]) < 1e-4 and datum["posterior"]["found"]
        assert np.allclose(datum["posterior"]["low"], exact["posterior"]["low"], atol=1.0)
    assert np.abs(values(plane["codes"]) - unpacked(answers("plane", WHERE)["codes"])).max() < 1e-5
    assert abs(sum(draws["shares"]["data"]) - 1) < 1e-5 and draws["draws"]["shape"] == [1000, 2]


@node
def test_principal_axes():
    answers = answers_of(latent_dim=4)
    fields = {"frame": "principal", "places": [[0.5, -0.2, 0.1, 0.3]]}
    where = {"frame": "principal", "axes": [1, 2]}
    decoded, datum, plane = by_node(answers, ("decode", fields), ("datum", {"index": 0, **where}), ("plane", where))
    assert np.abs(values(decoded["x"]) - unpacked(answers("decode", fields)["x"])).max() < 1e-5
    exact = answers("datum", {"index": 0, **where})
    assert np.allclose(datum["guide"]["mean"], exact["guide"]["mean"], atol=1e-5)
    assert np.allclose(datum["guide"]["covariance"], exact["guide"]["covariance"], atol=1e-5)
    assert np.allclose(plane["prior"]["mean"], answers("plane", where)["prior"]["mean"], atol=1e-6)


def test_nothing_is_loaded_from_elsewhere():
    text = exported(answers_of())
    assert "default-src 'none'" in re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert set(re.findall(r'(?:src|href|action)="([^"]*)"', text)) == {"data:,"}
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({"guide": SplineFlow}, "a guide of DiagonalNormal, FullNormal, got SplineFlow"),
        ({"prior": Laplace}, "a prior of StandardNormal, got Laplace"),
        ({"likelihood": StudentT}, "a likelihood of Bernoulli, Normal, got StudentT"),
        ({"decoder": partial(ConvNet, channels=(4,))}, "a decoder of MLP, GatedMLP, got ConvNet"),
        ({"decoder": partial(MLP, activation="gelu")}, "the layer GELU"),
        ({"likelihood": Normal, "standardize": True}, "without context and standardisation"),
        ({"gaps": "mask"}, "a model of complete data"),
    ],
)
def test_what_can_not_be_exported_is_refused_by_its_name(parts, named):
    with pytest.raises(UsageError, match=named):
        exported(answers_of(**parts))


def test_models_without_one_code_are_refused_by_their_name():
    answers = Answers(Explored(HierarchicalVAE((4, 4), (3, 2)), X))
    with pytest.raises(UsageError, match="got a HierarchicalVAE"):
        exported(answers)
