"""What is optimised: objectives, each a frozen value that maps a Pyro (model, guide) pair and data to a loss.

A loss is summed over the batch, in nats, and differentiable: what `pyro.infer.SVI(loss=...)` and `fit` take. Any Pyro
ELBO (`Trace_ELBO()`, `TraceMeanField_ELBO()`, ...) serves as well, as it is.
To add one, subclass `Objective` as a frozen dataclass and implement `__call__`; numbers that may change while training
are fields that take a `Schedule` as well. `fit` compiles an objective that never reads the value of a tensor.

    base.py         Objective, and what all of them share
    paths.py        runs of the programs: draws with and without their path, densities at fixed draws, dreams
    bounds.py       ELBO, IWAE, Renyi: bounds on log p(x), differentiated as they are
    estimators.py   StickingTheLanding, DReG, ScoreFunction: other estimators of the same bounds' gradients
    monte_carlo_em.py  MonteCarloEM: codes from the posterior by Hamiltonian Monte Carlo, several updates on each
    wake_sleep.py   ReweightedWakeSleep, WakeSleep: the model and the guide each have their own loss
    regularised.py  FreeBits, CapacityELBO, BetaTC: the ELBO with its KL treated differently
    denoising.py    Denoising: any of them, with a guide that sees corrupted data
    semi_supervised.py  SemiSupervisedELBO: the ELBO with discrete sites summed out, and a classifier's term
    quantized.py    VQBound: the bound of discrete codes, by the straight-through estimator
"""

from pyro_vae.discovery import added_to
from pyro_vae.objectives.base import NotTensorial, Objective, as_loss, tensor_form
from pyro_vae.objectives.bounds import ELBO, IWAE, Renyi, ScaleLatents
from pyro_vae.objectives.denoising import Denoising
from pyro_vae.objectives.estimators import DReG, ScoreFunction, StickingTheLanding
from pyro_vae.objectives.monte_carlo_em import MonteCarloEM
from pyro_vae.objectives.quantized import VQBound
from pyro_vae.objectives.regularised import BetaTC, CapacityELBO, FreeBits
from pyro_vae.objectives.semi_supervised import SemiSupervisedELBO
from pyro_vae.objectives.wake_sleep import ReweightedWakeSleep, WakeSleep

__all__ = [
    "ELBO",
    "IWAE",
    "BetaTC",
    "CapacityELBO",
    "DReG",
    "Denoising",
    "FreeBits",
    "MonteCarloEM",
    "NotTensorial",
    "Objective",
    "Renyi",
    "ReweightedWakeSleep",
    "ScaleLatents",
    "ScoreFunction",
    "SemiSupervisedELBO",
    "StickingTheLanding",
    "VQBound",
    "WakeSleep",
    "as_loss",
    "tensor_form",
]
globals().update(added_to(__name__))
