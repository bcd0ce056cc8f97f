"""One step of training: the loss of a batch and its gradients, by a recorded graph or by running the Pyro programs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Literal, Protocol

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_vae.autoencoders import Autoencoder
from pyro_vae.compiling.recording import Graph, Unrecordable, record_gradients
from pyro_vae.errors import UsageError
from pyro_vae.inference.programs import sample_sites
from pyro_vae.messages import log_once
from pyro_vae.objectives import NotTensorial, Objective, tensor_form
from pyro_vae.process.seeding import seeded
from pyro_vae.process.switches import checking
from pyro_vae.process.torch_internals import versions
from pyro_vae.schedules import value_at

Compile = Literal["auto"] | bool


Gradients = tuple[Tensor, Sequence[nn.Parameter], Sequence[Tensor]]


_counter = count()


_MANY_STEPS = 20_000


_MUCH_WORK = 2e13
"""`auto` compiles from this many steps or floating point operations; compiling takes as long as some thousand steps."""


_TOLERANCE = 1e-3
"""Largest relative difference between a graph and an eager run on the same noise; rounding gives 1e-6 or so."""


@dataclass(frozen=True, eq=False)
class Batch:
    """The data of one step, in the form in which the data set stores them.

    Args:
        x: the data, or this process's share of them.
        inputs: further arguments of the programs, by name, for the same data.
        size: data in the whole batch; None where `x` is all.
        index: which of the training data these are, `[B]`; None where they are none of them.
        draws: latents that the objective is to hold, by site name, `[B, ...]`; empty where it draws them itself.
    """

    x: Tensor
    inputs: Mapping[str, Any] = field(default_factory=dict)
    size: int | None = None
    index: Tensor | None = None
    draws: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.x)

    @property
    def whole(self) -> int:
        """Data in the whole batch."""
        return len(self.x) if self.size is None else self.size

    def tensors(self) -> list[Tensor]:
        """All its tensors, x first."""
        return [self.x, *self.inputs.values(), *self.draws.values()]

    def holding(self, tensors: Sequence[Tensor]) -> "Batch":
        """This batch with other tensors, in the order of `tensors`."""
        x, *rest = tensors
        inputs, draws = rest[: len(self.inputs)], rest[len(self.inputs) :]
        named = {"inputs": zip(self.inputs, inputs, strict=True), "draws": zip(self.draws, draws, strict=True)}
        return replace(self, x=x, **{name: dict(pairs) for name, pairs in named.items()})

    def __getitem__(self, rows: slice) -> "Batch":
        """Some rows, as a share of this batch."""
        index = None if self.index is None else self.index[rows]
        return replace(self.holding([x[rows] for x in self.tensors()]), size=self.whole, index=index)


@dataclass(frozen=True)
class Loss:
    """What a step minimises, as a function of a batch.

    Args:
        vae: the module with `model` and `guide`.
        objective: the objective, with its schedules.
        widen: floats from a batch, as the programs take them.
        penalty: a term added for a given batch size, e.g. a prior on weights; not part of the reported value.
        tensorial: whether to take the objective's `tensor_loss`.
        noise: the context in which the programs draw, given the size of the whole batch; they may run on a share of it.
    """

    vae: Any
    objective: Objective
    widen: Callable[[Batch], Batch]
    penalty: Callable[[int], Tensor | float]
    tensorial: bool = True
    noise: Callable[[int], AbstractContextManager[Any]] = nullcontext

    def __call__(self, batch: Batch, objective: Objective) -> tuple[Tensor, Tensor]:
        """`(value, minimised)`, summed over the batch, nats.

        Args:
            batch: the data.
            objective: with numbers or tensors in place of schedules.
        """
        return self.of_wide(self.widen(batch), objective)

    def of_wide(self, wide: Batch, objective: Objective) -> tuple[Tensor, Tensor]:
        """The same, of a batch that is floating point already."""
        objective = objective.holding(wide.draws) if wide.draws else objective
        function = tensor_form(objective) if self.tensorial else objective
        with self.noise(wide.whole):
            value = function(self.vae.model, self.vae.guide, wide.x, **wide.inputs)
        _check_loss(value, objective)
        return value, value + self.penalty(len(wide))  # of a share: the sum over all shares is that of the batch

    def values(self, epoch: float, total: float) -> list[Tensor]:
        """The scheduled values of a moment, as tensors."""
        schedules = self.objective.schedules
        if not schedules:
            return []
        like = next(self.vae.parameters())
        return [
            torch.as_tensor(value_at(schedule, epoch, total), dtype=like.dtype, device=like.device)
            for schedule in schedules.values()
        ]

    def holding(self, values: Sequence[Tensor]) -> Objective:
        """The objective with these values in place of its schedules."""
        names = self.objective.schedules
        return self.objective.holding(dict(zip(names, values, strict=True))) if names else self.objective


def _check_loss(value: Any, objective: Objective) -> None:
    """Refuse anything but one number; a user's class may return anything."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return
    came = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise UsageError(
        f"{objective.loss_name} must return the loss, one number as a tensor, summed over the batch; got {came}"
    )


class Step(Protocol):
    """A way to compute the gradients of a step."""

    mode: str

    def __call__(self, batch: Batch, epoch: float, total: float) -> Gradients:
        """The loss summed over the batch, the parameters that it depends on, and its gradients for them.

        Args:
            batch: the data.
            epoch: the time, in epochs.
            total: epochs of the training.
        """
        ...


class EagerStep:
    """By running the programs and autograd."""

    mode = "eager"

    def __init__(self, loss: Loss) -> None:
        self.loss = loss
        self._parameters = [p for p in loss.vae.parameters() if p.requires_grad]

    def __call__(self, batch: Batch, epoch: float, total: float) -> Gradients:
        """See `Step`."""
        value, minimised = self.loss(batch, self.loss.objective.at(epoch, total))
        if not minimised.requires_grad:
            raise UsageError(f"the loss of {self.loss.objective.loss_name} has no gradient: it was detached on the way")
        gradients = torch.autograd.grad(minimised, self._parameters, allow_unused=True)
        used = [(p, g) for p, g in zip(self._parameters, gradients, strict=True) if g is not None]
        if not used:
            raise UsageError(f"the loss of {self.loss.objective.loss_name} depends on no parameter: nothing to train")
        return value.detach(), [p for p, _ in used], [g for _, g in used]


class PyroStep:
    """By an ELBO of Pyro's, which computes its gradients itself: the same steps as `pyro.infer.SVI`.

    Args:
        loss: what is minimised; its objective has `loss_and_grads`.
    """

    mode = "eager"

    def __init__(self, loss: Loss) -> None:
        assert loss.objective.loss_and_grads is not None
        self.loss, self.name = loss, f"fit{next(_counter)}"
        self._loss_and_grads = loss.objective.loss_and_grads
        self._programs = self._model, loss.vae.guide  # kept, since Pyro's compiled ELBOs recognise them by identity
        self._parameters = [p for p in loss.vae.parameters() if p.requires_grad]

    def __call__(self, batch: Batch, epoch: float, total: float) -> Gradients:
        """See `Step`."""
        for parameter in self._parameters:
            parameter.grad = None
        wide = self.loss.widen(batch)
        with self._registered(), self.loss.noise(batch.whole):
            found = self._loss_and_grads(*self._programs, wide.x, **wide.inputs)
        penalty = self.loss.penalty(len(batch))
        if isinstance(penalty, Tensor):
            penalty.backward()
        used = [(p, p.grad) for p in self._parameters if p.grad is not None]
        if not used:
            raise UsageError(f"the loss of {self.loss.objective.loss_name} depends on no parameter: nothing to train")
        for parameter, _ in used:
            parameter.grad = None
        return self._value(found), [p for p, _ in used], [g for _, g in used]

    def _value(self, found: Any) -> Tensor:
        """The loss, nats; the model's, where there is one for each program (`ReweightedWakeSleep`)."""
        value = torch.as_tensor(found[0] if isinstance(found, tuple) else found).detach()
        return value if self.loss.objective.has_value else torch.full_like(value, torch.nan)

    def _model(self, *args: Any, **kwargs: Any) -> Any:
        """The model, with its parameters registered in Pyro; an `Autoencoder` registers them itself."""
        if not isinstance(self.loss.vae, Autoencoder):
            pyro.module(self.name, self.loss.vae)
        return self.loss.vae.model(*args, **kwargs)

    @contextmanager
    def _registered(self) -> Iterator[None]:
        """Hold the parameters in Pyro's store inside the block: its ELBOs raise an error without any."""
        store = pyro.get_param_store()
        before = set(store.keys())
        try:
            with poutine.trace(param_only=True):
                if isinstance(self.loss.vae, Autoencoder):
                    self.loss.vae.register()
                else:
                    pyro.module(self.name, self.loss.vae)
                yield
        finally:
            for name in set(store.keys()) - before:
                del store[name]


def eager_step(loss: Loss) -> EagerStep | PyroStep:
    """The step that runs the programs: by autograd, or by the objective's own `loss_and_grads`."""
    return EagerStep(loss) if loss.objective.loss_and_grads is None else PyroStep(loss)


class GraphStep:
    """By a graph recorded from the programs on a full batch; `prepare` makes it.

    A batch is made floating point before the graph: torch's own conversion of bytes takes a fifth of inductor's time.
    The last batch of an epoch, if smaller, runs the programs: it is one step of many, and recording takes seconds.

    Args:
        loss: what is minimised.
        full: data in a full batch, or in this process's share of it; a graph for so many is compiled.
        tolerance: largest relative difference from an eager run.
    """

    def __init__(self, loss: Loss, full: int, tolerance: float = _TOLERANCE) -> None:
        self.loss, self.full, self.tolerance = loss, full, tolerance
        self.mode = "graph"
        self._eager = EagerStep(loss)
        self._recorded: tuple[tuple[torch.Size, int], Graph, list[nn.Parameter]] | None = None

    def __call__(self, batch: Batch, epoch: float, total: float) -> Gradients:
        """See `Step`."""
        if self._recorded is None or _key(batch) != self._recorded[0]:
            return self._eager(batch, epoch, total)
        _, graph, parameters = self._recorded
        value, *gradients = graph(*self.loss.widen(batch).tensors(), *self.loss.values(epoch, total))
        return value, parameters, gradients

    def prepare(self, batch: Batch, epoch: float, total: float) -> None:
        """Record the graph of a full batch and compare it with an eager run on the same noise.

        Raises:
            Unrecordable: if there is no such graph, or it differs.
        """
        graph, parameters = self._record(self.loss.widen(batch), self.loss.values(epoch, total))
        self._recorded = _key(batch), graph, parameters
        self.mode = f"compiled ({graph.backend})"
        moment = (batch, epoch, total)
        self._warm_up(*moment)
        expected, got = (self._on_same_noise(step, *moment) for step in (self._eager, self))
        for a, b in zip(expected, got, strict=True):
            if not (a - b).norm() <= self.tolerance * a.norm() + 1e-6:
                raise Unrecordable(
                    "the graph differs from the run it was recorded from: do the programs change from call to call?"
                )

    def _warm_up(self, *moment: Any) -> None:
        """On a GPU run it until it is a CUDA graph that is replayed, so that this is what is compared and trained."""
        try:
            for _ in range(3 if moment[0].x.is_cuda else 0):
                self(*moment)
        except RuntimeError as error:
            raise Unrecordable(f"the graph can't be replayed: {str(error).splitlines()[0]}") from error

    def _on_same_noise(self, step: Step, *moment: Any) -> list[Tensor]:
        with seeded(0, "compare"):
            value, _, gradients = step(*moment)
        return [value, *gradients]

    def _record(self, wide: Batch, values: Sequence[Tensor]) -> tuple[Graph, list[nn.Parameter]]:
        data = wide.tensors()

        def function(*tensors: Tensor) -> tuple[Tensor, Tensor]:
            return self.loss.of_wide(wide.holding(tensors[: len(data)]), self.loss.holding(tensors[len(data) :]))

        with checking(False), same_buffers(self.loss.vae) as check:  # validation reads values
            full = len(wide) == self.full
            return record_gradients(self.loss.vae, function, [*data, *values], compile=full, check=check)


@contextmanager
def same_buffers(module: nn.Module) -> Iterator[Callable[[], None]]:
    """Restore a module's buffers on exit; yields a check that raises if they have changed inside."""
    buffers = {b: b.clone() for b in module.buffers()}
    before_all = versions(buffers)

    def check() -> None:
        if versions(buffers) != before_all:
            raise Unrecordable(
                "the module changes its buffers (batch normalisation, moving averages?), which a graph would lose"
            )

    try:
        yield check
    finally:
        for buffer, before in buffers.items():
            if not torch.equal(buffer, before):
                buffer.copy_(before)


def _key(batch: Batch) -> tuple[torch.Size, int]:
    """What a graph is for: the shape of the batch and the size of the whole batch (the rank never changes)."""
    return batch.x.shape, batch.whole


def worth_compiling(vae: nn.Module, num_data: int, batch_size: int, epochs: int, num_particles: int = 1) -> bool:
    """Whether a training is long enough for compiling to pay, from its settings alone, so that a resumed run agrees."""
    flops = 6 * sum(p.numel() for p in vae.parameters()) * num_data * epochs * num_particles
    return epochs * -(-num_data // batch_size) >= _MANY_STEPS or flops >= _MUCH_WORK


def choose_step(loss: Loss, batch: Batch, compile: bool, total: float, tolerance: float = _TOLERANCE) -> Step:
    """The step to train with: recorded and compiled where asked for and possible, else eager; the reason is logged.

    Args:
        loss: what is minimised.
        batch: a full batch, or a share of it, to record the graph on.
        compile: whether to try.
        total: epochs of the training.
        tolerance: as for `GraphStep`.
    """
    eager = eager_step(loss)
    if compile and isinstance(eager, PyroStep):
        log_once(f"training runs eagerly, not compiled: {loss.objective.loss_name} finds its gradients itself")
    elif compile:
        step = GraphStep(loss, len(batch), tolerance)
        try:
            step.prepare(batch, 0.0, total)
            return step
        except (Unrecordable, NotTensorial) as error:
            log_once(f"training runs eagerly, not compiled: {error}")
    return eager


def find_culprit(model: Any, guide: Any, x: Tensor, **inputs: Tensor) -> str:
    """Name the first site, in guide then model, whose value or log-density is not finite; empty if there is none."""
    with torch.no_grad(), checking(False):
        guide_trace = poutine.trace(guide).get_trace(x, **inputs)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(x, **inputs)
    for program, trace in (("guide", guide_trace), ("model", model_trace)):
        for name, site in sample_sites(trace).items():
            if not site["value"].isfinite().all():
                return f"site {name!r} of the {program} draws a value that is not finite"
            if not site["fn"].log_prob(site["value"]).isfinite().all():
                return f"site {name!r} of the {program} has a log-density that is not finite"
    return ""
