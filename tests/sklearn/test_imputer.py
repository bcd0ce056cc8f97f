"""VAEImputer: scikit-learn's checks, and gaps filled by the conditional mean, which an affine decoder has exactly."""

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from pyro_vae import impute
from pyro_vae.errors import DataError
from pyro_vae.networks import MLP
from pyro_vae.objectives import IWAE
from pyro_vae.sklearn import VAEImputer
from tests.sklearn.test_transformer import SMALL, TINY


@parametrize_with_checks([VAEImputer(**SMALL)])
def test_scikit_learn_s_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def x():
    """Two factors behind four columns, and a quarter of the elements missing."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(80, 2)) @ draw.normal(size=(2, 4)) * [1, 10, 1, 1] + draw.normal(size=(80, 4)) / 3 + 5
    return np.where(draw.random(x.shape) < 0.25, np.nan, x)


def conditional_means(vae, x):
    """E[x_missing | x_observed] of the normal law that a VAE with an affine decoder has, in the units of the data."""
    affine, std = vae.decoder.output, vae.data_std.double()
    weight, scale = affine.weight.detach().double(), vae.likelihood.scale_of(()).detach().double()
    mean = vae.data_mean.double() + std * affine.bias.detach().double()
    covariance = std[:, None] * (weight @ weight.T + scale.square().diag()) * std
    filled = torch.tensor(x)
    for row in filled:
        gap = row.isnan()
        inner = torch.linalg.solve(covariance[~gap][:, ~gap], row[~gap] - mean[~gap])
        row[gap] = mean[gap] + covariance[gap][:, ~gap] @ inner
    return filled


def test_gaps_have_the_exact_conditional_mean(x):
    """About 80 gaps, each within 5.5 standard errors of a weighed average: false alarm below 1e-5."""
    model = VAEImputer(2, encoder=TINY, decoder=partial(MLP, hidden=()), epochs=3, num_particles=500, random_state=0)
    filled, found = model.fit(x).transform(x), model.impute(x, num_draws=1)
    gaps = np.isnan(x)
    np.testing.assert_array_equal(filled[~gaps], x[~gaps])
    fine = torch.tensor(gaps) & ~found.flagged[:, None]
    assert fine.sum() > 50
    error = (found.sd / found.ess.sqrt()[:, None])[fine] + 1e-3
    assert ((torch.tensor(filled) - conditional_means(model.vae_, x))[fine].abs() < 5.5 * error).all()


def test_gaps_are_left_out_of_the_training(x):
    model = VAEImputer(2, **SMALL, validation_fraction=0, objective=IWAE(num_particles=2), random_state=0).fit(x)
    np.testing.assert_allclose(model.vae_.data_mean, np.nanmean(x, 0), rtol=1e-5)
    expected = impute(model.vae_, torch.tensor(x, dtype=torch.float32), num_draws=3, num_particles=10, seed=model.seed_)
    assert torch.equal(model.impute(x, num_draws=3).draws, expected.draws)


def test_complete_rows_are_left_as_they_are(x):
    complete = np.nan_to_num(x)
    filled = VAEImputer(2, **SMALL, random_state=0).fit(x).transform(complete)
    assert filled is not complete and np.array_equal(filled, complete)


def test_in_a_pipeline_and_after_a_save(x, tmp_path):
    y = np.nanmean(x, 1)
    pipeline = make_pipeline(VAEImputer(2, **SMALL, random_state=0), LinearRegression()).fit(x, y)
    assert np.isfinite(pipeline.predict(x)).all()
    pipeline[0].save(tmp_path / "run")
    np.testing.assert_array_equal(VAEImputer.load(tmp_path / "run").transform(x), pipeline[0].transform(x))
    assert list(pipeline[0].get_feature_names_out()) == ["x0", "x1", "x2", "x3"]


def test_a_column_that_was_never_observed_is_refused(x):
    with pytest.raises(DataError, match="observed"):
        VAEImputer(2, **SMALL).fit(np.where([True, False, False, False], np.nan, x))
