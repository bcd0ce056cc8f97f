"""`fit`: the loop, a step of it, its settings; and other priors fitted to a trained model's codes.

fitting.py       fit
trainer.py       the loop
settings.py      the arguments of fit as one value, saved with the run
steps.py         one step: a loss and its gradients, by a recorded graph or by running the programs
shares.py        a step shared by several processes
rehearsal.py     what is tried on the first batch, before the training
validation.py    the value after each epoch by which weights are kept
scales.py        standardised data
optimizers.py    torch's optimizers
refit.py         refit_prior, compare_priors
code_prior.py    fit_code_prior
"""

from pyro_vae.training.code_prior import fit_code_prior
from pyro_vae.training.fitting import fit
from pyro_vae.training.refit import compare_priors, refit_prior
from pyro_vae.training.trainer import History

__all__ = ["History", "compare_priors", "fit", "fit_code_prior", "refit_prior"]
