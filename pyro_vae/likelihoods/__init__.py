"""Likelihoods p(x|z). To add one, subclass `Likelihood`: `num_params`, `support`, `remedy` and `distribution`.

base.py has the base class, unit.py elements in {0, 1} and [0, 1], real.py real elements with a scale, levels.py grey
values on a grid, counts.py whole numbers from 0.
"""

from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.likelihoods.counts import NegativeBinomial, Poisson
from pyro_vae.likelihoods.levels import BetaBinomial, Categorical, DiscretizedLogistic
from pyro_vae.likelihoods.real import Laplace, Normal, StudentT
from pyro_vae.likelihoods.unit import Bernoulli, ContinuousBernoulli

__all__ = [
    "Bernoulli",
    "BetaBinomial",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Laplace",
    "Likelihood",
    "NegativeBinomial",
    "Normal",
    "Poisson",
    "StudentT",
]
