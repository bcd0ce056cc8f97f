"""Training in several processes: what they sum in a step, and which losses can be split over processes.

Each computes on its own rows of every batch (`distributed.World.rows`). After the sums all know the same loss and the
same gradients, to the bit, so all take the same decisions and keep the same weights without further messages.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.distributed import ShardedNoise, World
from pyro_vae.distributed.agreement import agreed
from pyro_vae.errors import UsageError
from pyro_vae.objectives import Objective
from pyro_vae.process.seeding import seeded
from pyro_vae.process.torch_internals import versions
from pyro_vae.training.steps import Batch, Gradients, Loss, eager_step

_ROWS_EACH = 8
"""Rows for each process in the trial of `check_shares`: enough for a norm over them to differ."""


_BATCH_NORMS = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm


# ---- sums of a step --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summed:
    """The sums of a step over the processes, the same on each of them.

    Args:
        loss: of the whole batch, nats.
        parameters: those that the loss depends on, on some process.
        gradients: theirs; valid until the next sum.
        numbers: the sums of the further numbers.
    """

    loss: float
    parameters: Sequence[nn.Parameter]
    gradients: Sequence[Tensor]
    numbers: Sequence[float]


class Summing:
    """Sums of a step over the processes, in one reduction; one process returns its own values.

    Args:
        world: the processes.
        parameters: all of the module's, in the same order on every process.
    """

    def __init__(self, world: World, parameters: Sequence[nn.Parameter]) -> None:
        self.world = world
        self.parameters = [p for p in parameters if p.requires_grad]

    def __call__(self, own: Gradients | None, numbers: Sequence[float]) -> Summed:
        """The sums of the losses, gradients and numbers of all processes.

        Args:
            own: of this process's rows; None where it has none.
            numbers: the same number of them on every process.

        Raises:
            PeerLost: if another process is gone or does not answer; nothing has changed then.
        """
        if self.world.size == 1:
            assert own is not None
            return Summed(own[0].item(), own[1], own[2], numbers)
        value, used, gradients = (0.0, (), ()) if own is None else own
        known = dict(zip(used, gradients, strict=True))
        summed = self.world.sums([self._head(value, numbers, known), *(self._of(p, known) for p in self.parameters)])
        loss, *rest = summed[0].tolist()
        users = rest[len(numbers) :]
        kept = [(p, g) for p, g, n in zip(self.parameters, summed[1:], users, strict=True) if n]
        return Summed(loss, [p for p, _ in kept], [g for _, g in kept], rest[: len(numbers)])

    def _head(self, value: Tensor | float, numbers: Sequence[float], known: dict[Any, Tensor]) -> Tensor:
        """The loss, the numbers, and for each parameter whether it is used here, as one tensor.

        A parameter that no process uses must have no gradient: an optimizer would move it by its momentum.
        """
        like = self.parameters[0].detach()
        tail = like.new_tensor([*numbers, *(p in known for p in self.parameters)])
        return torch.cat([torch.as_tensor(value).to(like).reshape(1), tail])

    def _of(self, parameter: nn.Parameter, known: dict[Any, Tensor]) -> Tensor:
        return known[parameter] if parameter in known else torch.zeros_like(parameter)


# ---- whether a loss can be shared out --------------------------------------------------------------------------------


def check_shares(world: World, loss: Loss, rows: Batch, total: float, tolerance: float) -> None:
    """Refuse a loss that is not the sum of the losses of its rows: compares it and its gradients on a few rows.

    Args:
        world: the processes.
        loss: what is minimised; its module in training mode.
        rows: the same on every process, `shares_tried` of them.
        total: epochs of the training; the schedules' last values are taken.
        tolerance: largest relative difference.

    Raises:
        UsageError: if something couples the rows (batch normalisation, an objective over the batch), counts once for
            each share, or draws what can't be shared out (dropout); on every process.
    """
    with agreed(world):
        _refuse_batch_norm(loss.vae)
        _refuse_coupling(loss.objective)
        before = versions(loss.vae.buffers())
        mine = _watched(world, loss, rows, total)
        whole = _gradients(replace(loss, noise=nullcontext), rows, total)
        if versions(loss.vae.buffers()) != before:
            raise UsageError(f"the module changes its buffers in training, each process its own. {_ALONE}")
    parameters = list(loss.vae.parameters())
    shares, alone = Summing(world, parameters)(mine, []), Summing(World(), parameters)(whole, [])
    with agreed(world):
        if _differ(shares, alone, tolerance):
            raise UsageError(
                "a batch is shared out over processes, so its loss must be the sum of the losses of its rows, and its "
                f"gradient that of theirs; on {len(rows)} rows it is not (loss {alone.loss:.6g} nats, of "
                f"{world.size} shares {shares.loss:.6g}): does the model, the guide or the objective couple rows (a "
                f"norm over the batch), or count something once a batch? {_ALONE}"
            )


def _watched(world: World, loss: Loss, rows: Batch, total: float) -> Gradients:
    """Gradients of this process's rows; draws that can't be shared raise an error."""
    watched = replace(loss, noise=lambda size: ShardedNoise(world, size))
    return _gradients(watched, rows[world.rows(len(rows))], total)


def _gradients(loss: Loss, rows: Batch, total: float) -> Gradients:
    with seeded(0, "shares"):
        return eager_step(loss)(rows, total, total)


def _differ(shares: Summed, alone: Summed, tolerance: float) -> bool:
    """Whether two steps differ; values that are not finite do not count: the training reports them, with the site."""
    ours, theirs = ([torch.tensor(summed.loss), *summed.gradients] for summed in (shares, alone))
    if len(ours) != len(theirs):
        return True
    return any((a - b).norm() > tolerance * b.norm() + 1e-6 for a, b in zip(ours, theirs, strict=True))


def shares_tried(world: World) -> int:
    """How many rows `check_shares` takes."""
    return _ROWS_EACH * world.size


_ALONE = "Leave it out, or run one process (without torchrun)"


def _refuse_coupling(objective: Objective) -> None:
    """Ask the objective: a trial can miss coupling, e.g. of `FreeBits` while every KL is below its threshold."""
    if objective.couples_rows:
        raise UsageError(
            f"{objective} couples the rows of a batch, and these are on several processes: run one process (without "
            "torchrun), or take an objective that is a sum over data"
        )


def _refuse_batch_norm(vae: nn.Module) -> None:
    """Refuse batch normalisation with the name of the module: it is the usual case."""
    for name, module in vae.named_modules():
        if isinstance(module, _BATCH_NORMS):
            raise UsageError(
                f"{name} is batch normalisation, which couples the rows of a batch, and these are on several "
                "processes: run one process (without torchrun), or take another norm (LayerNorm, GroupNorm)"
            )
