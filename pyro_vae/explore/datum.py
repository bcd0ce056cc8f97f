"""One datum: its guide, its true posterior, the numbers of both, and draws of what is missing of it."""

from typing import Any

import torch
from torch import Tensor

from pyro_vae.channels import BitFlip, Missing
from pyro_vae.errors import UsageError
from pyro_vae.explore.frames import Frame, normal_moments
from pyro_vae.explore.grid import GridPosterior, grid_posterior
from pyro_vae.explore.plain import packed
from pyro_vae.explore.plane import plain_normal
from pyro_vae.explore.subject import Datum, Explored
from pyro_vae.explore.values import decoded
from pyro_vae.explore.weighed import Weighed, weighed
from pyro_vae.inference.best_member import Search
from pyro_vae.inference.members import WithMembers, refined_params
from pyro_vae.inference.programs import evaluation_mode
from pyro_vae.inference.unconstrained import Target
from pyro_vae.process.seeding import seeded
from pyro_vae.tasks.classification import classify
from pyro_vae.tasks.restoring import restore

PARTICLES = 1000
"""Draws of the guide that are weighed."""
STEPS = 600
"""Steps of the search for the best member of the guide's family."""
_DOTS = 300
"""Draws by which a guide that is not normal is shown."""
RESTORED, _AVERAGED = 8, 200
"""Draws of what is missing that are shown, and of which the mean is."""

Axes = tuple[int, int]


def datum_of(explored: Explored, datum: Datum, frame: Frame, axes: Axes) -> dict[str, Any]:
    """All that is shown of a datum.

    Args:
        explored: the model.
        datum: the datum.
        frame: coordinates of the plane.
        axes: which two.

    Returns:
        `x`, `mask`, `place` (the mean code), `guide`, `posterior` (None but for two dimensions), `numbers` (None for a
        point guide), `reconstruction` and `classes`, q(y|x) of a model with classes (None for others).
    """
    grid = true_posterior(explored, datum)
    with evaluation_mode(explored.vae):
        mean, guide = _guide(explored, datum, frame, axes)
        reconstruction = decoded(explored, mean[None], datum)
    numbers = None
    if explored.has_elbo:
        numbers = _weighed(explored, datum).numbers(grid)
    return {
        "x": packed(datum.x[0]),
        "mask": None if datum.mask is None else packed(datum.mask.expand_as(datum.x)[0].float()),
        "place": frame.places(mean).tolist(),
        "guide": guide,
        "posterior": None if grid is None else grid.plain(),
        "numbers": numbers,
        "reconstruction": reconstruction,
        "classes": _classes(explored, datum),
    }


def _classes(explored: Explored, datum: Datum) -> list[float] | None:
    """The classifier's probabilities q(y|x)."""
    vae: Any = explored.vae
    return classify(vae, datum.x, datum.mask)[0].tolist() if vae.classes else None


def true_posterior(explored: Explored, datum: Datum) -> GridPosterior | None:
    """The true posterior on a grid; None if the code has not two dimensions, or is not all that x depends on."""
    if not explored.single or explored.vae.shapes.latent != 2:
        return None
    with evaluation_mode(explored.vae):
        return grid_posterior(Target(explored.vae.model, explored.vae.guide, datum.x, **datum.inputs))


def refined(explored: Explored, datum: Datum, frame: Frame, axes: Axes) -> dict[str, Any]:
    r"""The best member of the guide's family for a datum, and its numbers.

    .. math:: \lambda^* = \arg\max_\lambda E_{q(z; \lambda)}[\log p(x, z) - \log q(z; \lambda)]

    Returns:
        `place`, `guide`, `numbers`, as `datum_of`.

    Raises:
        UsageError: for a model without one continuous code, or a guide without a density.
    """
    if not explored.single or not explored.has_elbo:
        raise UsageError(
            f"a guide can be refined that has one continuous code and a density, and that of this "
            f"{type(explored.vae).__name__} has not"
        )
    members, grid = WithMembers(explored.vae), true_posterior(explored, datum)
    params = refined_params(explored.vae, datum.x, Search(max_steps=STEPS), **datum.inputs)
    inputs = {"x": datum.x, "params": params, **datum.inputs}
    with evaluation_mode(explored.vae):
        mean, guide = _shown_guide(explored.vae.posterior.distribution(params), frame, axes)
    numbers = weighed(members.model, members.guide, inputs, PARTICLES).numbers(grid)
    return {"place": frame.places(mean).tolist(), "guide": guide, "numbers": numbers}


def weighed_draws(explored: Explored, datum: Datum, frame: Frame, axes: Axes) -> dict[str, Any]:
    """Draws of the guide in the plane with their normalised weights: `draws` `[K, 2]`, `shares` `[K]`.

    Raises:
        UsageError: for a point guide.
    """
    if not explored.has_elbo:
        raise UsageError("the guide puts all of q(z|x) on one point, so there are no draws to weigh")
    found = _weighed(explored, datum)
    draws = frame.places(found.latents[explored.site].flatten(1))[:, axes]
    return {"draws": packed(draws), "shares": packed(found.shares), "ess": found.ess.item()}


def restored(explored: Explored, datum: Datum, flip: float, better: bool) -> dict[str, Any]:
    """Draws of x given what is observed of a datum.

    Args:
        explored: the model.
        datum: the datum, with gaps or with flipped elements.
        flip: the probability that an observed binary element was flipped; 0 for exact ones.
        better: whether q is refined for the datum first.

    Returns:
        `draws` `[num, *event]`; `mean` and `sd` `[*event]`, of more draws; `ess`, `pareto_k` and `flagged`.
    """
    gaps = datum.x if datum.mask is None else datum.x.masked_fill(~datum.mask, torch.nan)
    inputs = {name: value for name, value in datum.inputs.items() if name != "mask"}
    channel = BitFlip(flip) if flip else Missing()
    method = "refined" if better and explored.single else "encoder"
    how: dict[str, Any] = {"num_draws": _AVERAGED, "num_particles": PARTICLES, "method": method}
    found = restore(explored.vae, gaps, channel, search=Search(max_steps=STEPS), **how, **inputs)
    health = {"ess": found.ess.item(), "pareto_k": found.pareto_k.item(), "flagged": bool(found.flagged)}
    shown = {"draws": packed(found.draws[:RESTORED, 0]), "mean": packed(found.mean[0]), "sd": packed(found.sd[0])}
    return {**shown, **health, "num_particles": PARTICLES, "method": method}


def _weighed(explored: Explored, datum: Datum) -> Weighed:
    return weighed(explored.vae.model, explored.vae.guide, {"x": datum.x, **datum.inputs}, PARTICLES)


def _guide(explored: Explored, datum: Datum, frame: Frame, axes: Axes) -> tuple[Tensor, dict[str, Any]]:
    """The mean code `[L]`, and the guide in the plane."""
    if explored.single:
        return _shown_guide(explored.vae.encode(datum.x, datum.mask, datum.c), frame, axes)
    draws = _weighed(explored, datum).latents[explored.site].flatten(1)
    return draws.double().mean(0), {"kind": "draws", "draws": packed(frame.places(draws[:_DOTS])[:, axes])}


def _shown_guide(q: Any, frame: Frame, axes: Axes) -> tuple[Tensor, dict[str, Any]]:
    normal = normal_moments(q)
    if normal is not None:
        mean, covariance = (value[0] for value in normal)
        return mean.double().cpu(), {"kind": "normal", **plain_normal(frame, axes, mean, covariance)}
    with seeded(0, "explore", "guide"):
        draws = q.sample(torch.Size([_DOTS]))[:, 0].double().cpu()
    return draws.mean(0), {"kind": "draws", "draws": packed(frame.places(draws)[:, axes])}
