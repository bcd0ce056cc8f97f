"""What a report is about, and what a section of it returns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from pyro_vae.autoencoders import Autoencoder
from pyro_vae.evidence import Evidence, log_marginal
from pyro_vae.evidence.annealing_results import Annealing
from pyro_vae.inference.hamiltonian import HMC
from pyro_vae.report.html import Section

MUCH = 0.1
"""Nats per datum from which on a cost is worth a training or a warning; nats do not depend on the unit of the data."""


Progress = Callable[[str, float, float], object]
"""Called with a section's name, how much is done, and the total."""


@dataclass(frozen=True)
class Given:
    """Data with the programs' other inputs.

    Args:
        x: data `[N, *event]`.
        inputs: by name, `[N, ...]`.
    """

    x: Tensor
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def first(self, num: int) -> "Given":
        """The first `num` data."""
        return Given(self.x[:num], {name: value[:num] for name, value in self.inputs.items()})

    def repeated(self, num: int) -> "Given":
        """`num` data; if there are fewer, they are repeated from the start."""
        rows = [i % len(self.x) for i in range(num)]
        return Given(self.x[rows], {name: value[rows] for name, value in self.inputs.items()})


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much work each section does.

    Args:
        num_particles: K of importance sampling.
        num_bracketed: data whose log p(x) is bracketed, and number of simulated ones.
        num_gaps: data whose inference gaps are measured, of each split.
        num_simulated: data for calibration, and for comparing data with the model.
        num_compared: data whose codes are compared with HMC's.
        num_replicated: data sets drawn for the predictive check.
        annealing: how to anneal.
        hmc: settings of the chains that the guide is compared with.
    """

    num_particles: int = 5000
    num_bracketed: int = 50
    num_gaps: int = 100
    num_simulated: int = 500
    num_compared: int = 20
    num_replicated: int = 400
    annealing: Annealing = field(default_factory=Annealing)
    hmc: HMC = field(default_factory=lambda: HMC(num_warmup=200))


@dataclass(frozen=True, eq=False)
class Subject:
    """What is diagnosed.

    Args:
        vae: the VAE, or any other `Autoencoder`; left as it is.
        held_out: data that it has not seen.
        train: some of its training data; None to leave them out.
        sizes: how much work.
        seed: of all draws.
        progress: called now and then.
    """

    vae: Autoencoder
    held_out: Given
    train: Given | None = None
    sizes: Sizes = field(default_factory=Sizes)
    seed: int = 0
    progress: Progress = lambda name, done, total: None

    @cached_property
    def evidence(self) -> Evidence:
        """Log p(x) of the held-out data by importance sampling."""
        return self.importance_sampled(self.held_out, "evidence")

    def importance_sampled(self, data: Given, name: str) -> Evidence:
        """Log p(x) of any data, likewise."""
        tell = self.teller(name, len(data.x))
        return log_marginal(
            self.vae.model,
            self.vae.guide,
            data.x,
            num_particles=self.sizes.num_particles,
            seed=self.seed,
            progress=tell,
            **data.inputs,
        )

    def teller(self, name: str, total: float) -> Callable[[float], object]:
        """A function that reports the progress of a section."""
        return lambda done: self.progress(name, done, total)


@dataclass(frozen=True, eq=False)
class Finding:
    """What a section found.

    Args:
        section: for people.
        numbers: for programs.
    """

    section: Section
    numbers: Mapping[str, Any]

    @property
    def warnings(self) -> list[str]:
        """The warnings as text."""
        return [f"{warned.what} {warned.advice}" for warned in self.section.warnings]
