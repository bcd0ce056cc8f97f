"""Variational autoencoders as estimators of scikit-learn, for its pipelines, searches and scores.

    from pyro_vae.sklearn import VAEImputer, VAEOutlierDetector, VAETransformer

They take and return arrays `[n_samples, n_features]`, or tables; `vae_` of a fitted estimator is the `VAE`, which every
function of this package takes. The extra `sklearn` brings scikit-learn: `pip install 'pyro-vae[sklearn]'`.

Its files:

    base.py           what all of them do: parameters, fit, the VAE
    transformer.py    VAETransformer: codes of data, data of codes, log p(x)
    imputer.py        VAEImputer: gaps filled by the model that was trained on what was observed
    outliers.py       VAEOutlierDetector: outliers by any score, with a promised rate of false alarms
    saving.py         an estimator in a run directory: save, load
"""

from importlib.util import find_spec

from pyro_vae.errors import MissingPackage

if find_spec("sklearn") is None:
    raise MissingPackage("scikit-learn", "sklearn", "pyro_vae.sklearn")

from pyro_vae.sklearn.base import VAEEstimator
from pyro_vae.sklearn.imputer import VAEImputer
from pyro_vae.sklearn.outliers import VAEOutlierDetector
from pyro_vae.sklearn.transformer import VAETransformer

__all__ = ["VAEEstimator", "VAEImputer", "VAEOutlierDetector", "VAETransformer"]
