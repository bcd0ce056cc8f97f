"""Results as matplotlib figures: each function takes a result and returns a `Figure`, which `save` writes as a PNG.

Only matplotlib's object-oriented interface is used, and only once a figure is asked for: no window, no `pyplot`, no
global setting is touched, and importing this package does not import matplotlib. `base` holds what all share, the
others the figures by theme: `training`, `images`, `diagnostics` and `calibration`.
"""

from pyro_vae.plots.base import encoded, save
from pyro_vae.plots.calibration import comparison, coverage, predictive_check, rank_ecdf
from pyro_vae.plots.diagnostics import active_units, elbo_surgery, inference_gaps, latent_kl, pareto_k
from pyro_vae.plots.images import drawable, image_grid, manifold, reconstructions, samples, value_limits
from pyro_vae.plots.training import curves, robust_limits

__all__ = [
    "active_units",
    "comparison",
    "coverage",
    "curves",
    "drawable",
    "elbo_surgery",
    "encoded",
    "image_grid",
    "inference_gaps",
    "latent_kl",
    "manifold",
    "pareto_k",
    "predictive_check",
    "rank_ecdf",
    "reconstructions",
    "robust_limits",
    "samples",
    "save",
    "value_limits",
]
