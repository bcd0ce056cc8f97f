"""Variational autoencoders as Pyro programs, with log p(x) and an honest error bar.

What you choose (a new part is one class in one of these):

    priors/           p(z) and, for discrete codes, p(k)
    likelihoods/      p(x|z), elementwise
    guides/           q(z|x): the variational families
    networks/         torch modules from one shape to another: encoders, decoders, the codebook
    objectives/       losses of any Pyro pair, frozen values
    schedules.py      numbers that change while training
    autoencoders/     parts composed into two Pyro programs, `model` and `guide`
    channels/         p(y|x): how what was observed came from x
    trackers/         where the numbers of a training go while it runs

What you do:

    data/             what is trained on: sources, streams, storage, splits, inputs
    training/         `fit`: the loop, a step, its settings; other priors fitted afterwards; `search` among models
    evidence/         log p(x) of any pair, a file a method, each with its error and its health
    diagnostics/      what to believe of a model, a guide and its codes
    tasks/            what a trained model is for: sample, reconstruct, restore, score, cluster, classify, count codes
    plots/            results to matplotlib figures
    report/           all diagnostics on one page
    explore/          a live page in the browser: the true posterior beside the guide
    sharing/          a trained model for other programs and people: ONNX and torch.export, a card, the hub
    sklearn/          estimators of scikit-learn: for its pipelines and searches
    runs/             a run directory: descriptions of parts, state, files, loading
    cli/              the command, a file a subcommand
    testing/          the contract of every axis, for the package's parts and for yours

How it is done (a user of parts need not look here):

    inference/        running any Pyro pair at given data: weights, simulated data, posterior draws, HMC
    compiling/        the same numbers, sooner: recorded graphs, what weights alone decide, torch's backends
    distributed/      several processes on one batch: their sums, their noise, their errors
    distributions/    distributions and numerics that torch and Pyro lack
    statistics/       numbers about draws: averages with errors, Pareto k, R-hat, uniformity
    arguments/        what callers pass, checked at the door and answered in their own words
    process/          a guest in the caller's process: switches, signals and random streams stay as they were
    discovery.py, errors.py, messages.py, shapes.py

The public names are imported when first asked for, so that `pyro-vae --help` need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyro_vae import data, guides, inference, likelihoods, networks, objectives, priors, schedules, testing
    from pyro_vae.autoencoders import VAE, VQVAE, HierarchicalVAE, SemiSupervisedVAE
    from pyro_vae.data import load_data, store_data
    from pyro_vae.diagnostics import latent_statistics
    from pyro_vae.diagnostics.arviz import to_arviz
    from pyro_vae.diagnostics.calibration import simulation_based_calibration
    from pyro_vae.diagnostics.comparison import compare
    from pyro_vae.diagnostics.gaps import inference_gaps
    from pyro_vae.diagnostics.surgery import elbo_surgery
    from pyro_vae.evidence import log_marginal
    from pyro_vae.evidence.annealing import ais, bdmc
    from pyro_vae.evidence.methods import estimate
    from pyro_vae.process.seeding import seeded
    from pyro_vae.runs.loading import load
    from pyro_vae.tasks.classification import accuracy, classify
    from pyro_vae.tasks.clustering import cluster, clustering_scores, with_clusters
    from pyro_vae.tasks.codebook import codebook_usage
    from pyro_vae.tasks.generation import reconstruct, sample
    from pyro_vae.tasks.imputing import impute
    from pyro_vae.tasks.pooling import pool
    from pyro_vae.tasks.scores import score
    from pyro_vae.training.code_prior import fit_code_prior
    from pyro_vae.training.fitting import fit
    from pyro_vae.training.refit import compare_priors, refit_prior
    from pyro_vae.training.refit_guide import compare_guides, refit_guide
    from pyro_vae.training.searching import search

_HOMES = {
    "VAE": "autoencoders",
    "HierarchicalVAE": "autoencoders",
    "SemiSupervisedVAE": "autoencoders",
    "VQVAE": "autoencoders",
    "fit": "training",
    "compare_guides": "training",
    "compare_priors": "training",
    "refit_guide": "training",
    "refit_prior": "training",
    "fit_code_prior": "training",
    "search": "training",
    "log_marginal": "evidence",
    "ais": "evidence",
    "bdmc": "evidence",
    "estimate": "evidence",
    "load": "runs.loading",
    "load_data": "data",
    "store_data": "data",
    "compare": "diagnostics",
    "elbo_surgery": "diagnostics",
    "inference_gaps": "diagnostics",
    "latent_statistics": "diagnostics",
    "simulation_based_calibration": "diagnostics.calibration",
    "to_arviz": "diagnostics.arviz",
    "accuracy": "tasks",
    "classify": "tasks",
    "cluster": "tasks",
    "clustering_scores": "tasks",
    "codebook_usage": "tasks",
    "impute": "tasks",
    "pool": "tasks",
    "reconstruct": "tasks",
    "sample": "tasks",
    "score": "tasks",
    "with_clusters": "tasks",
    "seeded": "process.seeding",
}
_MODULES = ("data", "guides", "inference", "likelihoods", "networks", "objectives", "priors", "schedules", "testing")

__all__ = [
    "HierarchicalVAE",
    "SemiSupervisedVAE",
    "VAE",
    "VQVAE",
    "accuracy",
    "ais",
    "bdmc",
    "classify",
    "cluster",
    "clustering_scores",
    "codebook_usage",
    "compare",
    "data",
    "elbo_surgery",
    "estimate",
    "fit",
    "fit_code_prior",
    "guides",
    "impute",
    "inference",
    "inference_gaps",
    "latent_statistics",
    "likelihoods",
    "load",
    "load_data",
    "log_marginal",
    "networks",
    "objectives",
    "pool",
    "priors",
    "reconstruct",
    "compare_guides",
    "compare_priors",
    "refit_guide",
    "refit_prior",
    "sample",
    "schedules",
    "score",
    "search",
    "seeded",
    "simulation_based_calibration",
    "store_data",
    "testing",
    "to_arviz",
    "with_clusters",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(f"pyro_vae.{_HOMES[name]}"), name)
    elif name in _MODULES:
        value = import_module(f"pyro_vae.{name}")
    else:
        raise AttributeError(f"module 'pyro_vae' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
