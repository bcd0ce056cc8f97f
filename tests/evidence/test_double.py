"""A model in double precision stays so: trained, saved, loaded, and in every result, whatever the data's type."""

from dataclasses import fields, is_dataclass
from functools import partial

import pytest
import torch

from pyro_vae import compare_priors, refit_prior
from pyro_vae.autoencoders import VAE, VQVAE, HierarchicalVAE, SemiSupervisedVAE
from pyro_vae.data import Dataset
from pyro_vae.diagnostics import latent_statistics
from pyro_vae.diagnostics.calibration import simulation_based_calibration
from pyro_vae.diagnostics.gaps import Search, inference_gaps
from pyro_vae.diagnostics.predictive import posterior_predictive_check
from pyro_vae.diagnostics.surgery import elbo_surgery
from pyro_vae.errors import UsageError
from pyro_vae.evidence import Annealing, bdmc, bound, log_marginal
from pyro_vae.guides import InverseAutoregressiveFlow, SemiAmortized
from pyro_vae.inference.hamiltonian import HMC
from pyro_vae.inference.posteriors import posterior
from pyro_vae.inference.simulating import simulate
from pyro_vae.networks import MLP
from pyro_vae.objectives import SemiSupervisedELBO, VQBound
from pyro_vae.priors import FlowPrior, MixtureOfNormals, VampPrior
from pyro_vae.process.seeding import seeded
from pyro_vae.runs.loading import load
from pyro_vae.tasks.classification import classify
from pyro_vae.tasks.clustering import cluster
from pyro_vae.tasks.generation import manifold, reconstruct, sample
from pyro_vae.training.fitting import fit

NETS = {name: partial(MLP, hidden=(8,)) for name in ("encoder", "decoder")}
MAKES = {
    "plain": partial(VAE, latent_dim=2, prior=partial(MixtureOfNormals, components=2), **NETS),
    "refined": partial(
        VAE, latent_dim=2, prior=partial(VampPrior, components=4), guide=partial(SemiAmortized, steps=2), **NETS
    ),
    "flows": partial(VAE, latent_dim=2, prior=FlowPrior, guide=InverseAutoregressiveFlow, **NETS),
    "layers": partial(
        HierarchicalVAE, latent_dims=(3, 2), **NETS, upper_encoder=NETS["encoder"], upper_decoder=NETS["decoder"]
    ),
    "codes": partial(VQVAE, codes=(2,), codebook_size=4, **NETS),
    "classes": partial(SemiSupervisedVAE, classes=3, latent_dim=2, **NETS),
}
OBJECTIVES = {"codes": VQBound(), "classes": SemiSupervisedELBO()}
EVERY = pytest.mark.parametrize("name", MAKES)


def data(dtype=torch.float64):
    return torch.arange(240).remainder(7).remainder(2).reshape(40, 6).to(dtype)


def single(value, name="result"):
    """The names of all floating tensors in a result that are not in double precision."""
    if isinstance(value, torch.Tensor):
        return [name] if value.is_floating_point() and value.dtype != torch.float64 else []
    if is_dataclass(value):
        value = {f.name: getattr(value, f.name) for f in fields(value)}
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return [found for key, part in parts for found in single(part, f"{name}.{key}")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A VAE of each kind that was trained for an epoch in double precision on data in single, and its run."""
    found = {}
    for name, make in MAKES.items():
        run = tmp_path_factory.mktemp("double") / name
        with seeded(0, "init"):
            vae = make((6,)).double()
        x = data(torch.float32)
        settings = {"epochs": 1, "batch_size": 20, "run": run, "progress": False}
        fit(vae, Dataset("array", x[:30], x[30:]), OBJECTIVES.get(name), **settings)
        found[name] = vae, run
    return found


@EVERY
@pytest.mark.parametrize("which", ["best", "last"])
def test_weights_come_back_as_they_were(runs, name, which):
    vae, run = runs[name]
    loaded = load(run, which=which)
    assert not single(dict(loaded.named_parameters())) and not single(dict(loaded.named_buffers()))
    assert all(torch.equal(value, vae.state_dict()[key]) for key, value in loaded.state_dict().items())


def test_a_training_goes_on_in_double_precision(runs, tmp_path):
    with seeded(0, "init"):
        whole, halves = (MAKES["plain"]((6,)).double() for _ in range(2))
    halves.load_state_dict(whole.state_dict())
    fit(whole, data(), epochs=2, progress=False)
    settings = {"batch_size": 100, "run": tmp_path / "run", "progress": False}
    fit(halves, data(), epochs=2, **settings)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), halves.parameters(), strict=True))
    assert not single(dict(load(tmp_path / "run").named_parameters()))


def test_single_precision_comes_back_too(tmp_path):
    fit(MAKES["plain"]((6,)), data(torch.float32), epochs=1, run=tmp_path, progress=False)
    assert {p.dtype for p in load(tmp_path).parameters()} == {torch.float32}


def test_half_precision_is_refused_before_training_what_a_run_could_not_load(tmp_path):
    vae = MAKES["plain"]((6,)).to(torch.bfloat16)
    with pytest.raises(UsageError, match=r"float32 or float64, got torch\.bfloat16: .*precision='bf16'"):
        fit(vae, data(torch.bfloat16), epochs=1, run=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def results(name, vae, x):
    """What the public functions give for a VAE of this kind."""
    pair, few = (vae.model, vae.guide), x[:3]
    yield bound(*pair, x), simulate(vae.model, x), sample(vae, 3, **given(name)), reconstruct(vae, x)
    if name == "codes":
        return
    yield log_marginal(*pair, x, num_particles=20), posterior(*pair, x, num_draws=5, num_particles=20)
    yield simulation_based_calibration(*pair, x, num_draws=9), elbo_surgery(*pair, x), latent_statistics(vae, x)
    yield posterior_predictive_check(*pair, x, num_draws=20, num_particles=20, alpha=0.5)
    if name == "classes":
        yield classify(vae, x)
        return
    yield posterior(*pair, few, method="hmc", num_draws=4, hmc=HMC(2, 3))
    if name == "layers":
        yield bdmc(*pair, 3, annealing=Annealing(1, 2, 1))
    if name != "layers":
        known = log_marginal(*pair, few, num_particles=20)
        yield inference_gaps(vae, few, known, num_particles=4, search=Search(max_steps=2)), manifold(vae, 2)
    if name == "plain":
        refitted = refit_prior(vae, x, MixtureOfNormals, epochs=1, progress=False)
        yield cluster(vae, x), refitted.state_dict(), compare_priors(vae, refitted, x)


def given(name):
    return {"y": torch.tensor([0, 1, 2])} if name == "classes" else {}


@EVERY
def test_results_are_in_double_precision(runs, name):
    """Of data in single precision; those in double are taken by the plain VAE's test below."""
    for found in results(name, load(runs[name][1]), data(torch.float32)[:20]):
        assert not single(found)


def test_results_of_data_in_double_precision(runs):
    for found in results("plain", load(runs["plain"][1]), data()[:20]):
        assert not single(found)
