"""VAETransformer: scikit-learn's checks, what it returns against the VAE itself, searches, saving without pickle."""

import json
import sys
from functools import partial
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, ShuffleSplit
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch.distributions import MultivariateNormal

from pyro_vae import load, log_marginal
from pyro_vae.cli import main
from pyro_vae.errors import CheckpointError, DataError, MissingPackage, UsageError
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.networks import MLP
from pyro_vae.schedules import Cosine
from pyro_vae.sklearn import VAETransformer

TINY = partial(MLP, hidden=(4,))
SMALL = {"encoder": TINY, "decoder": TINY, "epochs": 1, "num_particles": 10}
BY_ROW = "the draws of log p(x) are numbered by the row: score_samples agrees within its Monte Carlo error alone"
FAILING = {"check_methods_subset_invariance": BY_ROW, "check_methods_sample_order_invariance": BY_ROW}


@parametrize_with_checks([VAETransformer(**SMALL)], expected_failed_checks=lambda _: FAILING)
def test_scikit_learn_s_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def x():
    """Three factors behind six columns, with units of their own."""
    draw = np.random.default_rng(0)
    return (
        draw.normal(size=(200, 3)) @ draw.normal(size=(3, 6)) * [1, 10, 1, 1, 1, 0.1] + draw.normal(size=(200, 6)) / 9
    )


@pytest.fixture(scope="module")
def fitted(x):
    return VAETransformer(3, **{**SMALL, "epochs": 3}, random_state=0).fit(x)


def exact(vae, x):
    """Log p(x) of a VAE with an affine decoder: normal, with the covariance W W' + S in standardised units."""
    affine, std = vae.decoder.output, vae.data_std.double()
    weight, bias = affine.weight.detach().double(), affine.bias.detach().double()
    scale = vae.likelihood.scale_of(()).detach().double()
    law = MultivariateNormal(bias, weight @ weight.T + scale.square().diag())
    return law.log_prob((torch.tensor(x) - vae.data_mean.double()) / std) - std.log().sum()


def test_log_p_of_an_affine_decoder_is_exact_in_the_units_of_the_data(x):
    """50 estimates with K = 1000, each within 5 of its standard errors and rounding: false alarm below 1e-4."""
    model = VAETransformer(2, encoder=TINY, decoder=partial(MLP, hidden=()), epochs=2, num_particles=1000)
    found = model.set_params(random_state=1).fit(x).score_samples(x := x[:50])
    evidence = log_marginal(model.vae_.model, model.vae_.guide, model._tensor(x), num_particles=1000, seed=model.seed_)
    assert np.array_equal(found, evidence.log_p.numpy()) and found.dtype == np.float64
    error = evidence.standard_error[~evidence.flagged]
    assert len(error) > 35
    assert ((evidence.log_p - exact(model.vae_, x))[~evidence.flagged].abs() < 5 * error + 1e-3).all()
    assert model.score(x) == pytest.approx(found.mean())


def test_codes_and_data_are_those_of_the_vae(fitted, x):
    with torch.no_grad():
        codes = fitted.vae_.encode(torch.tensor(x, dtype=torch.float32)).mean
        back = fitted.vae_.decode(codes).mean
    np.testing.assert_array_equal(fitted.transform(x), codes.double().numpy())
    np.testing.assert_array_equal(fitted.inverse_transform(codes.numpy()), back.numpy())
    assert fitted.transform(x.astype("float32")).dtype == np.float32
    assert list(fitted.get_feature_names_out()) == [f"vaetransformer{i}" for i in range(3)]


def test_rows_do_not_depend_on_their_company(fitted, x):
    """Codes to rounding. Log p(x) within 6 standard errors of the difference: false alarm below 1e-6 for 60 rows."""
    x, order = x[:60], np.random.default_rng(1).permutation(60)
    np.testing.assert_allclose(fitted.transform(x)[order], fitted.transform(x[order]), atol=1e-5)
    pair = fitted.vae_.model, fitted.vae_.guide
    one, other = (log_marginal(*pair, fitted._tensor(rows), num_particles=500) for rows in (x[order], x))
    fine = ~(one.flagged | other.flagged[order])
    error = (one.standard_error.square() + other.standard_error[order].square()).sqrt()
    assert fine.float().mean() > 0.7 and ((one.log_p - other.log_p[order]).abs() < 6 * error)[fine].all()


def test_random_state_decides_everything(x):
    def codes(state):
        return VAETransformer(2, **SMALL, random_state=state).fit_transform(x)

    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert np.array_equal(codes(3), codes(3)) and not np.array_equal(codes(3), codes(4))
    assert np.array_equal(codes(np.random.RandomState(3)), codes(3))
    assert torch.equal(torch.get_rng_state(), before[0]) and np.array_equal(np.random.get_state()[1], before[1])
    free = VAETransformer(2, **SMALL).fit(x)
    assert np.array_equal(free.score_samples(x), free.score_samples(x)) and not np.array_equal(
        free.transform(x), codes(3)
    )


def test_grid_search_chooses_a_latent_size_by_log_p(x):
    """Two of three factors leave a column's variance unexplained, whatever the seed: more than a nat per datum."""
    settings = {"encoder": partial(MLP, hidden=()), "decoder": partial(MLP, hidden=()), "random_state": 0}
    settings |= {"validation_fraction": 0, "epochs": 30, "batch_size": 25, "learning_rate": 0.03}
    model = VAETransformer(num_particles=50, **settings)
    steps = Pipeline([("scale", StandardScaler()), ("vae", model)])
    search = GridSearchCV(steps, {"vae__latent_dim": [1, 3]}, cv=ShuffleSplit(1, random_state=0)).fit(x[:100])
    means = search.cv_results_["mean_test_score"]
    assert search.best_params_ == {"vae__latent_dim": 3} and means[1] > means[0] + 1
    assert search.best_score_ == means[1] and search.score(x) == pytest.approx(search.score_samples(x).mean())
    assert search.transform(x).shape == (200, 3)


def test_validation_rows_choose_the_epoch(x):
    model = VAETransformer(2, **{**SMALL, "epochs": 3}, validation_fraction=0.25, random_state=0)
    assert "valid_loss" in model.fit(x).history_.rows[0]
    train, valid = model._divided(len(x))
    assert len(valid) == 50 and sorted([*train, *valid]) == list(range(200))
    assert "valid_loss" not in model.set_params(validation_fraction=0).fit(x).history_.rows[0]


def test_likelihoods_of_other_data(x):
    """Binary columns are not standardised, and images go through networks for images."""
    binary = (x > x.mean(0)).astype(float)
    model = VAETransformer(2, likelihood=Bernoulli, **SMALL, event_shape=(2, 3), random_state=0).fit(binary)
    assert model.vae_.data_mean is None and model.vae_.shapes.event == (2, 3)
    back = model.inverse_transform(model.transform(binary))
    assert back.shape == (200, 6) and back.min() > 0 and back.max() < 1
    with pytest.raises(DataError, match=r"X: .* outside the support of Bernoulli"):
        model.score_samples(x)
    with pytest.raises(DataError, match="outside the support of Bernoulli"):
        model.fit(x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"settings": {"seed": 3}}, "settings: 'seed' is a parameter of the estimator"),
        ({"settings": {"epoch": 3}}, "fit has no argument 'epoch'"),
        ({"learning_rate": 0.0}, "learning_rate: expected a number above 0, got 0.0"),
        ({"validation_fraction": 1.0}, "validation_fraction: expected a share from 0 to below 1"),
        ({"event_shape": (2, 2)}, r"event_shape: expected one of 6 elements, as X has columns, got \[2, 2\]"),
        ({"latent_dim": 0}, "latent_dim"),
        ({"encoder": "MLP"}, "encoder: expected"),
        ({"num_particles": 0}, "num_particles"),
    ],
)
def test_wrong_parameters_are_refused(x, options, message):
    with pytest.raises(UsageError, match=message):
        VAETransformer(**{**SMALL, **options}).fit(x)


def test_codes_of_another_length_are_refused(fitted):
    with pytest.raises(DataError, match=r"expected codes of 3 numbers, got shape \[4, 2\]"):
        fitted.inverse_transform(np.zeros((4, 2)))


class TestSave:
    def test_load_gives_the_same_estimator(self, fitted, x, tmp_path):
        table = pd.DataFrame(x, columns=list("abcdef"))
        options = {"encoder": TINY, "settings": {"lr_schedule": Cosine()}, "event_shape": [2, 3], "epochs": 2}
        model = VAETransformer(2, **{**SMALL, **options}, random_state=np.random.RandomState(0)).fit(table)
        model.save(tmp_path / "run")
        model.save(tmp_path / "run")  # the same again
        again = VAETransformer.load(tmp_path / "run")
        np.testing.assert_array_equal(again.score_samples(table), model.score_samples(table))
        assert list(again.feature_names_in_) == list("abcdef") and again.seed_ == again.random_state == model.seed_
        assert again.get_params()["settings"] == {"lr_schedule": Cosine()} and again.event_shape == (2, 3)
        assert again.encoder.keywords == {"hidden": (4,)} and clone(again).get_params()["epochs"] == 2

    def test_it_is_a_run(self, fitted, x, tmp_path, capsys):
        fitted.save(tmp_path / "run")
        for a, b in zip(load(tmp_path / "run").parameters(), fitted.vae_.parameters(), strict=True):
            assert torch.equal(a, b)
        np.save(tmp_path / "x.npy", x.astype("float32"))
        words = ["evaluate", tmp_path / "run", "--data", tmp_path / "x.npy", "--split", "train", "--num_particles", 50]
        assert main([*map(str, words), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["num_data"] == 200

    def test_refusals(self, fitted, x, tmp_path):
        with pytest.raises(CheckpointError, match=r"no estimator in .*: it has no estimator.json"):
            VAETransformer.load(tmp_path)
        fitted.save(tmp_path / "run")
        with pytest.raises(CheckpointError, match="holds a run with other settings"):
            VAETransformer(2, **SMALL, random_state=1).fit(x).save(tmp_path / "run")
        with pytest.raises(CheckpointError, match="is of a VAETransformer, not of a Other"):
            type("Other", (VAETransformer,), {}).load(tmp_path / "run")
        path = tmp_path / "run" / "estimator.json"
        saved = json.loads(path.read_text())
        for damage, message in (
            ({"fitted": {"score": 1}}, "fitted.score is not an attribute"),
            ({"fitted": 3}, "fitted: expected a mapping"),
            ({"estimator": {"class_path": "os.system"}}, "refused to import 'os.system'"),
            ({"estimator": {"class_path": "pyro_vae.load"}}, "is not a class"),
            ({"estimator": {**saved["estimator"], "init_args": {"latents": 3}}}, "damaged: .*'latents'"),
        ):
            path.write_text(json.dumps({**saved, **damage}))
            with pytest.raises(CheckpointError, match=message):
                VAETransformer.load(tmp_path / "run")
        with pytest.raises(UsageError, match="can't save"):
            VAETransformer(2, **{**SMALL, "encoder": lambda a, b: TINY(a, b)}).fit(x).save(tmp_path / "other")
        with pytest.raises(NotFittedError):
            VAETransformer().save(tmp_path / "other")


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.delitem(sys.modules, "pyro_vae.sklearn")
    with pytest.raises(
        MissingPackage, match=r"pyro_vae.sklearn needs scikit-learn, .* pip install 'pyro-vae\[sklearn\]'"
    ):
        import_module("pyro_vae.sklearn")
