"""`fit`: the loop, a step of it, its settings; and other priors and guides fitted to a trained model.

Its files:

    fitting.py       fit
    settings.py      the arguments of fit as one value, saved with the run
    pyro_loss.py     Pyro's ELBOs and functions as an objective
    plan.py          what a training is to do: module, data, objective, settings, processes
    starting.py      what is done once before the first step
    rehearsal.py     one step on the first batch under Pyro's validation, not applied
    trainer.py       the loop
    batches.py       the order of the data, and this process's rows of each batch
    steps.py         one step: a loss and its gradients, by a recorded graph or by running the programs
    shares.py        a step shared by several processes
    optimizers.py    torch's optimizers
    validation.py    the value after each epoch by which weights are kept
    ledger.py        how far a training is and what it has measured
    stopping.py      when it ends, and with which weights
    checkpoints.py   saving and resuming
    history.py       what fit returns
    scales.py        standardised data
    searching.py     search: successive halving over a declared space
    space.py         that space, and the candidates drawn from it
    refit.py         refit_prior, compare_priors
    refit_guide.py   refit_guide, compare_guides
    code_prior.py    fit_code_prior
"""

from pyro_vae.training.code_prior import fit_code_prior
from pyro_vae.training.fitting import fit
from pyro_vae.training.history import History
from pyro_vae.training.refit import compare_priors, refit_prior
from pyro_vae.training.refit_guide import compare_guides, refit_guide
from pyro_vae.training.searching import search
from pyro_vae.training.space import candidates

__all__ = [
    "History",
    "candidates",
    "compare_guides",
    "compare_priors",
    "fit",
    "fit_code_prior",
    "refit_guide",
    "refit_prior",
    "search",
]
