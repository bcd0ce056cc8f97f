"""Metropolis-within-Gibbs over codes and data, where there is no exact p(y|z)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.channels import Jointly, log_terms
from pyro_vae.inference.hamiltonian import LEAST_ESS, MOST_R_HAT
from pyro_vae.inference.programs import evaluation_mode
from pyro_vae.inference.weighing import log_density, sites_at
from pyro_vae.process.seeding import seeded
from pyro_vae.statistics.convergence import bulk_ess, r_hat
from pyro_vae.tasks.chains import Chains

_STARTS = 50
"""Draws of x of which each element of each chain starts at one, chosen by p(y|x)."""


@dataclass(eq=False)
class _State:
    """Of all chains of all data side by side, `[chains * N, ...]`; latents `[1, chains * N, ...]`."""

    x: Tensor
    latents: dict[str, Tensor]


def metropolis_within_gibbs(
    pair: Jointly,
    y: Tensor,
    inputs: Mapping[str, Any],
    num_draws: int,
    num_chains: int,
    num_warmup: int,
    length: int,
    seed: int,
    tell: Callable[[float], object],
) -> Chains:
    r"""Draw codes given data and data given codes in turn, each corrected by its acceptance.

    .. math:: z' \sim q(z|x) \text{ with } \frac{p(x, z') \, q(z|x)}{p(x, z) \, q(z'|x)}, \qquad
        x'_d \sim p(x_d|z) \text{ with } \frac{p(y_d|x'_d)}{p(y_d|x_d)}

    The encoder meets complete data, as in training. Elements of x given z and y are independent, so each is accepted or
    rejected by itself; what was not observed is always accepted. Health is judged by R-hat and effective size of the
    codes, log p(y|x), log p(x|z) and the mean of x.

    Args:
        pair: the pair, with x as a latent site.
        y: `[N, *observed]`.
        inputs: further inputs of the programs, `[N, ...]`.
        num_draws: draws to return.
        num_chains: chains of each datum.
        num_warmup: rounds of each chain before those that count.
        length: rounds of each chain that count.
        seed: seed of the draws.
        tell: called with the share of the rounds done.

    References:
        Mattei & Frellsen 2018, Leveraging the exact likelihood of deep latent variable models, section 3.3.
    """
    num_data, wanted = len(y), _kept(num_draws, num_chains, length)
    rows = {name: v if len(v) == 1 else v.repeat(num_chains, *[1] * (v.dim() - 1)) for name, v in inputs.items()}
    wide, kept, followed = y.repeat(num_chains, *[1] * (y.dim() - 1)), [], []
    with evaluation_mode(pair.through.pair), torch.no_grad(), seeded(seed, "gibbs"):
        state = _started(pair, wide, rows)
        for done in range(num_warmup + length):
            quantities = _round(pair, wide, state, rows)
            tell((done + 1) / (num_warmup + length))
            if done >= num_warmup:
                followed.append(quantities.cpu())
                if done - num_warmup in wanted:
                    kept.append({"x": state.x.cpu(), **{n: v[0].cpu() for n, v in state.latents.items()}})
    return _gathered(kept, torch.stack(followed).unflatten(1, (num_chains, num_data)), num_draws)


def _kept(num_draws: int, num_chains: int, length: int) -> set[int]:
    """The rounds whose draws are returned, evenly spaced."""
    each = -(-num_draws // num_chains)
    return {(i + 1) * length // each - 1 for i in range(each)}


def _started(pair: Jointly, y: Tensor, inputs: Mapping[str, Any]) -> _State:
    """Codes of the fill-in's posterior; each element of x from some draws given them, in proportion to p(y|x)."""
    filled, _ = pair.channel.fill_in(y.to(pair.through.example()), pair.event_shape)
    latents = dict(pair.propose(filled, **inputs).latents)
    x = pair.of_x(filled, latents, **inputs)["x"]["fn"].sample(torch.Size((_STARTS,))).reshape(_STARTS, *filled.shape)
    log_p = log_terms(pair.channel, y.to(x), x).clamp(min=-1e30)
    chosen = torch.distributions.Categorical(logits=log_p.movedim(0, -1), validate_args=False).sample()
    return _State(x.gather(0, chosen[None]).squeeze(0), latents)


def _round(pair: Jointly, y: Tensor, state: _State, inputs: Mapping[str, Any]) -> Tensor:
    """One move of the codes and one of x; returns what is followed, `[chains * N, quantities]`."""
    _move_codes(pair, state, inputs)
    elements = pair.of_x(state.x, state.latents, **inputs)["x"]["fn"]
    _move_x(pair, y.to(state.x), state, elements.sample().reshape(state.x.shape))
    terms = log_terms(pair.channel, y.to(state.x), state.x).flatten(1).sum(1)
    codes = torch.cat([v[0].flatten(1).double() for v in state.latents.values()], 1)
    others = [terms, elements.log_prob(state.x).reshape(-1), state.x.flatten(1).mean(1)]
    return torch.cat([codes, torch.stack(others, 1).double()], 1)


def _move_codes(pair: Jointly, state: _State, inputs: Mapping[str, Any]) -> None:
    drawn = pair.propose(state.x, **inputs)
    old, new = (log_density(pair.of_x(state.x, z, **inputs).values()) for z in (state.latents, drawn.latents))
    guide = sites_at(pair.through.pair.guide, state.latents, state.x, role="guide", **inputs)
    log_ratio = (new - drawn.log_guide) - (old - log_density(guide.values()))
    taken = _accepted(log_ratio)[0]
    for name, value in drawn.latents.items():
        state.latents[name] = torch.where(_like(taken, value[0]), value, state.latents[name])


def _move_x(pair: Jointly, y: Tensor, state: _State, proposed: Tensor) -> None:
    before, after = (log_terms(pair.channel, y, x) for x in (state.x, proposed))
    state.x = torch.where(_accepted(after - before), proposed, state.x)


def _accepted(log_ratio: Tensor) -> Tensor:
    """Whether moves are taken; from a state of no probability (where the ratio is no number) always."""
    return torch.rand_like(log_ratio).log() < log_ratio.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)


def _like(taken: Tensor, value: Tensor) -> Tensor:
    return taken.reshape(-1, *[1] * (value.dim() - 1))


def _gathered(kept: list[dict[str, Any]], followed: Tensor, num_draws: int) -> Chains:
    """Draws `[num_draws, N, ...]`, and health from `[rounds, chains, N, quantities]`."""
    chains, num_data = followed.shape[1:3]
    stacked = {name: torch.stack([draw[name] for draw in kept]) for name in kept[0]}
    latents = {name: v.unflatten(1, (chains, num_data)).flatten(0, 1)[:num_draws] for name, v in stacked.items()}
    moving = followed.permute(2, 3, 1, 0).numpy()
    hats, sizes = torch.from_numpy(r_hat(moving)), torch.from_numpy(bulk_ess(moving))
    still = torch.from_numpy(moving.std((-1, -2)) == 0)  # log p(y|x) of a channel without noise, for one
    unmixed, short = hats > MOST_R_HAT, sizes < LEAST_ESS * chains
    bad = torch.where(still, False, unmixed | short | hats.isnan()).any(1)
    return Chains(latents, sizes.nan_to_num(nan=torch.inf).amin(1), bad)
