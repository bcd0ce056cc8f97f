"""How anomalous a datum is to a trained model: scores, alarms, and how well they work.

A new score is a function `(vae, x, **options) -> Scores` in a file here, and a row of `METHODS`.

Its files:

    results.py       Scores
    terms.py         the terms of the bound at draws of the guide
    evidence.py      -log p(x)
    bounds.py        elbo, reconstruction, rate
    regret.py        what a guide refined for the datum gains
    complexity.py    the evidence less a compressor's code
    states.py        the statistics of the density of states
    reference.py     typicality, density_of_states
    ratio.py         a background model, or the upper layers
    ensemble.py      several models
    methods.py       METHODS, score
    thresholds.py    conformal thresholds
    detection.py     AUROC, average precision, FPR at 95 %
"""

from pyro_vae.tasks.scores.detection import Detection, Measure, detection
from pyro_vae.tasks.scores.methods import METHODS, score
from pyro_vae.tasks.scores.results import Scores
from pyro_vae.tasks.scores.states import States, states
from pyro_vae.tasks.scores.thresholds import Threshold, threshold

__all__ = [
    "METHODS",
    "Detection",
    "Measure",
    "Scores",
    "States",
    "Threshold",
    "detection",
    "score",
    "states",
    "threshold",
]
