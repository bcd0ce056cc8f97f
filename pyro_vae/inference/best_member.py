"""The best member of a guide's family for each datum: its parameters climb the datum's own ELBO, the model frozen."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pyro_vae.arguments.values import plain_fields
from pyro_vae.errors import UsageError
from pyro_vae.inference.programs import owners
from pyro_vae.inference.tiles import TILE_DATA, padded
from pyro_vae.inference.weighing import weigh
from pyro_vae.messages import ByShapes
from pyro_vae.process.seeding import seeded
from pyro_vae.statistics.averages import of_draws

CHUNK = 16
"""Draws for each datum in one run of the model, where no gradient is taken."""


ROUND, _AVERAGED = 50, 25
"""Steps of a round, and those at its end whose mean is the round's candidate."""


_PATIENCE = 2
"""Rounds in a row without a gain, after which a datum's steps get shorter."""


_SHORTER = 1 / 3


_SHORTEST = 1 / 30
"""Of the first step: a datum whose steps would be shorter is done."""


_MEMORY, _MEMORY_OF_SQUARES = 0.9, 0.99
"""Of Adam. Squares are forgotten soon: the way from the encoder's output to the optimum is short."""


_WEIGHTS = 0.1
"""Steps of copied weights of a guide's networks, as a share of those of its parameters."""


_SPREAD = 0.5
"""Standard deviation of the noise that further starts have on their parameters."""


@dataclass(frozen=True)
@plain_fields
class Search:
    """How the best member of a family is looked for.

    Adam on each datum's own parameters, in rounds of 50 steps, each datum with its own step size. A round's
    candidate is the mean of the parameters over its last 25 steps; it takes the place of the best so far if its ELBO is
    higher on `selection` draws of common noise, which is new in every round, so that nothing is fitted to it. After 2
    rounds in a row that gain no more than `tolerance` and 2 standard errors, a datum goes back to its best and its
    steps are shortened to a third; it has converged when they would be shorter than a thirtieth of the first. Of a
    DiagonalNormal of 50 dimensions on binarised MNIST that took 520 steps on average, and a search with three times the
    draws and a third of the tolerance found 0.01 nats more.

    Args:
        lr: size of the first steps, above 0, in the units of the parameters.
        max_steps: the most steps of a start, at least 1; `converged` says which data ended earlier.
        particles: draws of z in the estimate of a gradient, even: they come in pairs of opposite noise.
        selection: draws by which a candidate is compared, even, at least 4.
        tolerance: nats that count as a gain, above 0.
        starts: at least 1: the first is the encoder's output, the others are it with normal noise (0.5) on it.
        copies: whether the guide's own weights, such as a flow's networks, are refined as well, each datum having a
            copy of them; else they stay what all data share. Guides of no weights have none.

    Raises:
        UsageError: if an option is out of range.
    """

    lr: float = 0.05
    max_steps: int = 2000
    particles: int = 16
    selection: int = 256
    tolerance: float = 0.01
    starts: int = 1
    copies: bool = False

    def __post_init__(self) -> None:
        if not self.lr > 0 or not self.tolerance > 0 or self.max_steps < 1 or self.starts < 1:
            raise UsageError(f"Search needs lr > 0, tolerance > 0, max_steps >= 1 and starts >= 1, got {self}")
        if self.particles < 2 or self.selection < 4 or self.particles % 2 or self.selection % 2:
            raise UsageError(f"Search: draws come in pairs; need particles >= 2 and selection >= 4, even, got {self}")


@dataclass(frozen=True, eq=False, repr=False)
class Refined(ByShapes):
    """Members of the guide's family, one for each datum.

    Args:
        params: what `guide.distribution` takes, `[N, *param_shape]`.
        weights: copies of the guide's own weights by name, `[N, *shape]`; empty where they are shared.
        converged: whether the search came to its end, `[N]` bool.
        steps: how many steps it took, over all starts, `[N]`.
    """

    params: Tensor
    weights: Mapping[str, Tensor]
    converged: Tensor
    steps: Tensor

    @property
    def own(self) -> Tensor:
        """The numbers of each datum, parameters and then copies of weights, as `Family.join` has them, `[N, size]`."""
        return torch.cat([self.params.flatten(1), *(w.flatten(1) for w in self.weights.values())], 1)


class Amortized(Protocol):
    """A model with one continuous code, and an encoder that gives the parameters of its guide: an `Autoencoder`."""

    posterior: Any
    """The family: its `param_shape` and `distribution(params)`, a `pyro_vae.guides.Guide`."""
    code_site: str | None

    def model(self, x: Tensor, **inputs: Any) -> Any:
        """The Pyro program of p(x, z)."""
        ...

    def guide_params(self, x: Tensor, mask: Tensor | None = None, c: Tensor | None = None) -> Tensor:
        """The parameters of q(z|x), `[N, *param_shape]`."""
        ...


class Family:
    """A guide's family as a function of each datum's own numbers, `[N, size]`: parameters, then copies of weights.

    Args:
        vae: whose guide it is.
        copies: whether the guide's weights are among the numbers.

    Raises:
        UsageError: if its draws are not reparameterised.
    """

    def __init__(self, vae: Amortized, copies: bool = False) -> None:
        self.guide = guide = vae.posterior
        weights = dict(guide.named_parameters()) if copies else {}
        self.weights = {name: weight.detach() for name, weight in weights.items()}
        self.sizes = [int(torch.Size(guide.param_shape).numel()), *(w.numel() for w in self.weights.values())]
        weight = next(iter(owners(vae.model)[0].parameters()))
        example: Any = guide.distribution(weight.new_zeros(guide.param_shape))
        if not example.has_rsample:
            raise UsageError(
                f"the draws of {type(guide).__name__} are not reparameterised: there is no gradient to climb, and the "
                "gaps need the best member of the guide's family"
            )
        self.noise_size: int | None = example.noise_size if hasattr(example, "from_noise") else None
        if self.weights and self.noise_size is None:
            raise UsageError(f"copies need a guide that returns a FromNoise, and {type(guide).__name__} does not")

    def join(self, params: Tensor) -> Tensor:
        """The numbers of data with these parameters `[N, *param_shape]` and the guide's weights, `[N, size]`."""
        own = [params.flatten(1), *(w.reshape(1, -1).expand(len(params), -1) for w in self.weights.values())]
        return torch.cat(own, 1)

    def split(self, own: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Parameters and copies of weights, with the leading dimensions of `own`."""
        params, *weights = own.split(self.sizes, -1)
        named = zip(self.weights.items(), weights, strict=True)
        leading = own.shape[:-1]
        copies = {name: copy.reshape(*leading, *weight.shape) for (name, weight), copy in named}
        return params.reshape(*leading, *self.guide.param_shape), copies

    def step_sizes(self, own: Tensor) -> Tensor:
        """How long a step of each number is, relative to a parameter's, `[size]`."""
        sizes = torch.full_like(own[0], _WEIGHTS)
        sizes[: self.sizes[0]] = 1.0
        return sizes

    def draw(self, own: Tensor, num: int, start: int, seed: int, *keys: object) -> tuple[Tensor, Tensor]:
        """`num` draws of each q and their log q, `[num, N, latent]` and `[num, N]`, differentiable.

        Noise is drawn in tiles of data, and is a function of `(start, seed, keys)`: the same calls compare members on
        the same noise. Where the family is a function of noise, draws come in pairs of opposite noise.

        Args:
            own: the numbers of each datum.
            num: how many draws, even.
            start: the position of the first datum in the whole set, a multiple of `TILE_DATA`.
            seed: of the draws.
            *keys: what they are for.
        """
        if self.noise_size is None:
            return self._draw_by_tiles(own, num, start, seed, *keys)
        noise = self._noise(own, (num, self.noise_size), start, seed, *keys)
        if self.weights:
            return self._draw_with_copies(own, noise)
        return _drawn(self.guide.distribution(self.split(own)[0]), noise)

    def _noise(self, own: Tensor, size: tuple[int, int], start: int, seed: int, *keys: object) -> Tensor:
        """Pairs e, -e, `[num, N, noise_size]` for the first and the last of these sizes."""
        tiles = []
        for first in range(start, start + len(own), TILE_DATA):
            with seeded(seed, "refining", *keys, first):
                half = torch.randn(size[0] // 2, TILE_DATA, size[1], dtype=own.dtype, device=own.device)
            tiles.append(torch.stack([half, -half], 1).flatten(0, 1))
        return torch.cat(tiles, 1)[:, : len(own)]

    def _draw_with_copies(self, own: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        module = _Drawing(self.guide)

        def one(own: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
            params, copies = self.split(own)
            replaced = {f"guide.{name}": copy for name, copy in copies.items()}
            return torch.func.functional_call(module, replaced, (params, noise))

        return torch.func.vmap(one, in_dims=(0, 1), out_dims=1)(own, noise)

    def _draw_by_tiles(self, own: Tensor, num: int, start: int, seed: int, *keys: object) -> tuple[Tensor, Tensor]:
        """For families that take no noise: tile by tile, padded, so that draws do not depend on other tiles."""
        tiles = []
        for first in range(0, len(own), TILE_DATA):
            (tile,) = padded([own[first : first + TILE_DATA]])
            q = self.guide.distribution(self.split(tile)[0])
            with seeded(seed, "refining", *keys, start + first):
                z = q.rsample(torch.Size((num,)))
            tiles.append((z, q.log_prob(z)))
        z, log_q = (torch.cat(parts, 1)[:, : len(own)] for parts in zip(*tiles, strict=True))
        return z, log_q


class _Drawing(nn.Module):
    """A guide's draw of one datum, as the module that `functional_call` wants."""

    def __init__(self, guide: Any) -> None:
        super().__init__()
        self.guide: Any = guide

    def forward(self, params: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return _drawn(self.guide.distribution(params), noise)


def _drawn(q: Any, noise: Tensor) -> tuple[Tensor, Tensor]:
    z = q.from_noise(noise)
    return z, q.log_prob(z)


class Block:
    """Some data, and their ELBO at any members of the family.

    Args:
        vae: the model; in evaluation mode, without gradients.
        family: of its guide.
        inputs: what the programs take, by name, `[n, ...]`, `x` among it.
        start: the position of the first datum in the whole set, a multiple of `TILE_DATA`.
        seed: of the draws.
    """

    def __init__(self, vae: Amortized, family: Family, inputs: Mapping[str, Any], start: int, seed: int) -> None:
        self.vae, self.family, self.inputs, self.start, self.seed = vae, family, dict(inputs), start, seed

    def encoded(self) -> Tensor:
        """The numbers of the guide's own q(z|x), `[n, size]`."""
        x, mask, c = (self.inputs.get(name) for name in ("x", "mask", "c"))
        assert x is not None
        return self.family.join(self.vae.guide_params(x, mask, c).detach())

    def log_weights(self, own: Tensor, num: int, *keys: object) -> Tensor:
        """Of `num` draws of each q, `[num, n]`, nats; their mean is an estimate of its ELBO."""
        z, log_q = self.family.draw(own, num, self.start, self.seed, *keys)
        assert self.vae.code_site is not None  # checked by the callers
        log_likelihood, log_prior = weigh(self.vae.model, {self.vae.code_site: z}, **self.inputs)
        return log_likelihood + log_prior - log_q

    def elbo_draws(self, own: Tensor, num: int, *keys: object) -> Tensor:
        """Independent estimates of the ELBO, means of two draws each, `[num / 2, n]`, nats, double precision."""
        chunks = [
            self.log_weights(own, min(CHUNK, num - first), *keys, first).double() for first in range(0, num, CHUNK)
        ]
        return torch.cat(chunks).unflatten(0, (-1, 2)).mean(1)

    def gradient(self, own: Tensor, num: int, *keys: object) -> Tensor:
        """Of an estimate of each datum's ELBO in its numbers, `[n, size]`; 0 where it is not finite."""
        with torch.enable_grad():
            own = own.detach().requires_grad_()
            total = self.log_weights(own, num, *keys).mean(0).sum()
            (gradient,) = torch.autograd.grad(total, own)
        return torch.where(gradient.isfinite(), gradient, 0.0)


def blocks(
    vae: Amortized, family: Family, inputs: Mapping[str, Any], search: Search, seed: int, max_rows: int
) -> Iterator[Block]:
    """The data in blocks, each refined at once.

    Args:
        vae: the model; in evaluation mode, without gradients.
        family: of its guide.
        inputs: what the programs take, by name, `[N, ...]`, `x` among it.
        search: how members are looked for.
        seed: of the draws.
        max_rows: the most (datum, draw) pairs in one run of the model, though never fewer than 50 data.
    """
    size = max(1, max_rows // search.particles // TILE_DATA) * TILE_DATA
    for start in range(0, len(inputs["x"]), size):
        yield Block(vae, family, {name: v[start : start + size] for name, v in inputs.items()}, start, seed)


def best_members(block: Block, search: Search, progress: Callable[[int], object] | None = None) -> Refined:
    """Look for the member of the family with the highest ELBO for each datum, from the encoder's output on.

    A function of each datum, `search` and the block's seed. No weight of the VAE is moved or gets a gradient. The draws
    by which members are chosen are optimistic for what was chosen: estimate its ELBO on others.

    Args:
        block: the data.
        search: how.
        progress: called with how many of the data are done, in the last start.

    Returns:
        A `Refined`.
    """
    encoded, climbs = block.encoded(), []
    for number in range(search.starts):
        climb = _Climb(block, _moved(encoded, number, block), search, number)
        climb.run(progress if number == search.starts - 1 else None)
        climbs.append(climb)
    chosen, every = _chosen(climbs), torch.arange(len(encoded), device=encoded.device)
    own, converged = (torch.stack([getattr(c, name) for c in climbs])[chosen, every] for name in ("best", "converged"))
    params, weights = block.family.split(own)
    return Refined(params, weights, converged, torch.stack([climb.steps for climb in climbs]).sum(0))


def _chosen(climbs: "list[_Climb]") -> Tensor:
    """Which start led highest, `[n]`."""
    block, num = climbs[0].block, climbs[0].search.selection
    if len(climbs) == 1:
        return torch.zeros(len(climbs[0].best), dtype=torch.long, device=climbs[0].best.device)
    values = torch.stack([block.elbo_draws(climb.best, num, "choice").mean(0) for climb in climbs])
    return values.nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf).argmax(0)


def _moved(encoded: Tensor, number: int, block: Block) -> Tensor:
    """A start: the encoder's output, or that with noise on the parameters; copied weights start as they are."""
    if number == 0:
        return encoded
    moved, size = encoded.clone(), block.family.sizes[0]
    for first in range(0, len(encoded), TILE_DATA):
        with seeded(block.seed, "refining", "start", number, block.start + first):
            noise = torch.randn(TILE_DATA, size, dtype=encoded.dtype, device=encoded.device)
        moved[first : first + TILE_DATA, :size] += _SPREAD * noise[: len(encoded) - first]
    return moved


class _Climb:
    """One search from one start, for all data of a block at once.

    Args:
        block: the data.
        start: where each datum starts, `[n, size]`.
        search: how.
        number: which start it is, for the noise.
    """

    def __init__(self, block: Block, start: Tensor, search: Search, number: int) -> None:
        self.block, self.search, self.number = block, search, number
        self.own, self.best = start.clone(), start.clone()
        self.lr = torch.full_like(start[:, :1], search.lr)
        self.scale = block.family.step_sizes(start)
        self.waited, self.steps = torch.zeros(2, len(start), dtype=torch.long, device=start.device).unbind(0)
        self.first, self.second = torch.zeros(2, *start.shape, dtype=start.dtype, device=start.device)

    @property
    def converged(self) -> Tensor:
        """Which data are done, `[n]`."""
        return self.lr.squeeze(-1) == 0

    def run(self, progress: Callable[[int], object] | None) -> None:
        """Climb until all are done, or the steps are used up."""
        for first in range(0, self.search.max_steps, ROUND):
            self._compare(self._round(first, min(first + ROUND, self.search.max_steps)), first)
            if progress is not None:
                progress(int(self.converged.sum()))
            if self.converged.all():
                return

    def _round(self, first: int, end: int) -> Tensor:
        """Steps, and the mean of the last of them."""
        averaged = min(_AVERAGED, end - first)
        total = torch.zeros_like(self.own)
        for step in range(first, end):
            self._step(step + 1)
            if step >= end - averaged:
                total = total + self.own
        self.steps = self.steps + (end - first) * ~self.converged
        return total / averaged

    def _step(self, step: int) -> None:
        """One of Adam's, upwards."""
        gradient = self.block.gradient(self.own, self.search.particles, "step", self.number, step)
        self.first = _MEMORY * self.first + (1 - _MEMORY) * gradient
        self.second = _MEMORY_OF_SQUARES * self.second + (1 - _MEMORY_OF_SQUARES) * gradient.square()
        direction = self.first / (1 - _MEMORY**step)
        usual = (self.second / (1 - _MEMORY_OF_SQUARES**step)).sqrt() + 1e-8
        self.own = self.own + self.lr * self.scale * direction / usual

    def _compare(self, candidate: Tensor, first: int) -> None:
        """Take the candidate where it is better; shorten the steps of the data that no longer gain."""
        keys = self.search.selection, "selection", self.number, first
        gain = of_draws(self.block.elbo_draws(candidate, *keys) - self.block.elbo_draws(self.best, *keys))
        mean, error = (a.to(self.own.device) for a in (gain.values, gain.standard_errors.nan_to_num(nan=0.0)))
        self.best = _where((mean > 0) & ~self.converged, candidate, self.best)
        gained = mean > torch.maximum(2 * error, torch.full_like(error, self.search.tolerance))
        self.waited = torch.where(gained, 0, self.waited + 1)
        stuck = self.waited >= _PATIENCE
        self.waited = torch.where(stuck, 0, self.waited)
        self.own, self.first = _where(stuck, self.best, self.own), _where(stuck, 0.0, self.first)
        self.lr = _where(stuck, self.lr * _SHORTER, self.lr)
        self.lr = torch.where(self.lr < self.search.lr * _SHORTEST, 0.0, self.lr)


def _where(which: Tensor, a: Tensor | float, b: Tensor) -> Tensor:
    """Rows of `a` where `which`, `[n]`, else of `b`."""
    return torch.where(which.unsqueeze(-1), a, b)
