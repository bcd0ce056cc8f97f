"""Log p(x) in bits for each element of a datum."""

from dataclasses import dataclass
from math import log, prod

from pyro_vae.data import Dataset
from pyro_vae.evidence.base import Estimate
from pyro_vae.likelihoods import Likelihood


@dataclass(frozen=True)
class BitsPerDim:
    """Bits per element of a datum, and the errors of `Evidence` in this unit.

    Args:
        mean: over data and elements.
        standard_error_data: from having N data.
        standard_error_monte_carlo: from having K draws.
        dequantized: number of levels if uniform noise was added to them: `mean` is then an upper bound; None otherwise.
    """

    mean: float
    standard_error_data: float
    standard_error_monte_carlo: float
    dequantized: int | None = None


def bits_per_dim(evidence: Estimate, likelihood: Likelihood, data: Dataset) -> BitsPerDim | None:
    r"""Log p(x) as bits per element, if that has a meaning.

    .. math:: -\frac{\log_2 p(x)}{D} \text{ of a probability}, \qquad
        -\frac{\log_2 p(x)}{D} + \log_2 levels \text{ of a density on dequantised levels}

    with D elements in a datum. A level is a cell of width `1 / levels`, so the second formula is an upper bound on the
    bits of the levels. For a density of real numbers bits would depend on the unit of x, so there are none; nor are
    there for data with gaps, of which each datum has another number of observed elements.

    Args:
        evidence: of data of this kind.
        likelihood: p(x|z); its class says whether it is a probability.
        data: the data set of x.

    Returns:
        `BitsPerDim`; None for a density on data that are not dequantised, and for data with gaps.

    References:
        Theis, van den Oord & Bethge 2016, A note on the evaluation of generative models.

    Example:
        >>> from pyro_vae.evidence import Evidence
        >>> from pyro_vae.likelihoods import Bernoulli
        >>> from pyro_vae.shapes import Shapes
        >>> zero = torch.zeros(3)
        >>> one_bit = Evidence(torch.full((3,), -2 * log(2)), zero, zero, zero, zero, num_particles=1, seed=0)
        >>> round(bits_per_dim(one_bit, Bernoulli(Shapes((2,), 1)), Dataset("x", torch.ones(3, 2))).mean, 6)
        1.0
    """
    if not (likelihood.discrete or data.dequantize) or data.observed("train") is not None:
        return None
    levels = None if likelihood.discrete else data.levels
    unit = prod(data.event_shape) * log(2)
    errors = evidence.standard_error_data / unit, evidence.standard_error_monte_carlo / unit
    return BitsPerDim(-evidence.mean / unit + (log(levels) / log(2) if levels else 0.0), *errors, levels)
