"""Log p(x) of any Pyro (model, guide) pair: estimates and bounds, each with its error and its health.

Each method has its file: `importance_sampling` (plain and Pareto-smoothed), `annealing` (its settings and results are
in `annealing_results`, a step of its chains in `annealing_moves`, recorded in `annealing_path`, its temperatures and
step sizes in `annealing_pilot`, its weights in `annealing_population`, bounds from both sides in `sandwich`),
`quadrature`, `appendix_d`, `prior_sampling`. All return an `Estimate` (`base`), some with an upper bound from the same
draws (`interval`); `methods` calls them by name.
"""

from pyro_vae.evidence.annealing import ais, bdmc, reverse_ais
from pyro_vae.evidence.annealing_results import AnnealedEvidence, Annealing
from pyro_vae.evidence.base import BoundKind, Estimate
from pyro_vae.evidence.bits import BitsPerDim, bits_per_dim
from pyro_vae.evidence.elbo import Bound, bound, has_elbo
from pyro_vae.evidence.importance_sampling import Evidence, log_marginal
from pyro_vae.evidence.interval import Interval
from pyro_vae.evidence.methods import METHODS, estimate
from pyro_vae.evidence.sandwich import Sandwich

__all__ = [
    "METHODS",
    "AnnealedEvidence",
    "Annealing",
    "BitsPerDim",
    "Bound",
    "BoundKind",
    "Estimate",
    "Evidence",
    "Interval",
    "Sandwich",
    "ais",
    "bdmc",
    "bits_per_dim",
    "bound",
    "estimate",
    "has_elbo",
    "log_marginal",
    "reverse_ais",
]
