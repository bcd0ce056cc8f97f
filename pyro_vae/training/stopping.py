"""When a training ends, and with which weights: `patience`, `keep`, `on_epoch`, and signals."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pyro_vae.arguments.values import scalar, shown
from pyro_vae.distributed import World
from pyro_vae.distributed.agreement import agreed
from pyro_vae.errors import UsageError
from pyro_vae.process.switches import put_back_afterwards
from pyro_vae.training.ledger import Ledger
from pyro_vae.training.settings import Keep
from pyro_vae.training.validation import Validation


@dataclass(frozen=True)
class Stopping:
    """The rule by which a training ends.

    Args:
        epochs: the number of epochs.
        patience: number of epochs without a better validation value after which it ends early; None for never.
        keep: the weights that the module ends with.
    """

    epochs: int
    patience: int | None
    keep: Keep

    def is_finished(self, ledger: Ledger) -> bool:
        """Whether there is nothing left to train."""
        return ledger.epoch >= self.epochs or self.is_out_of_patience(ledger)

    def is_out_of_patience(self, ledger: Ledger) -> bool:
        """Whether it ends before the last epoch."""
        return self.patience is not None and ledger.waited >= self.patience

    def begun(self, ledger: Ledger) -> str:
        """Where a training that is started again goes on, in words; empty for a new one."""
        if not ledger.begun:
            return ""
        if self.is_finished(ledger):
            why = ", stopped early" if self.is_out_of_patience(ledger) else ""
            return f"already complete: {ledger.epoch} of {self.epochs} epochs{why}"
        after = f", after step {ledger.step}" if ledger.step else ""
        return f"resumed at epoch {ledger.epoch + 1} of {self.epochs}{after}"

    def kept(self, ledger: Ledger, validation: Validation) -> str:
        """Which weights the module ends with, and why, in words.

        Args:
            ledger: of the finished training.
            validation: by which the weights were compared.
        """
        if ledger.best:
            return f"best: epoch {ledger.best_epoch} by the validation value of {validation.name}"
        has_data = validation.data.valid is not None
        why = "no validation value was finite" if has_data else "no validation data to choose by"
        return f"last: epoch {ledger.epoch}" + ("" if self.keep == "last" else f", {why}")


OnEpoch = Callable[[dict[str, Any]], bool | None]
"""A function of a row of the history, called after each epoch; True ends the training."""


def asks_to_end(on_epoch: OnEpoch, row: Mapping[str, Any], world: World, save: Callable[[], object]) -> bool:
    """Call the user's function with a copy of a row, on process 0; whether it asks to end the training, on every one.

    Args:
        on_epoch: the function.
        row: of the history.
        world: the processes.
        save: called before an error of the function, whatever it is, is passed on.

    Raises:
        UsageError: if it returns anything but None, True or False: a number could be taken for a wish to end.
    """
    ends = False
    with agreed(world):
        try:
            ends = world.main and _answer(on_epoch, row)
        except BaseException:
            save()
            raise
    return bool(world.largest(int(ends)))


def _answer(on_epoch: OnEpoch, row: Mapping[str, Any]) -> bool:
    with put_back_afterwards():
        answer = scalar(on_epoch(dict(row)))
    if answer is not None and not isinstance(answer, bool):
        raise UsageError(f"on_epoch must return None, or True to end the training, got {shown(answer)}")
    return bool(answer)


class Signals:
    """SIGINT and SIGTERM, received by this process or by another one that shares the work.

    Args:
        pending: the numbers of those that came to this process, as `signals_collected` yields it.
        world: the processes.
    """

    def __init__(self, pending: list[int], world: World) -> None:
        self.pending, self.world = pending, world
        self.summed = False
        """Whether a signal had come to any process before the last sum over all: the same on each of them."""

    def number(self) -> int | None:
        """The signal to stop at; None where none came.

        Several processes stop after the same step: they decide by `summed`, never by their own signals alone.
        """
        if self.summed or (self.pending and self.world.size == 1):
            return self.world.largest(self.pending[0] if self.pending else 0)
        return None
