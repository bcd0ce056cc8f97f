"""What to believe of a trained VAE: its codes, its guide and the model itself.

Its files:

    latents.py        active units, KL of each dimension
    collapse.py       warnings of a code that says nothing
    information.py    mutual information of codes and data, by the aggregate posterior
    surgery.py        the average KL: information about x, and the aggregate posterior from the prior
    gaps.py           log p(x) - ELBO: what the guide's family and what its encoder lose
    calibration.py    simulation-based calibration, one quantity at a time
    joint_regions.py  expected coverage of regions of the whole code: TARP and HPD
    local_test.py     local C2ST: at which x the guide differs from the posterior
    pair_features.py  what its classifier looks at
    against_hmc.py    the guide's mean, spread and correlations against HMC's, at real data
    conformal.py      by what factor the guide's credible sets must grow
    ranks.py          ranks of the truth: their band, an exact test
    coverage.py       how often sets contain the truth: intervals, an exact test
    likeness.py       whether data are like what the model draws, by log p(x)
    predictive.py     whether they are, by statistics of your choice
    comparison.py     models ranked on the same data
    halving.py        the rounds of a search
    arviz.py          results for ArviZ

`calibration` and `predictive` are imported by their own names.
"""

from pyro_vae.diagnostics.against_hmc import HMCComparison, compare_with_hmc
from pyro_vae.diagnostics.collapse import CollapseWatch, collapse_warnings
from pyro_vae.diagnostics.comparison import Compared, Comparison, compare
from pyro_vae.diagnostics.conformal import ConformalScaling, conformal_scaling
from pyro_vae.diagnostics.gaps import GapComparison, InferenceGaps, compare_gaps, inference_gaps
from pyro_vae.diagnostics.halving import Round, SearchResult
from pyro_vae.diagnostics.information import CodeInformation, code_information
from pyro_vae.diagnostics.joint_regions import ExpectedCoverage, expected_coverage
from pyro_vae.diagnostics.latents import ACTIVE_VARIANCE, LatentStatistics, latent_statistics
from pyro_vae.diagnostics.likeness import EvidenceCheck, evidence_check
from pyro_vae.diagnostics.local_test import LocalC2ST, local_c2st
from pyro_vae.diagnostics.surgery import ElboSurgery, elbo_surgery
from pyro_vae.inference.best_member import Search

__all__ = [
    "ACTIVE_VARIANCE",
    "CodeInformation",
    "CollapseWatch",
    "Compared",
    "Comparison",
    "ConformalScaling",
    "ElboSurgery",
    "EvidenceCheck",
    "ExpectedCoverage",
    "GapComparison",
    "HMCComparison",
    "InferenceGaps",
    "LatentStatistics",
    "LocalC2ST",
    "Round",
    "Search",
    "SearchResult",
    "code_information",
    "collapse_warnings",
    "compare",
    "compare_gaps",
    "compare_with_hmc",
    "conformal_scaling",
    "elbo_surgery",
    "evidence_check",
    "expected_coverage",
    "inference_gaps",
    "latent_statistics",
    "local_c2st",
]
