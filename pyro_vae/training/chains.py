"""The chains of a training by Monte Carlo EM: kept for each datum between its visits, and saved with the run."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from pyro_vae.compiling.recording import Graph, Unrecordable, record
from pyro_vae.errors import CheckpointError
from pyro_vae.inference.trajectories import Density, Differentiated, Point
from pyro_vae.inference.unconstrained import Target
from pyro_vae.messages import log_once
from pyro_vae.objectives import MonteCarloEM
from pyro_vae.process.seeding import reseed, seeded
from pyro_vae.process.switches import checking
from pyro_vae.training.plan import Plan
from pyro_vae.training.steps import Batch

_Z, _STEP = "chains/z", "chains/log_step"


_TOLERANCE = 1e-3
"""Largest relative difference between a graph and the programs; rounding gives 1e-6 or so."""


@dataclass(frozen=True)
class Recorded:
    """Log p(x, z) at some data with its gradient in z, by a graph: a `Density`.

    Args:
        graph: from z and the data to the log-density and its gradient.
        data: the data.
    """

    graph: Graph
    data: tuple[Tensor, ...]

    def at(self, z: Tensor) -> Point:
        """See `Density`."""
        return (z, *self.graph(z, *self.data))

    def log(self, point: Point) -> Tensor:
        """See `Density`."""
        return point[1]

    def gradient(self, point: Point) -> Tensor:
        """See `Density`."""
        return point[2]


class Chains:
    """Draws the latents of each batch before its updates, where the objective is `MonteCarloEM`; else does nothing.

    The noise of a step is a function of `(seed, epoch, step)`.

    Args:
        plan: what is trained.
        widen: floats from a batch, as the programs take them.
        objective: whose draws these are; None where it is another one.
    """

    def __init__(self, plan: Plan, widen: Callable[[Batch], Batch], objective: MonteCarloEM | None) -> None:
        self.plan, self.widen, self.objective = plan, widen, objective
        self.z: Tensor | None = None
        self.log_step: Tensor | None = None
        self._target: Target | None = None
        self._graph: Graph | None = None
        self._shapes: list[torch.Size] = []

    @classmethod
    def of(cls, plan: Plan, widen: Callable[[Batch], Batch]) -> Self:
        """Those of a training."""
        return cls(plan, widen, plan.objective if isinstance(plan.objective, MonteCarloEM) else None)

    def tried(self, batch: Batch, compile: bool) -> Batch:
        """A batch with draws of fresh chains, which are not kept: to try a step on.

        Args:
            batch: of full size.
            compile: whether to compile log p(x, z) and its gradient for batches of this shape.
        """
        if self.objective is None:
            return batch
        target = self._at(batch)
        with seeded(self.plan.settings.seed, "chains"):
            z = self.objective.draw(target).z
        if compile:
            try:
                self._record(target, z)
            except Unrecordable as error:
                log_once(f"Hamiltonian Monte Carlo runs eagerly, not compiled: {error}")
        return self._holding(batch, target, z)

    def drawn(self, batch: Batch, epoch: int, step: int) -> Batch:
        """A batch with draws of the chains of its data, which move on.

        Raises:
            NumericalError: if log p(x, z), or its gradient, is not finite where chains are.
        """
        if self.objective is None:
            return batch
        target = self._at(batch)
        reseed(self.plan.settings.seed, "chains", epoch, step)
        z = self._kept(batch, target.size)
        found = self.objective.draw(target, z, self.log_step, self._density(target))
        self.log_step = found.log_step
        self._keep(batch, found.z)
        return self._holding(batch, target, found.z)

    # ---- as tensors of a checkpoint

    def tensors(self) -> dict[str, Tensor]:
        """Where the chains are, and their step size; empty where there are none."""
        named = {_Z: self.z, _STEP: self.log_step}
        return {name: value for name, value in named.items() if value is not None}

    def restore(self, tensors: dict[str, Tensor], where: str, begun: bool) -> None:
        """Take what `tensors` gave out of the tensors of a checkpoint.

        Args:
            tensors: theirs and others, which are left.
            where: the beginning of the message if they do not fit.
            begun: whether a step has been made.

        Raises:
            CheckpointError: if they are missing, or do not fit the data.
        """
        if self.objective is None:
            return
        found = {name: tensors.pop(name).to(self.plan.device) for name in (_Z, _STEP) if name in tensors}
        if begun and len(found) < 2:
            raise CheckpointError(f"{where}: the tensors {_Z} and {_STEP} are not both there")
        self.z, self.log_step = found.get(_Z), found.get(_STEP)
        fits = self.z is None or (self.z.dim() == 3 and self.z.shape[:2] == self._shape)
        if not fits or (self.log_step is not None and not self._is_number(self.log_step)):
            raise CheckpointError(f"{where}: {_Z} and {_STEP} should be {[*self._shape, 'size']} and a finite number")

    # ---- inside

    @property
    def _shape(self) -> tuple[int, int]:
        assert self.objective is not None
        return self.plan.num_data, self.objective.num_chains

    @staticmethod
    def _is_number(value: Tensor) -> bool:
        return value.dim() == 0 and value.is_floating_point() and bool(value.isfinite())

    def _at(self, batch: Batch) -> Target:
        """Log p(x, z) at the data of a batch."""
        assert self.objective is not None
        wide, vae = self.widen(batch), self.plan.vae
        if self._target is None:
            nesting = self.objective.max_plate_nesting
            self._target = Target(vae.model, vae.guide, wide.x, max_plate_nesting=nesting, **wide.inputs)
        return self._target.at(wide.x, *wide.inputs.values())

    def _record(self, target: Target, z: Tensor) -> None:
        """Record the density of a full batch, and compare it with the programs.

        Raises:
            Unrecordable: if there is no such graph, or it differs.
        """

        def function(z: Tensor, *data: Tensor) -> tuple[Tensor, ...]:
            return Differentiated(target.at(*data).log_joint).at(z)[1:]

        with checking(False):
            graph = record(self.plan.vae, function, [z, *target.data], compile=True)
        for ours, theirs in zip(graph(z, *target.data), function(z, *target.data), strict=True):
            if not (ours - theirs).norm() <= _TOLERANCE * theirs.norm() + 1e-6:
                raise Unrecordable("the graph of log p(x, z) differs from the programs")
        self._graph, self._shapes = graph, [x.shape for x in target.data]

    def _density(self, target: Target) -> Density | None:
        """The graph at these data; None where it is for other shapes."""
        if self._graph is None or [x.shape for x in target.data] != self._shapes:
            return None
        return Recorded(self._graph, target.data)

    def _kept(self, batch: Batch, size: int) -> Tensor | None:
        """Where the chains of these data are, `[num_chains, B, size]`; None before their first visit."""
        if self.z is None or batch.index is None:
            return None
        if self.z.shape[-1] != size:
            raise CheckpointError(f"{_Z} has {self.z.shape[-1]} numbers for each chain, this model has {size}")
        z = self.z[batch.index.to(self.z.device)].movedim(0, 1)
        return None if z[0, 0, 0].isnan() else z

    def _keep(self, batch: Batch, z: Tensor) -> None:
        assert batch.index is not None
        if self.z is None:
            self.z = z.new_full((*self._shape, z.shape[-1]), torch.nan)
        self.z[batch.index.to(z.device)] = z.movedim(0, 1)

    def _holding(self, batch: Batch, target: Target, z: Tensor) -> Batch:
        nesting = target.nesting
        return replace(batch, draws={name: value.movedim(nesting, 0) for name, value in target.latents(z).items()})
