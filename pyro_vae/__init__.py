"""Variational autoencoders as Pyro programs, with log p(x) and an honest error bar.

The public names, imported when first asked for, so that `pyro-vae --help` need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyro_vae import data, guides, importance, likelihoods, networks, objectives, priors, schedules, testing
    from pyro_vae.arviz_export import to_arviz
    from pyro_vae.checkpoint import load
    from pyro_vae.clustering import cluster, clustering_scores, with_clusters
    from pyro_vae.codes import codebook_usage, fit_code_prior
    from pyro_vae.data import load_data
    from pyro_vae.diagnostics import latent_statistics
    from pyro_vae.diagnostics.calibration import simulation_based_calibration
    from pyro_vae.diagnostics.comparison import compare
    from pyro_vae.diagnostics.gaps import inference_gaps
    from pyro_vae.diagnostics.surgery import elbo_surgery
    from pyro_vae.evidence import log_marginal
    from pyro_vae.evidence.annealing import ais, bdmc
    from pyro_vae.evidence.methods import estimate
    from pyro_vae.hierarchical import HierarchicalVAE
    from pyro_vae.refit import compare_priors, refit_prior
    from pyro_vae.seeding import seeded
    from pyro_vae.semi_supervised import SemiSupervisedVAE, accuracy, classify
    from pyro_vae.tasks import reconstruct, sample
    from pyro_vae.training import fit
    from pyro_vae.vae import VAE
    from pyro_vae.vq import VQVAE

_HOMES = {
    "VAE": "vae",
    "HierarchicalVAE": "hierarchical",
    "VQVAE": "vq",
    "fit": "training",
    "log_marginal": "evidence",
    "ais": "evidence",
    "bdmc": "evidence",
    "estimate": "evidence",
    "load": "checkpoint",
    "load_data": "data",
    "latent_statistics": "diagnostics",
    "inference_gaps": "diagnostics",
    "elbo_surgery": "diagnostics",
    "sample": "tasks",
    "reconstruct": "tasks",
    "compare_priors": "refit",
    "refit_prior": "refit",
    "codebook_usage": "codes",
    "fit_code_prior": "codes",
    "seeded": "seeding",
    "SemiSupervisedVAE": "semi_supervised",
    "classify": "semi_supervised",
    "accuracy": "semi_supervised",
    "cluster": "clustering",
    "clustering_scores": "clustering",
    "with_clusters": "clustering",
    "simulation_based_calibration": "diagnostics.calibration",
    "compare": "diagnostics",
    "to_arviz": "arviz_export",
}
_MODULES = ("data", "guides", "importance", "likelihoods", "networks", "objectives", "priors", "schedules", "testing")

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
    "importance",
    "inference_gaps",
    "latent_statistics",
    "likelihoods",
    "load",
    "load_data",
    "log_marginal",
    "networks",
    "objectives",
    "priors",
    "reconstruct",
    "compare_priors",
    "refit_prior",
    "sample",
    "schedules",
    "seeded",
    "simulation_based_calibration",
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
