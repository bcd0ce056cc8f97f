"""Codes that a model draws, beside a guide's draws for the data that were drawn with them.

If q(z|x) = p(z|x), the true code and the L draws are L + 1 independent draws from one distribution, given x. All checks
of calibration on simulated data test a consequence of this.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pyro_vae.compiling.backends import exact_products, fast_cpu
from pyro_vae.compiling.memory import remembering
from pyro_vae.errors import UsageError
from pyro_vae.inference.pairs import EagerPair
from pyro_vae.inference.programs import Called, Program, evaluation_mode
from pyro_vae.inference.simulating import Simulated, ToX, simulate_block
from pyro_vae.inference.sites import element_names, flattened, is_discrete
from pyro_vae.inference.tiles import TILE_DATA, draws
from pyro_vae.inference.weighing import log_density, refuse_point_masses, sites_at
from pyro_vae.messages import ByShapes
from pyro_vae.process.seeding import derive_seed, seeded

STREAM = "calibration"
"""Names the random streams of the guide's draws: all checks of one seed see the same ones."""


@dataclass(frozen=True, eq=False, repr=False)
class Codes(ByShapes):
    """The true codes of some simulated data, and a guide's draws for them; double precision, on the CPU.

    Args:
        truth: z*, all latent sites as one vector, `[n, size]`.
        log_truth: log q(z*|x), `[n]`, nats.
        draws: z_l ~ q(z|x), `[L, n, size]`.
        log_draws: log q(z_l|x), `[L, n]`, nats.
    """

    truth: Tensor
    log_truth: Tensor
    draws: Tensor
    log_draws: Tensor

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the L + 1 codes, `[n, size]` each.

        They stay the same if the truth is exchanged with a draw, so what is measured in these units keeps its
        distribution. A standard deviation of 0 is given as 1.
        """
        return moments(torch.cat([self.truth[None], self.draws]))


def moments(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the first dimension, with 1 in place of a standard deviation of 0."""
    deviation = codes.std(0)
    return codes.mean(0), torch.where(deviation > 0, deviation, 1.0)


@dataclass(frozen=True, eq=False)
class Simulation:
    """What is drawn from a (model, guide) pair, in blocks of 50 data; use it inside `running`.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z|x).
        x: data of the right shape, `[N, *event]`; N data are simulated.
        args: further positional tensors of both programs, with the data in front.
        inputs: further tensors by name.
        seed: seed of all draws.
        max_rows: maximum number of (datum, draw) pairs in one run of the model.
        nesting: number of plate dimensions the programs use.
        to_x: computes x from the draws of the observed sites; see `simulate`.
    """

    model: Program
    guide: Program
    x: Tensor
    args: Sequence[Tensor] = ()
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    seed: int = 0
    max_rows: int = 4096
    nesting: int = 1
    to_x: ToX | None = None

    def of(self, num: int, *keys: object) -> "Simulation":
        """The same for `num` data, with the given rows repeated from the start, and a stream named by `keys`."""
        inputs = {name: _repeated(value, num) for name, value in self.inputs.items()}
        args = [_repeated(value, num) for value in self.args]
        return replace(self, x=_repeated(self.x, num), args=args, inputs=inputs, seed=derive_seed(self.seed, *keys))

    @property
    def pair(self) -> EagerPair:
        """The programs, called with lists of tensors."""
        names = list(self.inputs)
        return EagerPair(Called(self.model, names), Called(self.guide, names), self.max_rows, self.nesting)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Evaluation mode, without gradients. A guide with a point mass is refused."""
        with evaluation_mode(self.model, self.guide), fast_cpu(), exact_products(), remembering():
            with seeded(self.seed, "structure"):
                first = [a[:1] for a in (self.x, *self.args, *self.inputs.values())]
                refuse_point_masses(self.pair.guide, *first, max_plate_nesting=self.nesting)
            yield

    def blocks(self) -> Iterator[tuple[int, Simulated]]:
        """The position of each block's first datum, and its codes and data."""
        given = (self.x, self.args, self.inputs)
        for start in range(0, len(self.x), TILE_DATA):
            yield start, simulate_block(self.model, *given, start, self.seed, self.nesting, self.to_x)

    def codes(self, start: int, simulated: Simulated, num_draws: int) -> Codes:
        """The true codes and `num_draws` draws of the guide, of one block."""
        data, nesting = data_of(simulated), self.nesting
        latents = simulated.latents
        sites = sites_at(self.pair.guide, latents, *data, max_plate_nesting=nesting, role="guide")
        log_truth = log_density(sites.values(), nesting)[0]
        drawn, log_draws = self.flat_draws(start, data, list(latents), num_draws)
        return Codes(_double(flattened(latents, latents, nesting))[0], _double(log_truth), drawn, log_draws)

    def check_continuous(self, simulated: Simulated) -> None:
        """Refuse discrete sites, of which there are no intervals and no distances.

        Raises:
            UsageError: with the site.
        """
        nesting, data = self.nesting, data_of(simulated)
        sites = sites_at(self.pair.guide, simulated.latents, *data, max_plate_nesting=nesting, role="guide")
        if found := [name for name, site in sites.items() if is_discrete(site["fn"])]:
            raise UsageError(
                f"latent site {found[0]!r} is discrete, and credible sets by distance are of continuous codes: "
                "local_c2st and expected_coverage take discrete sites"
            )

    def flat_draws(self, start: int, data: Sequence[Tensor], order: Sequence[str], num: int) -> tuple[Tensor, Tensor]:
        """Draws of the guide for any block of data, `[num, n, size]`, and log q(z|x), `[num, n]`.

        Args:
            start: the position of the first datum, which names the random streams.
            data: x and the other tensors of the programs, at most 50 of each.
            order: names of the sites in the model's order.
            num: draws for each datum.
        """
        tiles = draws(self.pair, data, start, num, self.seed, self.nesting, STREAM)
        parts = [(_double(flattened(latents, order, self.nesting)), _double(log_q)) for latents, log_q in tiles]
        codes, log_guide = zip(*parts, strict=True)
        return torch.cat(codes), torch.cat(log_guide)

    def element_names(self, simulated: Simulated) -> tuple[str, ...]:
        """The names of the columns of the codes: `"z[0]"`, `"z[1]"`, ..."""
        return tuple(element_names(simulated.latents, simulated.latents, self.nesting))


def data_of(simulated: Simulated) -> list[Tensor]:
    """The tensors that the programs are called with."""
    return [simulated.x, *simulated.args, *simulated.inputs.values()]


def observed(x: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    """The data as vectors, `[n, elements]`, with 0 where `mask` says that nothing was observed.

    A check may only use what the guide was given: the true code is not independent of the other elements.
    """
    mask = inputs.get("mask")
    return _double((x if mask is None else torch.where(mask.to(x.device), x, 0.0)).flatten(1))


def _repeated(value: Tensor, num: int) -> Tensor:
    return value[torch.arange(num, device=value.device) % len(value)]


def _double(values: Tensor) -> Tensor:
    return values.double().cpu()
