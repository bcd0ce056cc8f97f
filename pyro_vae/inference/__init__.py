"""Running any Pyro pair (model, guide) at given data: importance weights, simulated data, posterior draws, HMC.

Its files:

    programs.py         a Pyro program before it is run: its modules, its sites, its evaluation mode
    weighing.py         importance: one vectorised run gives every log-density of every particle and datum
    moments.py          mean and standard deviation of codes, and the KL of normals that have them
    sites.py            latent sites in one order
    tiles.py            random numbers in tiles, so that a result does not depend on how the work is cut
    pairs.py            a pair as one function from data to log-weights, eager or as a recorded graph
    simulating.py       data drawn from a model
    simulated_codes.py  codes that a model draws, beside a guide's draws for the same data
    unconstrained.py    a pair as functions of one flat real vector, for samplers
    hamiltonian.py      hmc: Hamiltonian Monte Carlo for all data at once; HMC: its settings
    trajectories.py     chains that move by leapfrog steps
    adaptation.py       their warm-up: step sizes and scales
    posteriors.py       posterior: draws from p(z|x)
    best_member.py      the best member of a guide's family for each datum, and how it is looked for (Search)
    members.py          a pair whose guide has parameters of its own for each datum
"""

from pyro_vae.inference.best_member import Search
from pyro_vae.inference.hamiltonian import HMC, HMCResult, hmc
from pyro_vae.inference.posteriors import Posterior, posterior
from pyro_vae.inference.programs import Program, evaluation_mode
from pyro_vae.inference.simulating import Simulated, simulate
from pyro_vae.inference.unconstrained import Target
from pyro_vae.inference.weighing import ImportanceSamples, importance

__all__ = [
    "HMC",
    "HMCResult",
    "ImportanceSamples",
    "Posterior",
    "Program",
    "Search",
    "Simulated",
    "Target",
    "evaluation_mode",
    "hmc",
    "importance",
    "posterior",
    "simulate",
]
