"""The scale of real data, on which training depends: standardise them, or warn that they should be standardised."""

import logging
from collections.abc import Iterable
from typing import Any

from pyro.distributions import constraints
from torch import Tensor

from pyro_vae.arguments.remedies import option
from pyro_vae.data import Dataset
from pyro_vae.data.dataset import observed_chunks
from pyro_vae.likelihoods import Likelihood

_LEAST, _MOST = 0.1, 10.0
"""Standard deviations, and distances of the mean from zero, with which networks train well."""


_SHOWN = 3


_log = logging.getLogger("pyro_vae")


def set_scale(vae: Any, data: Dataset) -> None:
    """Give the model and its likelihood the units of the training data where they ask for them; else warn if real data
    are far from unit scale.

    Args:
        vae: a module; any but an `Autoencoder` is left unchanged.
        data: what it is to be trained on.
    """
    if isinstance(likelihood := getattr(vae, "likelihood", None), Likelihood):
        likelihood.start_from(observed_chunks(data, "train"))
    if getattr(vae, "data_mean", None) is not None:
        vae.standardize_by(data.mean(), data.std())
    elif (warning := scale_warning(likelihood, data)) is not None:
        _log.warning(warning)


def scale_warning(likelihood: Likelihood | None, data: Dataset) -> str | None:
    """A warning if real data are far from unit scale, else None.

    Standard deviations from 0.1 to 10 are fine, and so are values within [0, 1], where elements share one unit.
    """
    if likelihood is None or likelihood.data_support is not constraints.real or data.levels is not None:
        return None
    mean, std = data.mean(), data.std()
    varies = std > 0
    far = varies & ((std < _LEAST) | (std > _MOST) | (mean.abs() > _MOST * std.clamp(min=1.0)))
    if not far.any() or _within_unit(data.chunks("train")):
        return None
    shown = [_described(where, mean, std) for where in far.nonzero().tolist()[:_SHOWN]]
    more = f" and {int(far.sum()) - _SHOWN} more" if far.sum() > _SHOWN else ""
    return (
        f"the data are far from unit scale: {'; '.join(shown)}{more}. Networks learn such data slowly or not at all, "
        f"and a fixed scale of the likelihood means little: take {option('standardize', True)}"
    )


def _within_unit(chunks: Iterable[Tensor]) -> bool:
    return not any(bool(((x < 0) | (x > 1)).any()) for x in chunks)  # nan, where not observed, is neither


def _described(where: list[int], mean: Tensor, std: Tensor) -> str:
    at = tuple(where)
    name = f"column {at[0] + 1}" if len(at) == 1 else f"element {at}"
    return f"{name} has mean {mean[at].item():.3g} and standard deviation {std[at].item():.3g}"
