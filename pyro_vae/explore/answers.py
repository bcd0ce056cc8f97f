"""What the page is answered, question by question, as plain data. The work of each is bounded."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor

from pyro_vae.errors import UsageError
from pyro_vae.explore.codes import codes_of, decoded_codes
from pyro_vae.explore.datum import PARTICLES, datum_of, refined, restored, weighed_draws
from pyro_vae.explore.frames import FRAMES, Frame, frame_of, frames
from pyro_vae.explore.plain import packed
from pyro_vae.explore.plane import plane_of
from pyro_vae.explore.request import Request
from pyro_vae.explore.subject import Datum, Explored
from pyro_vae.explore.values import decoded, view_of
from pyro_vae.inference.programs import evaluation_mode
from pyro_vae.messages import finite
from pyro_vae.process.isolation import isolated

_MOST_CODES = 64
"""Codes that are decoded in one answer."""
_THUMBS = 40
"""Data that can be picked by their picture."""
_DATUM = ("index", "x", "class")
_WHERE = ("frame", "axes")


class Answers:
    """The answers about a model and data.

    Args:
        explored: the model and data.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> answers = Answers(Explored(VAE((4,), latent_dim=2), torch.ones(3, 4)))
        >>> sorted(answers("decode", {"places": [[0, 0]]}))
        ['x']
    """

    def __init__(self, explored: Explored) -> None:
        self.explored = explored
        of_points = {"codes": self._codes, "decode_codes": self._decode_codes}
        of_planes = {"plane": self._plane, "decode": self._decode, "datum": self._datum, "refine": self._refine}
        of_planes |= {"draws": self._draws, "restore": self._restore}
        self.questions: Mapping[str, Callable[[Any], dict[str, Any]]] = of_points if explored.discrete else of_planes

    @property
    def most_bytes(self) -> int:
        """The longest question: a datum, or codes, as text."""
        sizes = self.explored.vae.shapes
        return 65_536 + 32 * sizes.event_size + 32 * _MOST_CODES * sizes.latent

    @isolated
    def __call__(self, name: str, fields: Any) -> dict[str, Any]:
        """The answer to a question, as JSON can hold it.

        Args:
            name: of the question.
            fields: what it is about: plain data, from anyone.

        Raises:
            UsageError, DataError: if there is no such question, or a field is not as expected.
            NumericalError: if a result is not finite.
        """
        if name not in self.questions:
            raise UsageError(f"no such question: known are {', '.join(self.questions)}")
        return finite(self.questions[name](fields))

    @isolated
    def start(self) -> dict[str, Any]:
        """What the page begins with: names, sizes, how values are drawn, what can be asked."""
        explored, labels = self.explored, self.explored.labels
        found: dict[str, Any] = {
            "facts": dict(explored.facts),
            "view": view_of(explored),
            "num_data": len(explored),
            "labels": None if labels is None else labels.tolist(),
            "thumbs": self._thumbs(),
            "can": self._can(),
            "classes": explored.vae.classes,
            "num_particles": PARTICLES,
        }
        if explored.discrete:
            shapes: Any = explored.vae.shapes
            codes = {"shape": list(shapes.codes), "size": shapes.codebook_size}
            return finite({**found, "kind": "codes", "codes": codes})
        of_frames = {name: frame.plain() for name, frame in self.frames.items()}
        return finite({**found, "kind": "plane", "site": explored.site, "frames": of_frames})

    @cached_property
    def frames(self) -> Mapping[str, Frame]:
        """The frames by name."""
        return frames(self.explored)

    def _can(self) -> dict[str, bool]:
        explored = self.explored
        has_density = not explored.discrete and explored.has_elbo
        return {
            "grid": explored.single and explored.vae.shapes.latent == 2,
            "draws": has_density,
            "refine": has_density and explored.single and _is_reparameterised(explored),
            "restore": has_density,
            "mask": explored.has_masks,
            "layers": not explored.single and not explored.discrete,
        }

    def _thumbs(self) -> dict[str, Any]:
        rows = torch.linspace(0, len(self.explored) - 1, min(_THUMBS, len(self.explored))).round().long()
        return {"index": rows.tolist(), "x": packed(self.explored.x[rows.to(self.explored.x.device)])}

    def _plane(self, fields: Any) -> dict[str, Any]:
        request = Request(fields, ["index", *_WHERE])
        frame, axes = self._where(request)
        return plane_of(self.explored, frame, axes, self._given(request))

    def _decode(self, fields: Any) -> dict[str, Any]:
        request = Request(fields, ["index", "class", "frame", "places"])
        frame = frame_of(self.frames, request.choice("frame", FRAMES))
        places = request.rows("places", len(frame.names), _MOST_CODES)
        with evaluation_mode(self.explored.vae):
            return decoded(self.explored, frame.codes(places), self._given(request))

    def _datum(self, fields: Any) -> dict[str, Any]:
        request = Request(fields, [*_DATUM, *_WHERE])
        return datum_of(self.explored, self._given(request), *self._where(request))

    def _refine(self, fields: Any) -> dict[str, Any]:
        request = Request(fields, [*_DATUM, *_WHERE])
        return refined(self.explored, self._given(request), *self._where(request))

    def _draws(self, fields: Any) -> dict[str, Any]:
        request = Request(fields, [*_DATUM, *_WHERE])
        return weighed_draws(self.explored, self._given(request), *self._where(request))

    def _restore(self, fields: Any) -> dict[str, Any]:
        request = Request(fields, [*_DATUM, "flip", "better"])
        flip = request.number("flip", 0.0, 0.5, 0.0)
        return restored(self.explored, self._given(request), flip, request.truth("better"))

    def _codes(self, fields: Any) -> dict[str, Any]:
        return codes_of(self.explored, self._given(Request(fields, ["index", "x"])))

    def _decode_codes(self, fields: Any) -> dict[str, Any]:
        shapes: Any = self.explored.vae.shapes
        k = Request(fields, ["k"]).rows_of_wholes("k", prod(shapes.codes), _MOST_CODES, shapes.codebook_size)
        return decoded_codes(self.explored, k.reshape(-1, *shapes.codes))

    def _where(self, request: Request) -> tuple[Frame, tuple[int, int]]:
        """The frame and the axes of the plane."""
        frame = frame_of(self.frames, request.choice("frame", FRAMES))
        axes = [0, 1]
        if "axes" in request.fields:
            axes = request.wholes("axes", 2, len(frame.names))
        if axes[0] == axes[1] or (axes != [0, 1] and len(frame.names) == 2):
            raise UsageError(f"axes: expected two different coordinates, [0, 1] where there are no others, got {axes}")
        return frame, (axes[0], axes[1])

    def _given(self, request: Request) -> Datum:
        """The datum that a question is about: one of the data, or like it with the values `x`."""
        index = request.whole("index", 0, len(self.explored) - 1, 0)
        datum = self.explored.datum(index)
        if request.fields.get("x") is not None:
            shape = self.explored.vae.shapes.event
            datum = self.explored.like(index, request.numbers("x", prod(shape), gaps=True).reshape(shape))
        if request.fields.get("class") is None:
            return datum
        y = request.whole("class", 0, self.explored.vae.classes - 1)
        return replace(datum, inputs={**datum.inputs, "y": torch.tensor([y], device=datum.x.device)})


def _is_reparameterised(explored: Explored) -> bool:
    """Whether draws of the guide's family have gradients."""
    params: Tensor = explored.blank.expand(explored.vae.posterior.param_shape)
    return explored.vae.posterior.distribution(params).has_rsample
