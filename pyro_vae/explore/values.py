"""x and E[x|z] as the page shows them: an image, the row of a table, or a vector."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Independent

from pyro_vae.explore.plain import packed
from pyro_vae.explore.subject import Datum, Explored
from pyro_vae.inference.programs import sample_sites
from pyro_vae.process.seeding import seeded
from pyro_vae.tasks.generation import averages_of

_LAYER_DRAWS = 32
"""Draws of the other sites, where x depends on more than the code that is shown."""


def view_of(explored: Explored) -> dict[str, Any]:
    """How the values of x are drawn: `kind` is image | table | vector, with sizes, names and ranges."""
    event, x = explored.vae.shapes.event, explored.x
    seen = x[x.isfinite()]
    low, high = (0.0, 1.0) if seen.min() >= 0 and seen.max() <= 1 else (seen.min().item(), seen.max().item())
    support = explored.vae.likelihood.data_support
    common = {"event": list(event), "low": low, "high": high, "binary": support is constraints.boolean}
    if explored.table is not None:
        return {"kind": "table", "columns": _columns(explored), **common}
    return {**_image(event), **common}


def _image(event: tuple[int, ...]) -> dict[str, Any]:
    if len(event) == 2:
        return {"kind": "image", "height": event[0], "width": event[1], "channels": 1, "last": False}
    if len(event) == 3 and {event[0], event[-1]} & {1, 3}:
        last = event[0] not in (1, 3)
        channels, height, width = (event[2], *event[:2]) if last else event
        return {"kind": "image", "height": height, "width": width, "channels": channels, "last": last}
    return {"kind": "vector", "size": prod(event)}


def _columns(explored: Explored) -> list[dict[str, Any]]:
    assert explored.table is not None
    found = []
    for i, column in enumerate(explored.table.columns):
        seen = explored.x[:, i][explored.x[:, i].isfinite()]
        low, high = (seen.min().item(), seen.max().item()) if len(seen) else (0.0, 1.0)
        described = {"name": column.name, "kind": column.kind, "levels": list(column.levels)}
        found.append({**described, "low": low, "high": high})
    return found


def decoded(explored: Explored, z: Tensor, datum: Datum) -> dict[str, Any]:
    """What codes decode to, in evaluation mode.

    Args:
        explored: the model.
        z: codes, `[M, L]`.
        datum: whose context or class is given.

    Returns:
        `x`, E[x|z] or the most probable category, `[M, *event]`; of a table also `levels`, for each code the
        probability of each level of each column that has levels, by the column's position.
    """
    z = z.to(explored.blank)
    if explored.single:
        return shown(explored, [explored.vae.decode(z, None if datum.c is None else datum.c[0])], average=False)
    return shown(explored, [_given_code(explored, code, datum) for code in z], average=True)


def _given_code(explored: Explored, z: Tensor, datum: Datum) -> Any:
    """p(x|z, other sites) of one code, batch shape `[draws]`: the other sites are drawn, the same for every code."""
    blank = explored.blank.expand(_LAYER_DRAWS, *explored.vae.shapes.event)
    inputs = {name: v.expand(_LAYER_DRAWS, *v.shape[1:]) for name, v in datum.inputs.items() if name != "mask"}
    given: Any = {explored.site: z.expand(_LAYER_DRAWS, -1), **inputs}
    program: Any = poutine.condition(explored.vae.model, data=given)
    with seeded(0, "explore", "layers"):
        trace = poutine.trace(program).get_trace(blank, **inputs)
    return sample_sites(trace)["x"]["fn"]


def shown(explored: Explored, likelihoods: Sequence[Any], average: bool) -> dict[str, Any]:
    """The result of `decoded` for distributions p(x|z).

    Args:
        explored: the model.
        likelihoods: each of batch shape `[rows]`.
        average: whether the rows of each are averaged; else each is the likelihood of a code.
    """
    averages = [averages_of(explored.vae, one) for one in likelihoods]
    found = {"x": packed(explored.vae.likelihood.best(_joined(averages, average)))}
    if explored.table is None:
        return found
    shares = [_shares(explored, one) for one in likelihoods]
    levels = {str(i): _joined([of_one[i] for of_one in shares], average) for i in shares[0]}
    rows = len(next(iter(levels.values()), ()))
    return {**found, "levels": [{i: values[row].tolist() for i, values in levels.items()} for row in range(rows)]}


def _joined(parts: Sequence[Tensor], average: bool) -> Tensor:
    return torch.stack([part.mean(0) for part in parts]) if average else torch.cat(list(parts))


def _shares(explored: Explored, likelihood: Any) -> dict[int, Tensor]:
    """The probability of each level of each column that has levels, `[rows, levels]`, by the column's position."""
    elements = likelihood
    while isinstance(elements, Independent):
        elements = elements.base_dist
    assert explored.table is not None
    counts = {i: len(column.levels) for i, column in enumerate(explored.table.columns) if column.levels}
    value = torch.full_like(elements.mean, explored.vae.likelihood.placeholder)
    value = value.repeat(max(counts.values(), default=1), 1, 1)
    for i, count in counts.items():
        value[:, :, i] = torch.arange(len(value)).clamp(max=count - 1)[:, None]  # other columns may have more levels
    shares = elements.log_prob(value).exp()
    return {i: shares[:count, :, i].T for i, count in counts.items()}
