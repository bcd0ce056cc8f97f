"""The page as one file that opens from disk: weights and data are in it, and its own script runs the networks."""

from collections.abc import Mapping
from math import isfinite
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae.errors import UsageError
from pyro_vae.explore import datum
from pyro_vae.explore.answers import Answers
from pyro_vae.explore.frames import Frame
from pyro_vae.explore.grid import DRAWS, prior_reach
from pyro_vae.explore.halved import Changes, changes, halved
from pyro_vae.explore.layers import NETWORKS, Pack, layers
from pyro_vae.explore.page import page
from pyro_vae.explore.plain import packed, packed_exactly, packed_in_half, packed_words
from pyro_vae.explore.plane import MOST_COMPONENTS, mixed_normals
from pyro_vae.explore.subject import Explored
from pyro_vae.guides import DiagonalNormal, FullNormal
from pyro_vae.inference.best_member import CHUNK, ROUND, Search
from pyro_vae.inference.programs import evaluation_mode
from pyro_vae.inference.tiles import TILE_DATA
from pyro_vae.inference.unconstrained import Target
from pyro_vae.likelihoods import Bernoulli, Normal
from pyro_vae.priors import LearnedNormal, MixtureOfNormals, StandardNormal, VampPrior
from pyro_vae.process.seeding import derive_seed

_KNOWN: Mapping[str, tuple[type, ...]] = {
    "prior": (StandardNormal, LearnedNormal, MixtureOfNormals, VampPrior),
    "likelihood": (Bernoulli, Normal),
    "posterior": (DiagonalNormal, FullNormal),
    "encoder": NETWORKS,
    "decoder": NETWORKS,
}
"""The parts that the page's script can compute."""
_PRIOR_DRAWS = 400
"""Draws by which a mixture is shown in more than two dimensions."""


class Exported(NamedTuple):
    """An exported page.

    Args:
        text: of the file.
        weights: in how many bits its networks' matrices are, and what that changes, in a sentence.
    """

    text: str
    weights: str


def exported(answers: Answers) -> Exported:
    """The page as one text, with no server behind it.

    All that the page of a server has of such a model, from the same draws, computed in double precision: guide, true
    posterior, ELBO, log p(x), k-hat, refined guides, weighed draws, what is missing. Matrices are in 16 bits if that
    changes no pixel by 1/255, else in 32.

    Args:
        answers: about the model and the data to put into it.

    Raises:
        UsageError: for a part that the page's script can't compute, by its name.
    """
    start, weights = exported_start(answers)
    return Exported(page(start, "page", alone=True), weights)


def exported_start(answers: Answers) -> tuple[dict[str, Any], str]:
    """What the page of `exported` begins with, and the sentence on its weights."""
    explored = answers.explored
    _check(explored)
    found = changes(explored, rounded := halved(explored))
    pack: Pack = packed
    if found.unseen:
        answers, explored, pack = Answers(rounded), rounded, packed_in_half
    weights = _on_weights(found, "pixel" if explored.table is None else "value")
    model = {**described(explored, pack), "x": _data(explored), "frames": _frames(answers.frames), "weights": weights}
    start = {**answers.start(), "model": model}
    start["thumbs"] = {"index": start["thumbs"]["index"]}
    places = {name: packed(frame.places(explored.encoded.codes)) for name, frame in answers.frames.items()}
    return {**start, "places": places}, weights


def _on_weights(found: Changes, element: str) -> str:
    where = f"over {found.num_data} reconstructions and {found.num_draws} decoded draws of the prior"
    if found.unseen:
        kept = f"no {element} changes by more than {found.pixels:.1g} of its range (1/255 would be seen)"
        return f"weights in 16 bits: {where} {kept}, and log p(x|z) of a datum by no more than {found.nats:.2g} nats"
    if not isfinite(found.nats):
        return "weights in 32 bits: in 16 some would be infinite"
    return (
        f"weights in 32 bits: in 16 a {element} would change by {found.pixels:.2g} of its range {where}, 1/255 or more"
    )


def _frames(frames: Mapping[str, Frame]) -> dict[str, Any]:
    return {name: {"centre": frame.centre.tolist(), "axes": frame.axes.tolist()} for name, frame in frames.items()}


def _data(explored: Explored) -> dict[str, Any]:
    """The data, nan where they are not observed."""
    mask = explored.inputs.get("mask")
    return packed_exactly(explored.x if mask is None else torch.where(mask, explored.x, torch.nan))


def described(explored: Explored, pack: Pack = packed) -> dict[str, Any]:
    """The model as plain data: its networks layer by layer, what they are the parameters of, and the seeds of draws.

    Args:
        explored: the model.
        pack: how the matrices of its networks are packed.

    Raises:
        UsageError: for a part that is not known.
    """
    vae: Any = explored.vae
    _check(explored)
    search = Search(max_steps=datum.STEPS)
    names = ("lr", "max_steps", "particles", "selection", "tolerance")
    with evaluation_mode(vae):
        return {
            "latent": vae.shapes.latent,
            "guide": type(vae.posterior).__name__,
            "prior": _prior(vae.prior_distribution()),
            "prior_draws": packed(explored.prior_draws[:_PRIOR_DRAWS]),
            "likelihood": _likelihood(vae),
            "input": _input(vae),
            "encoder": layers(vae.encoder, pack),
            "decoder": layers(vae.decoder, pack),
            "search": {
                **{name: getattr(search, name) for name in names},
                "tile": TILE_DATA,
                "round": ROUND,
                "chunk": CHUNK,
            },
            "seeds": _seeds(search),
            "num_restored": datum.RESTORED,
            "grid": _grid(explored),
            "most_components": MOST_COMPONENTS,
        }


def _check(explored: Explored) -> None:
    vae, name = explored.vae, type(explored.vae).__name__
    if not explored.single:
        raise _cant(f"expected a model with one continuous code and its own decoder, got a {name}")
    if explored.vae.shapes.context is not None or explored.inputs.keys() - {"mask"}:
        raise _cant("expected a model without a context")
    for role, kinds in _KNOWN.items():
        part = getattr(vae, role)
        if type(part) not in kinds:
            known = ", ".join(kind.__name__ for kind in kinds)
            word = {"posterior": "guide"}.get(role, role)
            raise _cant(f"a page on its own can compute a {word} of {known}, got {type(part).__name__}")
    coded = [] if explored.table is None else [column.name for column in explored.table.columns if column.levels]
    if coded:
        raise _cant(f"a page on its own can show columns of numbers, got levels in {', '.join(coded)}")


def _cant(why: str) -> UsageError:
    return UsageError(f"--export: {why}; without --export the page shows this model too")


def _prior(prior: Any) -> dict[str, Any]:
    """A mixture of normals, of one or more."""
    normals = mixed_normals(prior)  # the guides that are known are normal, and so a VampPrior's components
    if normals is None:
        base = prior.base_dist
        return {"log_weights": [0.0], "means": packed(base.loc[None]), "scales": packed(base.scale[None])}
    log_weights, means, scales = normals
    return {"log_weights": log_weights.double().tolist(), "means": packed(means), "scales": packed(scales)}


def _likelihood(vae: Any) -> dict[str, Any]:
    likelihood, size = vae.likelihood, vae.shapes.event_size
    shared: dict[str, Any] = {"name": type(likelihood).__name__, "size": size}
    if isinstance(likelihood, Bernoulli):
        return shared
    shared |= {"bounded": likelihood.bounded, "min_scale": likelihood.min_scale, "scale": None, **_units(vae)}
    if likelihood.scale == "per_element":
        return shared
    event = likelihood.shapes.event
    scale = likelihood.scale_of((torch.zeros(event),))
    return {**shared, "scale": packed(scale.expand(event).flatten())}


def _units(vae: Any) -> dict[str, Any]:
    """How data are standardised; None where they are not."""
    found: dict[str, Tensor | None] = {"shift": vae.data_mean, "unit": vae.data_std}
    return {name: None if value is None else packed(value.flatten()) for name, value in found.items()}


def _input(vae: Any) -> dict[str, Any]:
    """What the encoder gets of a datum, where some of it is not observed."""
    gaps = vae.arguments.get("gaps", "zero")
    fill = packed(vae.fill.flatten()) if gaps == "learned" else None
    return {"gaps": gaps, "placeholder": vae.likelihood.placeholder, "fill": fill, **_units(vae)}


def _grid(explored: Explored) -> dict[str, Any]:
    """Where a grid posterior is looked for: around draws of the prior, and of the guide, of which there are so many."""
    first = explored.datum(0)
    low, high = prior_reach(Target(explored.vae.model, explored.vae.guide, first.x, **first.inputs))
    return {"low": low.tolist(), "high": high.tolist(), "draws": DRAWS}


def _seeds(search: Search) -> dict[str, Any]:
    """Those of the same draws as a server's: of weighed draws, and of a search's steps and comparisons."""
    steps = [derive_seed(0, "refining", "step", 0, step + 1, 0) for step in range(search.max_steps)]
    compared = [
        derive_seed(0, "refining", "selection", 0, first, chunk, 0)
        for first in range(0, search.max_steps, ROUND)
        for chunk in range(0, search.selection, CHUNK)
    ]
    ones = {"weigh": ("explore", "weigh"), "restore": ("explore", "restore"), "guide": ("draw guide", 0)}
    return {
        **{name: derive_seed(0, *keys) & 0xFFFFFFFF for name, keys in ones.items()},
        "steps": packed_words(steps),
        "selection": packed_words(compared),
    }
