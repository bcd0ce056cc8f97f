"""Results as matplotlib figures: each function takes a result and returns a `Figure`, which `save` writes as a PNG.

Only matplotlib's object-oriented interface is used: no window, no `pyplot`, no global setting. matplotlib is imported
by the first figure, not with this package. `base` has the common style; the figures are in `training`, `images`,
`diagnostics`, `calibration`, `guide_checks`, `codes`, `scores` and `searching`.
"""

from pyro_vae.plots.base import encoded, save
from pyro_vae.plots.calibration import comparison, coverage, predictive_check, rank_ecdf
from pyro_vae.plots.codes import codes, edits, interpolations, traversal
from pyro_vae.plots.diagnostics import active_units, elbo_surgery, inference_gaps, latent_kl, pareto_k
from pyro_vae.plots.guide_checks import conformal_scaling, evidence_check, hmc_comparison, local_c2st
from pyro_vae.plots.images import drawable, image_grid, manifold, reconstructions, samples, value_limits
from pyro_vae.plots.imputing import imputations
from pyro_vae.plots.restoring import restorations
from pyro_vae.plots.scores import anomaly_scores
from pyro_vae.plots.searching import search
from pyro_vae.plots.training import curves, robust_limits

__all__ = [
    "active_units",
    "anomaly_scores",
    "codes",
    "comparison",
    "conformal_scaling",
    "coverage",
    "curves",
    "drawable",
    "edits",
    "elbo_surgery",
    "encoded",
    "evidence_check",
    "hmc_comparison",
    "image_grid",
    "imputations",
    "inference_gaps",
    "interpolations",
    "latent_kl",
    "local_c2st",
    "manifold",
    "pareto_k",
    "predictive_check",
    "rank_ecdf",
    "reconstructions",
    "restorations",
    "robust_limits",
    "samples",
    "save",
    "search",
    "traversal",
    "value_limits",
]
