"""Discrete codes: the code of a datum, and what codes decode to."""

from typing import Any

from torch import Tensor

from pyro_vae.evidence.elbo import bound
from pyro_vae.explore.plain import packed
from pyro_vae.explore.subject import Datum, Explored
from pyro_vae.explore.values import shown
from pyro_vae.inference.programs import evaluation_mode


def codes_of(explored: Explored, datum: Datum) -> dict[str, Any]:
    """The code of a datum, `k` as a flat list, its reconstruction, and the bound in its two terms, nats."""
    vae = explored.vae
    with evaluation_mode(vae):
        k = vae.encode(datum.x, datum.mask).sample()
        reconstruction = shown(explored, [vae.decode(k)], average=False)
    found = bound(vae.model, vae.guide, datum.x, **datum.inputs)
    terms = {name: getattr(found, name).item() for name in ("elbo", "reconstruction", "kl")}
    mask = None if datum.mask is None else packed(datum.mask.expand_as(datum.x)[0].float())
    numbers = {"x": packed(datum.x[0]), "mask": mask, "numbers": terms}
    return {"k": k.flatten().tolist(), "reconstruction": reconstruction, **numbers}


def decoded_codes(explored: Explored, k: Tensor) -> dict[str, Any]:
    """What codes `[M, *codes]` decode to, as `values.decoded`."""
    with evaluation_mode(explored.vae):
        return shown(explored, [explored.vae.decode(k.to(explored.blank.device))], average=False)
