"""The commands on an autoencoder that the user wrote: they ask what it has, never which class of this package it is."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.cli.test_cli import call, done

MINE = '''\
"""An autoencoder of linear maps, and one with classes."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from pyro_vae.autoencoders import Autoencoder
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.priors import Prior, StandardNormal
from pyro_vae.shapes import Shapes


class Linear(Autoencoder):
    """One code z of two dimensions."""

    has_one_code = True

    def __init__(self, event_shape, prior: Callable[[Shapes], Prior] = StandardNormal) -> None:
        super().__init__()
        self.arguments = {"event_shape": tuple(event_shape), "prior": prior}
        self.shapes = Shapes(tuple(event_shape), 2)
        self.likelihood, self.prior = Bernoulli(self.shapes), prior(self.shapes)
        self.encoder, self.decoder = nn.Linear(self.shapes.event_size, 2), nn.Linear(2, self.shapes.event_size)

    def encode(self, x, mask=None, context=None):
        return dist.Normal(self.encoder(x.flatten(-len(self.shapes.event))), 0.5).to_event(1)

    def decode(self, z):
        params = self.decoder(z).reshape(*z.shape[:-1], *self.likelihood.param_shape)
        return self.likelihood(params).to_event(len(self.shapes.event))

    def model(self, x, mask=None):
        self.register()
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", self.decode(pyro.sample("z", self.prior_distribution())), obs=x)

    def guide(self, x, mask=None):
        self.register()
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", self.encode(x))


class Classes(Autoencoder):
    """A class y alone."""

    classes = 10

    def __init__(self, event_shape) -> None:
        super().__init__()
        self.arguments = {"event_shape": tuple(event_shape)}
        self.shapes = Shapes(tuple(event_shape), 1)
        self.likelihood = Bernoulli(self.shapes)
        self.table = nn.Parameter(torch.zeros(10, *self.likelihood.param_shape))
        self.classifier = nn.Linear(self.shapes.event_size, 10)

    def classify(self, x, mask=None):
        return dist.Categorical(logits=self.classifier(x.flatten(-len(self.shapes.event))))

    def model(self, x, mask=None, y=None):
        self.register()
        with pyro.plate("data", len(x), dim=-1):
            y = pyro.sample("y", dist.Categorical(torch.ones(10)), obs=y)
            pyro.sample("x", self.likelihood(self.table[y]).to_event(len(self.shapes.event)), obs=x)

    def guide(self, x, mask=None, y=None):
        self.register()
        with pyro.plate("data", len(x), dim=-1):
            if y is None:
                pyro.sample("y", self.classify(x))
'''


@pytest.fixture(autouse=True)
def _mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    Path("mine.py").write_text(MINE)
    yield
    sys.modules.pop("mine", None)


def test_one_code():
    assert done("fit --vae mine.Linear --binarize dynamic --epochs 2 --quiet --run r")["pictures"]
    assert {"samples", "reconstructions", "curves"} <= {path.stem for path in Path("r/pictures").iterdir()}
    result = done("evaluate r --num_particles 10 --num_data 20 --trust mine --quiet")
    assert result["log_p"] > result["elbo"] and result["active_units"]
    for words in ("sample r --num 4", "reconstruct r --num 4", "info r"):
        assert call(words, "--trust mine").code == 0
    refitted = done("refit r --prior LearnedNormal --epochs 1 --out new --trust mine --quiet")
    assert refitted["prior"] == "LearnedNormal" and done("info new --trust mine")["prior"] == "LearnedNormal()"
    words = "--num_data 8 --num_particles 4 --skip bracket calibration regions hmc predictive likeness --quiet"
    assert done("diagnose r --trust mine", words)["num_data"] == 8
    refused = call("cluster r --trust mine")
    assert refused.code == 2 and "Linear" in refused.error


def test_classes():
    given = "--binarize dynamic --objective ScoreFunction --epochs 2 --quiet"
    assert done("fit --vae mine.Classes", given, "--run r")["pictures"]
    result = done("evaluate r --num_particles 10 --num_data 20 --trust mine --quiet")
    assert 0 <= result["accuracy"]["mean"] <= 1
    with np.load(done("sample r --num 20 --out draws.npz --trust mine")["saved"]) as arrays:
        assert arrays["y"].tolist() == [*range(10), *range(10)]
    assert json.loads(call("info r --trust mine --json").out)["class"] == "Classes"
    refused = call("refit r --prior LearnedNormal --out new --trust mine")
    assert refused.code == 2 and "this is a Classes" in refused.error
