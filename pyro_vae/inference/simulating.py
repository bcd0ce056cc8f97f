"""Codes and data drawn from a model, by running the program without its observations."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Unit
from torch import Tensor

from pyro_vae.errors import NumericalError, UsageError
from pyro_vae.inference.programs import Program, evaluation_mode, sample_sites
from pyro_vae.inference.tiles import TILE_DATA, cut, padded
from pyro_vae.messages import ByShapes
from pyro_vae.process.isolation import isolated
from pyro_vae.process.pyro_internals import is_deterministic
from pyro_vae.process.seeding import seeded

ToX = Callable[[Mapping[str, Tensor]], Tensor]
"""Maps the draws of the observed sites, by name, to the data that the programs are called with."""


@dataclass(frozen=True, eq=False, repr=False)
class Simulated(ByShapes):
    """Codes and data drawn from a model, one of each for every row that it was called with.

    Args:
        latents: z ~ p(z), `[1, N, *event]` by site name, in the order in which the model draws them.
        x: x ~ p(x|z), `[N, *event]`.
        args: the further positional arguments, unchanged.
        inputs: the keyword arguments; those that are observed sites of the model are drawn too.
    """

    latents: Mapping[str, Tensor]
    x: Tensor
    args: Sequence[Tensor]
    inputs: Mapping[str, Tensor]


@isolated
def simulate(
    model: Program,
    x: Tensor,
    *args: Tensor,
    seed: int = 0,
    max_plate_nesting: int = 1,
    to_x: ToX | None = None,
    **inputs: Tensor,
) -> Simulated:
    r"""Draw a code and a datum from the model for each row of `x`.

    .. math:: z \sim p(z|c), \qquad x \sim p(x|z, c)

    The draws depend on `seed` and on the position of the row. Runs in evaluation mode; the caller's generators do not
    change.

    Args:
        model: Pyro program of p(x, z), with one data plate.
        x: data of the right shape, `[N, *event]`; their values are not used.
        *args: further tensors of the program, with the data in front.
        seed: seed of the draws.
        max_plate_nesting: number of plate dimensions the program uses.
        to_x: computes x from the draws of the observed sites (`[N, *event]` by name); None if one of them is x.
        **inputs: keyword arguments of the program, e.g. `c`. One that is named as an observed site is drawn.

    Returns:
        The draws, on the device of `x`.

    Raises:
        UsageError: if the observed sites do not match the arguments of the program, and there is no `to_x`.
        NumericalError: if a draw is not finite.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> drawn = simulate(VAE((4,), latent_dim=2).model, torch.zeros(3, 4))
        >>> drawn.x.shape, drawn.latents["z"].shape
        (torch.Size([3, 4]), torch.Size([1, 3, 2]))
    """
    blocks = [
        simulate_block(model, x, args, inputs, start, seed, max_plate_nesting, to_x)
        for start in range(0, len(x), TILE_DATA)
    ]
    names = blocks[0].latents
    return Simulated(
        {name: torch.cat([block.latents[name] for block in blocks], max_plate_nesting) for name in names},
        torch.cat([block.x for block in blocks]),
        args,
        {name: torch.cat([block.inputs[name] for block in blocks]) for name in inputs},
    )


def simulate_block(
    model: Program,
    x: Tensor,
    args: Sequence[Tensor],
    inputs: Mapping[str, Tensor],
    start: int,
    seed: int,
    nesting: int = 1,
    to_x: ToX | None = None,
) -> Simulated:
    """`simulate` for one block of rows, from `start` on; same arguments."""
    rows = slice(start, start + TILE_DATA)
    given = [a[rows] for a in (x, *args, *inputs.values())]
    first, *others = padded(given)
    named: dict[str, Any] = dict(zip(inputs, others[len(args) :], strict=True))
    with evaluation_mode(model), seeded(seed, "simulate", start):
        latents, observed = draw(model, first, *others[: len(args)], max_plate_nesting=nesting, **named)
    size = len(given[0])
    drawn, named = as_data(observed, first, named, nesting, to_x)
    kept = {name: value[:size] for name, value in named.items()}
    return Simulated(cut(latents, 1, size, nesting), drawn[:size], [a[rows] for a in args], kept)


def draw(
    model: Program,
    *args: Any,
    latents: Mapping[str, Tensor] | None = None,
    num_particles: int = 1,
    max_plate_nesting: int = 1,
    **inputs: Any,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Run a model and draw its observed sites too.

    Args:
        model: Pyro program of p(x, z).
        *args: positional arguments of the program.
        latents: codes by site, `[num_particles, N, *event]`; None to draw them from p(z).
        num_particles: draws for each datum.
        max_plate_nesting: number of plate dimensions the program uses.
        **inputs: keyword arguments of the program.

    Returns:
        The draws of the latent sites and those of the observed sites, `[num_particles, N, *event]` by name.

    Raises:
        UsageError: if the model has a factor, or no observed site.
        NumericalError: if a draw is not finite.
    """
    program = poutine.uncondition(model)
    program = program if latents is None else poutine.condition(program, data=dict(latents))
    with pyro.plate("particles", num_particles, dim=-1 - max_plate_nesting):
        sites = sample_sites(poutine.trace(program).get_trace(*args, **inputs))
    observed = {name: site for name, site in sites.items() if _was_observed(site)}
    for name, site in observed.items():
        if isinstance(site["fn"], Unit):
            raise UsageError(f"the model has a factor {name!r}: nothing can be drawn from a weight, write it as sites")
    if not observed:
        raise UsageError("the model has no observed site, so there are no data to draw: observe them by `obs=x`")
    values = {name: _finite(name, site["value"]) for name, site in sites.items()}
    drawn = {name: value for name, value in values.items() if not (name in observed or is_deterministic(sites[name]))}
    return drawn, {name: values[name] for name in observed}


def as_data(
    observed: Mapping[str, Tensor],
    x: Tensor,
    inputs: Mapping[str, Tensor],
    nesting: int = 1,
    to_x: ToX | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The arguments of the programs, from one particle of the observed sites' draws.

    Args:
        observed: draws by site, `[1, N, *event]`.
        x: the data that the model was called with.
        inputs: its keyword arguments.
        nesting: number of plate dimensions the program uses.
        to_x: as for `simulate`.

    Raises:
        UsageError: as `simulate`.
    """
    single = {name: _without_plates(value[0], nesting) for name, value in observed.items()}
    if to_x is not None:
        return _like(to_x(single), x), dict(inputs)
    main = "x" if "x" in single else next(iter(single))
    shapes = {name: (x if name == main else inputs.get(name)) for name in single}
    for name, template in shapes.items():
        if template is None or template.shape != single[name].shape:
            raise UsageError(
                f"the observed site {name!r} is drawn as {list(single[name].shape)}, and the programs take "
                f"{'no such input' if template is None else list(template.shape)}: say by to_x= how to make x of the "
                "observed sites' draws"
            )
    others = {name: _like(single[name], value) for name, value in inputs.items() if name in single}
    return _like(single[main], x), {**inputs, **others}


def _like(drawn: Tensor, given: Tensor) -> Tensor:
    """Draws on the device of `given`; converted to its dtype if that is an integer type."""
    return drawn.to(given.device) if given.is_floating_point() else drawn.to(given)


def _without_plates(value: Tensor, nesting: int) -> Tensor:
    """Drop the dimensions of inner plates that the site is not in."""
    for _ in range(nesting - 1):
        value = value[0] if value.shape[0] == 1 else value
    return value


def _was_observed(site: Mapping[str, Any]) -> bool:
    return bool(site["infer"].get("was_observed")) and not is_deterministic(site)


def _finite(name: str, value: Tensor) -> Tensor:
    if not value.isfinite().all():
        raise NumericalError(f"a draw of site {name!r} of the model is not finite: look at the decoder and the prior")
    return value
