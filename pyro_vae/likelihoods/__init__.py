"""Likelihoods p(x|z), elementwise. To add one, write it in the file of its support, or in a new file here.

Subclass `Likelihood`: `num_params`, `support`, `remedy` and `distribution`.

    base.py      Likelihood
    unit.py      elements in {0, 1}, and in [0, 1]
    real.py      real elements, by a location and a scale
    levels.py    grey values on a grid
    counts.py    whole numbers from 0
    mixed.py     columns of several kinds
    columns.py   columns of one kind, of which these are made
    scaled.py    the base class of likelihoods with a scale
"""

from pyro_vae.discovery import added_to
from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.likelihoods.counts import NegativeBinomial, Poisson
from pyro_vae.likelihoods.levels import BetaBinomial, Categorical, DiscretizedLogistic
from pyro_vae.likelihoods.mixed import Mixed
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
    "Mixed",
    "NegativeBinomial",
    "Normal",
    "Poisson",
    "StudentT",
]
globals().update(added_to(__name__))
