"""What to believe of a trained VAE: its codes, its guide and the model itself.

`latents` (active units, KL of each dimension), `collapse`, `information` and `surgery` look at codes; `gaps` (with the
search for the best member of a family in `refining`) and `calibration` (with its bands in `ecdf`) at the guide;
`predictive`, `comparison` and `halving` (the rounds of a search) at the model. `calibration` and `predictive` are
imported by their own names.
"""

from pyro_vae.diagnostics.collapse import CollapseWatch, collapse_warnings
from pyro_vae.diagnostics.comparison import Compared, Comparison, compare
from pyro_vae.diagnostics.gaps import GapComparison, InferenceGaps, compare_gaps, inference_gaps
from pyro_vae.diagnostics.halving import Round, SearchResult
from pyro_vae.diagnostics.information import CodeInformation, code_information
from pyro_vae.diagnostics.latents import ACTIVE_VARIANCE, LatentStatistics, latent_statistics
from pyro_vae.diagnostics.surgery import ElboSurgery, elbo_surgery
from pyro_vae.inference.best_member import Search

__all__ = [
    "ACTIVE_VARIANCE",
    "CodeInformation",
    "CollapseWatch",
    "Compared",
    "Comparison",
    "ElboSurgery",
    "GapComparison",
    "InferenceGaps",
    "LatentStatistics",
    "Round",
    "Search",
    "SearchResult",
    "code_information",
    "collapse_warnings",
    "compare",
    "compare_gaps",
    "elbo_surgery",
    "inference_gaps",
    "latent_statistics",
]
