"""The page as one file that opens from disk: weights and data are in it, and its own script runs the networks."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.errors import UsageError
from pyro_vae.explore.answers import Answers
from pyro_vae.explore.frames import Frame
from pyro_vae.explore.page import page
from pyro_vae.explore.plain import packed
from pyro_vae.explore.subject import Explored
from pyro_vae.guides import DiagonalNormal, FullNormal
from pyro_vae.inference.programs import evaluation_mode
from pyro_vae.likelihoods import Bernoulli, Normal
from pyro_vae.networks import MLP, GatedMLP
from pyro_vae.networks.layers import Gate
from pyro_vae.priors import StandardNormal

_KNOWN: Mapping[str, tuple[type, ...]] = {
    "prior": (StandardNormal,),
    "likelihood": (Bernoulli, Normal),
    "posterior": (DiagonalNormal, FullNormal),
    "encoder": (MLP, GatedMLP),
    "decoder": (MLP, GatedMLP),
}
"""The parts that the page's script can compute."""
_ELEMENTWISE = (nn.Tanh, nn.ReLU, nn.Sigmoid, nn.SiLU, nn.Softplus, nn.ELU, nn.LeakyReLU, Gate)


def exported(answers: Answers) -> str:
    """The page as one text, with no server behind it.

    It has the plane, decoded points, drawn data, guide, true posterior, ELBO, log p(x) and weighed draws, in double
    precision from the same weights; not refined guides and draws of what is missing.

    Args:
        answers: about the model and the data to put into it.

    Raises:
        UsageError: for a part that the page's script can't compute, by its name.
    """
    explored = answers.explored
    model = {**described(explored), "x": packed(explored.x), "frames": _frames(answers.frames)}
    start = {**answers.start(), "model": model}
    start["can"] |= {"refine": False, "restore": False, "mask": False}
    places = {name: packed(frame.places(explored.encoded.codes)) for name, frame in answers.frames.items()}
    return page({**start, "places": places}, "page")


def _frames(frames: Mapping[str, Frame]) -> dict[str, Any]:
    return {name: {"centre": frame.centre.tolist(), "axes": frame.axes.tolist()} for name, frame in frames.items()}


def described(explored: Explored) -> dict[str, Any]:
    """The model as plain data: its networks layer by layer, and what they are the parameters of.

    Raises:
        UsageError: for a part that is not known.
    """
    vae: Any = explored.vae
    _check(explored)
    with evaluation_mode(vae):
        return {
            "latent": vae.shapes.latent,
            "guide": type(vae.posterior).__name__,
            "likelihood": _likelihood(vae.likelihood),
            "encoder": layers(vae.encoder),
            "decoder": layers(vae.decoder),
        }


def _check(explored: Explored) -> None:
    vae, name = explored.vae, type(explored.vae).__name__
    if not explored.single:
        raise UsageError(f"--export: expected a model with one continuous code and its own decoder, got a {name}")
    for role, kinds in _KNOWN.items():
        part = getattr(vae, role)
        if type(part) not in kinds:
            known = ", ".join(kind.__name__ for kind in kinds)
            word = {"posterior": "guide"}.get(role, role)
            raise UsageError(f"--export: a page on its own can compute a {word} of {known}, got {type(part).__name__}")
    if explored.inputs or vae.data_mean is not None or vae.arguments.get("gaps", "zero") != "zero":
        raise UsageError("--export: expected a model of complete data, without context and standardisation")
    if explored.table is not None:
        raise UsageError("--export: expected images or vectors, got a table")


def _likelihood(likelihood: Any) -> dict[str, Any]:
    if isinstance(likelihood, Bernoulli):
        return {"name": "Bernoulli"}
    shared: dict[str, Any] = {"name": "Normal", "bounded": likelihood.bounded, "min_scale": likelihood.min_scale}
    if likelihood.scale == "per_element":
        return {**shared, "scale": None}
    event = likelihood.shapes.event
    scale = likelihood.scale_of((torch.zeros(event),))
    return {**shared, "scale": packed(scale.expand(event).flatten())}


def layers(network: Any) -> list[dict[str, Any]]:
    """The layers of a dense network, in order.

    Raises:
        UsageError: for a layer that is not known.
    """
    return [found for layer in (*network.hidden, network.output) if (found := _layer(layer)) is not None]


def _layer(layer: nn.Module) -> dict[str, Any] | None:
    if isinstance(layer, nn.Linear):
        bias = None if layer.bias is None else packed(layer.bias)
        return {"kind": "linear", "weight": packed(layer.weight), "bias": bias}
    if isinstance(layer, nn.LayerNorm):
        return {"kind": "norm", "weight": packed(layer.weight), "bias": packed(layer.bias), "eps": layer.eps}
    if isinstance(layer, nn.BatchNorm1d):
        return {"kind": "scale", **_fixed(layer)}
    if isinstance(layer, nn.Dropout):
        return None
    if type(layer) not in _ELEMENTWISE:
        raise UsageError(f"--export: a page on its own can't compute the layer {type(layer).__name__}")
    return {"kind": type(layer).__name__}


def _fixed(norm: Any) -> dict[str, Any]:
    """A batch norm in evaluation mode: x weight + bias."""
    weight: Tensor = norm.weight / (norm.running_var + norm.eps).sqrt()
    return {"weight": packed(weight), "bias": packed(norm.bias - norm.running_mean * weight)}
