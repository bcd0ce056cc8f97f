"""The likelihood regret: how much the ELBO gains if the guide is refined for the datum."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments.checked import checked
from pyro_vae.autoencoders import Autoencoder
from pyro_vae.compiling.backends import exact_products, fast_cpu
from pyro_vae.errors import UsageError
from pyro_vae.inference.best_member import Block, Family, Search, best_members, blocks
from pyro_vae.inference.programs import evaluation_mode
from pyro_vae.process.isolation import isolated
from pyro_vae.statistics.averages import Averaged, joined, of_draws
from pyro_vae.tasks.scores.results import Scores
from pyro_vae.tasks.scores.terms import inputs_of, refuse_points

SEARCH = Search(max_steps=500)
"""How the best member is looked for by default: long enough that most data of a small VAE have converged."""


@isolated
@checked
def regret(
    vae: Autoencoder,
    x: Tensor,
    *,
    num_particles: int = 200,
    search: Search = SEARCH,
    seed: int = 0,
    max_rows: int = 8192,
    progress: Callable[[int], object] | None = None,
    **inputs: Tensor,
) -> Scores:
    r"""The likelihood regret.

    .. math:: s(x) = \max_{q \in Q} L[q](x) - L[q(\cdot|x)](x)

    It is the amortisation gap: the model can explain the datum, but the encoder does not find how, since it was never
    trained on such data. Both ELBOs are estimated by the same draws, other than those by which q was chosen, so the
    estimate is at most too small.

    Args:
        vae: a `VAE`, or another `Autoencoder` with a `code_site`; left as it is.
        x: data `[N, *event]`.
        num_particles: draws for each ELBO, even, at least 4.
        search: how the best member is looked for.
        seed: seed of the draws.
        max_rows: the most (datum, draw) pairs in one run of the model, though never fewer than 50 data.
        progress: called with the number of data done so far.
        **inputs: `mask` and `c`, `[N, ...]`.

    Returns:
        `Scores`, nats; flagged where the search was cut off, so that the regret may be larger. No elements.

    Raises:
        UsageError: if an option is out of range, the model has no `code_site`, or its guide is not reparameterised or a
            point.

    References:
        Xiao, Yan & Amit 2020, Likelihood regret: an out-of-distribution detection score for variational autoencoders.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> regret(VAE((4,), 2), torch.ones(3, 4), search=Search(max_steps=50)).values.shape
        torch.Size([3])
    """
    given = {"x": x, **inputs_of(vae, x, inputs)}
    _check(vae, given, num_particles)
    with evaluation_mode(vae), fast_cpu(), exact_products():
        parts = []
        for block in blocks(vae, Family(vae, search.copies), given, search, seed, max_rows):
            parts.append(_of_block(block, search, num_particles))
            if progress is not None:
                progress(block.start + len(block.inputs["x"]))
    gains, unfinished = zip(*parts, strict=True)
    return Scores.of(joined(list(gains)), "regret", torch.cat(unfinished), num_particles=num_particles, seed=seed)


def _of_block(block: Block, search: Search, num_particles: int) -> tuple[Averaged, Tensor]:
    """The gain of each datum, and where the search was cut off."""
    refined = best_members(block, search)
    draws = [block.elbo_draws(own, num_particles, "fresh") for own in (refined.own, block.encoded())]
    return of_draws(draws[0] - draws[1]), ~refined.converged.cpu()


def _check(vae: Autoencoder, given: dict[str, Any], num_particles: int) -> None:
    if vae.code_site is None:
        raise UsageError(
            f"the regret refines what an encoder says of one code, which a VAE has and a {type(vae).__name__} has not: "
            "take another score"
        )
    if num_particles < 4 or num_particles % 2:
        raise UsageError(f"num_particles: draws come in pairs; expected an even number from 4, got {num_particles}")
    further = {name: value for name, value in given.items() if name != "x"}
    refuse_points(vae, given["x"], further, "the regret")
