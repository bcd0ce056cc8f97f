"""The plane: where codes of data lie, and the prior."""

from typing import Any

from torch import Tensor

from pyro_vae.errors import UsageError
from pyro_vae.explore.frames import Frame, normal_moments
from pyro_vae.explore.grid import points
from pyro_vae.explore.plain import packed
from pyro_vae.explore.subject import Datum, Explored
from pyro_vae.inference.programs import evaluation_mode

_SIDE = 81
"""Points a dimension of the prior's density."""
_SHOWN_DRAWS = 400
"""Draws of a prior that is shown by draws."""
MOST_COMPONENTS = 100
"""Components of a mixture that are shown, those with the largest weights."""


def plane_of(explored: Explored, frame: Frame, axes: tuple[int, int], datum: Datum) -> dict[str, Any]:
    """Codes of the data and the prior, in two coordinates of a frame.

    Args:
        explored: the model and data.
        frame: the coordinates.
        axes: which two.
        datum: whose context a prior p(z|c) is given.

    Returns:
        `codes` `[N, 2]`, means of q(z|x); `prior`, as `prior_of`; `components`, as `components_of`; `low` and `high`
        `[2]`.
    """
    codes = frame.places(explored.encoded.mean[explored.site].flatten(1))[:, axes]
    limits = {name: getattr(frame, name)[list(axes)].tolist() for name in ("low", "high")}
    prior = {"prior": prior_of(explored, frame, axes, datum), "components": components_of(explored, frame, axes, datum)}
    return {"codes": packed(codes), **prior, **limits}


def prior_of(explored: Explored, frame: Frame, axes: tuple[int, int], datum: Datum) -> dict[str, Any]:
    """The prior in the plane.

    `kind` is `normal` with `mean` `[2]` and `covariance` `[2, 2]` of the marginal; `grid` with `log_density`
    `[side, side]`, rows along the second coordinate, of a code of two dimensions; or `draws` `[num, 2]`.
    """
    with evaluation_mode(explored.vae):
        prior = _distribution(explored, datum)
        normal = None if prior is None else normal_moments(prior)
        if normal is not None:
            size = frame.axes.shape[0]
            mean, covariance = normal[0].reshape(size), normal[1].reshape(size, size)  # of a context: one datum's
            return {"kind": "normal", **plain_normal(frame, axes, mean, covariance)}
        if prior is not None and frame.axes.shape == (2, 2):
            z = frame.codes(points(frame.low, frame.high, _SIDE))
            return {"kind": "grid", "log_density": packed(prior.log_prob(z.to(explored.blank)))}
    return {"kind": "draws", "draws": packed(frame.places(explored.prior_draws[:_SHOWN_DRAWS])[:, axes])}


def components_of(explored: Explored, frame: Frame, axes: tuple[int, int], datum: Datum) -> dict[str, Any] | None:
    """The components of a prior that is a mixture of normals; None for other priors.

    `count`, how many there are, and `largest`, those of largest weight, in its order: of each its `weight`, `mean`
    `[2]` and `covariance` `[2, 2]` in the plane, and `place`, all coordinates of its mean.
    """
    with evaluation_mode(explored.vae):
        prior = _distribution(explored, datum)
        normals = mixed_normals(prior)
    if normals is None:
        return None
    log_weights, means, scales = (value.double().cpu() for value in normals)
    covariances = scales @ scales.mT if scales.dim() == 3 else scales.square().diag_embed()
    found = []
    for k in log_weights.argsort(descending=True, stable=True)[:MOST_COMPONENTS].tolist():
        own = {"weight": log_weights[k].exp().item(), "place": frame.places(means[k]).tolist()}
        found.append({**own, **plain_normal(frame, axes, means[k], covariances[k])})
    return {"count": len(log_weights), "largest": found}


def mixed_normals(prior: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    """Log-weights, means and scales (as `Mixture.of_normals` takes them) of a mixture of normals; None for another."""
    as_normals = getattr(prior, "as_normals", None)
    return None if as_normals is None else as_normals()


def plain_normal(frame: Frame, axes: tuple[int, int], mean: Tensor, covariance: Tensor) -> dict[str, Any]:
    """The marginal of a normal in two coordinates: mean `[2]` and covariance `[2, 2]`."""
    places, spread = frame.places(mean), frame.covariance(covariance)
    return {"mean": places[list(axes)].tolist(), "covariance": spread[list(axes)][:, list(axes)].tolist()}


def _distribution(explored: Explored, datum: Datum) -> Any:
    """p(z) of the site that is shown; None if it depends on a site that is not given, as p(z|y) on the class."""
    try:
        return explored.vae.prior_distribution(datum.c)
    except UsageError:
        return None
