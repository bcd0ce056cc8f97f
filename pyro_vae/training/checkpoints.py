"""Saving a training and resuming it: the ledger, the weights and the optimizer, to and from a run directory."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.optim import Optimizer

from pyro_vae.distributed import World
from pyro_vae.distributed.agreement import agreed
from pyro_vae.errors import CheckpointError, DataError, PyroVaeError
from pyro_vae.runs.directory import Run
from pyro_vae.runs.formats import check_columns, check_progress
from pyro_vae.runs.restoring import check_tensors, optimizer_tensors, restore_optimizer, restore_weights
from pyro_vae.runs.state import State
from pyro_vae.training.chains import Chains
from pyro_vae.training.ledger import Ledger, chosen_by_elbo, translated
from pyro_vae.training.plan import Plan
from pyro_vae.training.validation import Validation


class Checkpoints:
    """Saves a training, restores it, and gives its state to other processes.

    Args:
        plan: what is trained.
        optimizer: whose state is saved with the weights.
        validation: measures the best weights of a run of an older version again.
        run: the run directory; None to save nothing.
        save_every: seconds between two saves.
        chains: those of the objective; their tensors are saved with the optimizer's.

    Attributes:
        epochs: how many epochs the last checkpoint holds.
    """

    def __init__(
        self,
        plan: Plan,
        optimizer: Optimizer,
        validation: Validation,
        run: Run | None,
        save_every: float,
        chains: Chains,
    ) -> None:
        self.plan, self.optimizer, self.validation, self.chains = plan, optimizer, validation, chains
        self.run, self.save_every, self.saved_at, self.epochs = run, save_every, time.monotonic(), 0

    def save(self, ledger: Ledger) -> None:
        """Write a checkpoint."""
        self.saved_at = time.monotonic()
        if self.run is not None:
            self.run.save(self._state(ledger))
            self.epochs = ledger.epoch

    def save_if_due(self, ledger: Ledger) -> None:
        """Write a checkpoint if the last one is `save_every` seconds old."""
        if time.monotonic() - self.saved_at > self.save_every:
            self.save(ledger)

    def lasting(self, ledger: Ledger) -> list[dict[str, Any]]:
        """The rows of a ledger that no resumption makes anew: those in a checkpoint; all without a run directory."""
        return ledger.rows if self.run is None else ledger.rows[: self.epochs]

    def restored(self, ledger: Ledger, steps: int) -> Ledger | None:
        """The ledger of the run directory, with its weights in the module and its state in the optimizer.

        Args:
            ledger: of a new training with these settings.
            steps: number of steps in an epoch.

        Returns:
            None where there is no run directory, or nothing is saved in it.

        Raises:
            CheckpointError: if the directory is damaged, or holds another training.
        """
        state = self.run.restore() if self.run is not None else None
        if state is None:
            return None
        found = self._load(state, ledger, steps)
        self.epochs = found.epoch
        return found

    def shared(self, ledger: Ledger, steps: int) -> Ledger:
        """The ledger of process 0 on every process, with its weights and its optimizer's state.

        Raises:
            DataError: if a process has other training data than process 0.
        """
        world = self.plan.world
        if world.size == 1:
            return ledger
        data = world.broadcast(self._state(ledger).to_bytes() if world.main else None)
        with agreed(world):
            return ledger if world.main else self._load(State.from_bytes(data), ledger, steps)

    def _state(self, ledger: Ledger) -> State:
        tensors, plain = optimizer_tensors(self.optimizer)
        tensors |= self.chains.tensors()
        return State(self.plan.vae.state_dict(), tensors, ledger.best, ledger.to_plain(plain), ledger.rows)

    def _load(self, state: State, ledger: Ledger, steps: int) -> Ledger:
        old = chosen_by_elbo(state.progress)
        if old:
            state.progress, state.rows = translated(state.progress, state.rows, self.plan.settings.precision)
        state.progress = {"threads": None, **state.progress}  # which earlier versions do not tell
        self._check(state, ledger, steps)
        progress, vae = state.progress, self.plan.vae
        restore_weights(vae, state.weights, state.files["weights"])
        check_tensors(state.best, vae.state_dict() if progress["best_epoch"] else {}, state.files["best"])
        done = (progress["epoch"] * steps + progress["step"]) * self.plan.objective.updates
        self.chains.restore(state.optimizer, state.files["optimizer"], done > 0)
        restore_optimizer(self.optimizer, state.optimizer, progress["optimizer"], state.files["optimizer"], done)
        best = {name: value.to(self.plan.device) for name, value in state.best.items()}
        found = ledger.resumed(progress, state.rows, best)
        return replace(found, best_loss=self._value_of(best)) if old and best else found

    def _check(self, state: State, ledger: Ledger, steps: int) -> None:
        """Refuse a damaged checkpoint, or one of other data; tensors are checked when they are restored."""
        if "data" in state.progress and state.progress["data"] != ledger.data:
            raise self._other_data()
        where = f"{self._path}/manifest.json" if self.plan.world.main else "the progress of process 0"
        check_progress(state.progress, ledger.names(), state.rows, self.plan.settings.epochs, steps, where)
        check_columns(state.rows, self.plan.data.valid is not None, f"{self._path}/metrics.csv")

    def _value_of(self, weights: dict) -> float:
        """The validation value of the objective for these weights, nats per datum; the module's are put back."""
        latest = {name: value.clone() for name, value in self.plan.vae.state_dict().items()}
        self.plan.vae.load_state_dict(weights)
        value = replace(self.validation, world=World()).measure()["loss"]
        self.plan.vae.load_state_dict(latest)
        return value

    def _other_data(self) -> PyroVaeError:
        if not self.plan.world.main:
            return DataError(
                f"process {self.plan.world.rank} was given other training data than process 0: give it the same"
            )
        return CheckpointError(f"{self._path} was trained on other data: give it the same, or use another directory")

    @property
    def _path(self) -> Path | None:
        return None if self.run is None else self.run.path
