"""`pyro_vae.to_arviz`: groups, dimensions and values; and files of either generation of ArviZ."""

import importlib
import importlib.util
import warnings

import numpy as np
import pytest
import torch

from pyro_vae import to_arviz
from pyro_vae.autoencoders import VAE, HierarchicalVAE
from pyro_vae.inference.hamiltonian import HMC
from pyro_vae.inference.posteriors import posterior
from pyro_vae.inference.weighing import weigh
from pyro_vae.statistics.pareto import smooth_tail
from tests.evidence.test_importance_sampling import psis_of_arviz, two_layer_guide, two_layer_model
from tests.support.guides import off_by

GROUPS = ["posterior", "sample_stats", "posterior_predictive", "log_likelihood", "prior", "observed_data"]
SIZES = {"num_draws": 30, "num_particles": 400}


def groups(data):
    """The groups by name, of an InferenceData and of a DataTree."""
    return list(data.groups()) if callable(data.groups) else list(data.children)


def sizes(group, name):
    return dict(zip(group[name].dims, group[name].shape, strict=True))


@pytest.fixture(scope="module")
def x():
    return off_by()[1].sample(60, seed=1)


@pytest.fixture(scope="module")
def data(x):
    vae, _ = off_by(shift=0.5)
    return to_arviz(vae.model, vae.guide, x, **SIZES)


def test_groups_and_sizes(data):
    assert sorted(groups(data)) == sorted(GROUPS)
    draws = {"chain": 1, "draw": 30, "datum": 60}
    assert sizes(data["posterior"], "z") == sizes(data["prior"], "z") == {**draws, "z_dim_0": 2}
    assert sizes(data["posterior_predictive"], "x") == {**draws, "x_dim_0": 4}
    assert sizes(data["log_likelihood"], "x") == sizes(data["sample_stats"], "log_weight") == draws
    assert sizes(data["observed_data"], "x") == {"datum": 60, "x_dim_0": 4}
    assert sizes(data["sample_stats"], "log_p") == sizes(data["sample_stats"], "log_q") == draws
    for name in ("pareto_k", "ess", "flagged"):
        assert sizes(data["sample_stats"], name) == {"datum": 60}
    assert data["posterior"]["datum"].values.tolist() == list(range(60))
    attributes = data["posterior"].attrs
    assert attributes["inference_library"] == "pyro_vae" and attributes["num_particles"] == 400
    assert attributes["method"] == "psis" and attributes["seed"] == 0


def test_values(data, x):
    vae, process = off_by(shift=0.5)
    drawn = posterior(vae.model, vae.guide, x, **SIZES)
    np.testing.assert_array_equal(data["posterior"]["z"].values[0], drawn.draws["z"])
    np.testing.assert_array_equal(data["observed_data"]["x"].values, x)
    likelihood, prior = (value.detach() for value in weigh(vae.model, drawn.draws, x))
    np.testing.assert_allclose(data["log_likelihood"]["x"].values[0], likelihood)
    np.testing.assert_allclose(data["sample_stats"]["log_p"].values[0], likelihood + prior)
    with torch.no_grad():
        log_q = vae.encode(x).log_prob(drawn.draws["z"])
    np.testing.assert_allclose(data["sample_stats"]["log_q"].values[0], log_q, atol=1e-8)
    np.testing.assert_allclose(data["sample_stats"]["log_weight"].values[0], drawn.weights.log_weights)
    np.testing.assert_array_equal(data["sample_stats"]["pareto_k"].values, drawn.pareto_k)
    prior = data["prior"]["z"].values.reshape(-1, 2)
    assert (abs(prior.mean(0)) < 5 / len(prior) ** 0.5).all() and (abs(prior.std(0) - 1) < 5 / len(prior) ** 0.5).all()
    mean = drawn.draws["z"] @ process.weight.T + process.bias
    noise = data["posterior_predictive"]["x"].values[0] - mean.numpy()
    assert noise.std() == pytest.approx(process.scale, rel=5 * (2 * noise.size) ** -0.5)


def test_in_any_company(data, x):
    vae, _ = off_by(shift=0.5)
    part = to_arviz(vae.model, vae.guide, x[:3], num_draws=27, num_particles=400, method="guide")
    whole = to_arviz(vae.model, vae.guide, x, num_draws=30, num_particles=400, method="guide")
    for group, name in (("posterior", "z"), ("prior", "z"), ("posterior_predictive", "x"), ("log_likelihood", "x")):
        np.testing.assert_allclose(whole[group][name].values[:, :27, :3], part[group][name].values)


def test_several_sites_a_context_and_an_inner_plate():
    vae, x = HierarchicalVAE((2, 3), latent_dims=(3, 2)), torch.ones(4, 2, 3)
    found = to_arviz(vae.model, vae.guide, x, **SIZES)
    assert sizes(found["posterior"], "z2")["z2_dim_0"] == 2 and found["observed_data"]["x"].shape == (4, 2, 3)
    vae, c = VAE((4,), latent_dim=2, context=(3,)), torch.eye(3)
    found = to_arviz(vae.model, vae.guide, torch.ones(3, 4), c=c, **SIZES)
    np.testing.assert_array_equal(found["constant_data"]["c"].values, c)
    y = torch.randn(4, 3)
    found = to_arviz(two_layer_model, two_layer_guide, y, max_plate_nesting=2, **SIZES)
    np.testing.assert_array_equal(found["observed_data"]["x"].values, y)
    assert sizes(found["posterior_predictive"], "x")["x_dim_0"] == 3
    assert sizes(found["posterior"], "top") == {"chain": 1, "draw": 30, "datum": 4, "top_dim_0": 2}


def test_chains(x):
    vae, _ = off_by(shift=0.5)
    found = to_arviz(vae.model, vae.guide, x[:2], num_draws=12, method="hmc", hmc=HMC(num_warmup=3, num_leapfrog=2))
    assert sizes(found["posterior"], "z") == {"chain": 4, "draw": 3, "datum": 2, "z_dim_0": 2}
    stats = found["sample_stats"]
    assert stats["r_hat"].dims == ("datum",) and stats["log_p"].dims == ("chain", "draw", "datum")
    assert "log_weight" not in stats and "log_q" not in stats
    assert found["posterior_predictive"]["x"].shape == (4, 3, 2, 4)


@pytest.mark.skipif(
    not any(importlib.util.find_spec(name) for name in ("h5netcdf", "netCDF4")),
    reason="no netCDF library (h5netcdf or netCDF4) is installed: pip install h5netcdf h5py",
)
def test_a_file(data, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ArviZ 0.23 announces its own refactoring
        import arviz

        data.to_netcdf(str(tmp_path / "run.nc"))
        read = arviz.from_netcdf(str(tmp_path / "run.nc"))
    assert sorted(groups(read)) == sorted(GROUPS)
    for group in GROUPS:
        for name in data[group].data_vars:
            np.testing.assert_array_equal(read[group][name].values, data[group][name].values)
            assert read[group][name].dims == data[group][name].dims


def test_arviz_takes_it(data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz

        table = arviz.summary(data, var_names=["z"], kind="stats")
    assert len(table) == 120 and table["mean"].astype(float).iloc[0] == pytest.approx(
        data["posterior"]["z"].values[0, :, 0, 0].mean(), abs=0.02
    )


def left_out(data):
    """Log-density of each datum left out, and Pareto k: by ArviZ's function, which 0.x has only the parts of."""
    stats, likelihood = data["sample_stats"], data["log_likelihood"]["x"]
    if importlib.util.find_spec("arviz_stats") is not None:
        arviz_stats = importlib.import_module("arviz_stats")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the high k
            found = arviz_stats.loo_approximate_posterior(data, stats["log_p"], stats["log_q"], pointwise=True)
        return found.elpd_i.values, found.pareto_k.values
    ratios = (stats["log_p"] - stats["log_q"] - likelihood).stack(s=("chain", "draw"))
    weights, k = psis_of_arviz(ratios.transpose("datum", "s").values)
    flat = likelihood.stack(s=("chain", "draw")).transpose("datum", "s").values
    return np.logaddexp.reduce(weights + flat, axis=1), k


@pytest.fixture(scope="module")
def of_guide(x):
    vae, _ = off_by(shift=0.5)
    return to_arviz(vae.model, vae.guide, x[:8], num_draws=400, num_particles=400, method="guide")


def test_psis_of_its_draws_is_ours(of_guide):
    """All K draws of the guide are in it, so ArviZ's k is that of the posterior."""
    stats = of_guide["sample_stats"]
    k = psis_of_arviz((stats["log_p"] - stats["log_q"]).values[0].T)[1]
    np.testing.assert_allclose(k, stats["pareto_k"].values, atol=1e-6)


def test_a_datum_that_is_left_out(of_guide):
    """The weights are p(z) / q(z|x), smoothed; their mean of p(x|z) by hand, with our smoothing in place of ArviZ's."""
    elpd, k = left_out(of_guide)
    stats, likelihood = of_guide["sample_stats"], of_guide["log_likelihood"]["x"].values[0].T
    log_w = stats["log_weight"].values[0].T - likelihood
    smoothed, ours = smooth_tail(np.ascontiguousarray(log_w), 400)
    log_sum = np.logaddexp.reduce
    np.testing.assert_allclose(k, ours, atol=1e-6)
    np.testing.assert_allclose(elpd, log_sum(smoothed + likelihood, 1) - log_sum(smoothed, 1), atol=1e-6)
