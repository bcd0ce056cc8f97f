"""The training loop behind `fit`."""

import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import ceil, isfinite, nan
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.compiling.backends import fast_cpu, onednn_is_better
from pyro_vae.data import Dataset
from pyro_vae.diagnostics.collapse import CollapseWatch
from pyro_vae.distributed import ShardedNoise, World
from pyro_vae.distributed.agreement import agreed, texts
from pyro_vae.errors import CheckpointError, DataError, NumericalError, PeerLost, PyroVaeError, Stopped, UsageError
from pyro_vae.evidence import has_elbo
from pyro_vae.messages import Progress
from pyro_vae.networks import computing_in
from pyro_vae.networks.precision import DTYPES, usable_precision
from pyro_vae.objectives import NotTensorial, Objective
from pyro_vae.process.seeding import derive_seed, reseed, seeded
from pyro_vae.process.switches import checking
from pyro_vae.runs.directory import Run
from pyro_vae.runs.formats import check_columns, check_progress
from pyro_vae.runs.restoring import check_tensors, optimizer_tensors, restore_optimizer, restore_weights
from pyro_vae.runs.state import State
from pyro_vae.schedules import value_at
from pyro_vae.training.optimizers import make_optimizer, update
from pyro_vae.training.rehearsal import needs_two, rehearse
from pyro_vae.training.scales import set_scale
from pyro_vae.training.settings import Settings
from pyro_vae.training.shares import Summing, check_shares, shares_tried
from pyro_vae.training.steps import (
    Batch,
    Gradients,
    Loss,
    Step,
    choose_step,
    eager_step,
    find_culprit,
    same_buffers,
    worth_compiling,
)
from pyro_vae.training.validation import Validation, measured


@dataclass(frozen=True)
class History:
    """What happened in a training.

    Args:
        rows: one an epoch, the columns of metrics.csv: `epoch`, `step`, `loss` (the objective, mean over all steps),
            `train_elbo`, `train_reconstruction`, `train_kl` (beta = 1, on every `log_every`-th batch before it is
            trained on), `valid_loss` (the objective with the last values of its schedules, see `Validation`),
            `valid_elbo` and its terms (one draw for each validation datum), with the same noise every epoch, `lr`,
            `seconds` (since the start, over all resumptions); nats per datum. Of a guide without a width (`Delta`)
            there is no ELBO and no KL: the terms are `train_reconstruction` and `valid_reconstruction` alone.
        best_epoch: the epoch whose weights the module now has.
        kept: why it has these, in words.
        stopped_early: whether patience ran out.
        device: where it ran.
        mode: how: `"eager"`, or `"compiled (...)"` with what compiled it.
    """

    rows: list[dict[str, Any]]
    best_epoch: int
    kept: str
    stopped_early: bool
    device: str
    mode: str

    def column(self, name: str) -> list[float]:
        """One column of `rows`."""
        return [row[name] for row in self.rows]


_TOLERANCES = {"float32": 1e-3, "bf16": 0.1}
"""Largest relative difference between a compiled step and an eager one: each rounds bfloat16 in places of its own."""


class _Trainer:
    """One training: the module, the data and the state that a checkpoint holds."""

    def __init__(
        self,
        vae: Any,
        data: Dataset,
        objective: Objective,
        settings: Settings,
        world: World,
        run: Run | None,
        save_every: float,
        pending: list[int],
    ) -> None:
        objective = objective.for_data(len(data.train), data.given("train"))
        self.vae, self.data, self.objective, self.settings = vae, data, objective, settings
        self.world, self.directory, self.save_every, self.pending = world, run, save_every, pending
        self.optimizer = make_optimizer(settings.optimizer, list(vae.parameters()))
        self.base_lr = [group["lr"] for group in self.optimizer.param_groups]
        self.num_data, self.has_elbo = len(data.train), True
        noise = nullcontext if world.size == 1 else lambda size: ShardedNoise(world, size, watch=False)
        self.loss = Loss(vae, objective, self._widen, self._weight_penalty, noise=noise)
        self.step: Step = eager_step(self.loss)
        self.steps = self._count_steps()
        self.watch = CollapseWatch(vae, data, objective, settings.epochs, self.steps)
        self.summing = Summing(world, list(vae.parameters()))
        self.validation = Validation(vae, data, objective, settings.epochs, settings.batch_size, settings.seed, world)
        self.rows: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}
        self.progress: dict[str, Any] = {
            "epoch": 0,
            "step": 0,
            "best_loss": None,
            "best_epoch": 0,
            "waited": 0,
            "last_loss": None,
            "onednn": None,
            "precision": self.settings.precision,
            "compile": self._compile(),
            "data": self.data.fingerprint() if run is not None or world.size > 1 else None,
        }
        self.sums: dict[str, float] = {}
        self.told_to_stop = False
        self.before, self.started, self.saved_at = 0.0, time.monotonic(), time.monotonic()

    def run(self, bar: Progress) -> History:
        """Train from the checkpoint, or from the start, to the end."""
        with agreed(self.world):
            self._check()
            if self.world.main:
                self._start()
        self._share()
        bar.say(self._begun())
        with fast_cpu(self.progress["onednn"]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Encountered NaN")  # Pyro's; ours is an error, with the site
            with computing_in(self.vae, DTYPES[self.progress["precision"]]):
                self._train(bar)
        self._save()
        self.world.barrier()
        if self.best:
            self.vae.load_state_dict(self.best)
        self.vae.eval()
        best_epoch = self.progress["best_epoch"] if self.best else self.progress["epoch"]
        device = str(next(self.vae.parameters()).device)
        return History(self.rows, best_epoch, self._kept(), self._out_of_patience(), device, self.step.mode)

    def _train(self, bar: Progress) -> None:
        if self.progress["epoch"] == self.progress["step"] == 0:
            with agreed(self.world):
                self._preflight()
            self._save()
        with checking(False), seeded(self.settings.seed, "training"):
            self._choose_step()
            try:
                while not self._finished():
                    self._epoch(bar)
            except PeerLost:  # what fails is a sum, and what follows one is done whole: the state is between two steps
                self._save()
                raise

    # ---- the loop

    def _epoch(self, bar: Progress) -> None:
        self.vae.train()
        epoch = self.progress["epoch"]
        with seeded(self.settings.seed, "order", epoch):
            order = torch.randperm(self.num_data)
        for step in range(self.progress["step"], self.steps):
            index = order[step * self.settings.batch_size :]
            index = index if step == self.steps - 1 else index[: self.settings.batch_size]
            self._step(self._share_of(index, epoch, step), epoch, step)
            self.progress["step"] = step + 1
            if step % self.settings.log_every == 0:
                bar.show(round(epoch + (step + 1) / self.steps, 2), _means_text(self._train_means()))
            self._tick()
        self._close_epoch(epoch)
        bar.show(epoch + 1, _row_text(self.rows[-1]), now=epoch == 0 or self._finished())

    def _count_steps(self) -> int:
        """Steps in an epoch; a last batch of one datum joins the one before where batch norm can't take it."""
        steps = ceil(self.num_data / self.settings.batch_size)
        if self.world.size > 1 or steps == 1 or self.num_data % self.settings.batch_size != 1:
            return steps
        self.vae.train()
        one = self._share_of(torch.arange(1), 0, 0)
        return steps - needs_two(self.loss, one, self.settings.epochs)

    def _share_of(self, index: Tensor, epoch: int, step: int) -> Batch:
        """This process's rows of a batch; no others are read, unless the data draw for all at once.

        As they are stored, beside the weights: a mapped file gives batches on the CPU.
        """
        own, key = self.world.rows(len(index)), (self.settings.seed, epoch, step)
        whole = self.data.draws_each_visit
        rows = self.data.batch(index, *key)[own] if whole else self.data.batch(index[own], *key)
        inputs = self.data.given("train", index[own]) if self.data.inputs else {}
        return Batch(self._to_device(rows), inputs, len(index))

    def _widen(self, batch: Batch) -> Batch:
        return replace(batch, x=self.data.widen(batch.x), inputs=self.data.widen_inputs(batch.inputs))

    def _step(self, x: Batch, epoch: int, step: int) -> None:
        """One step: nothing has changed before the sum, which may fail, and all has after it."""
        probed = self._probe(x, epoch, step) if step % self.settings.log_every == 0 else (0.0, 0.0)
        summed = self.summing(self._gradients(x, epoch, step), (*probed, bool(self.pending)))
        if self.objective.has_value and not isfinite(summed.loss):
            self._refuse("loss", x, epoch, step)
        if not self._clip(summed.gradients, x.whole):
            self._refuse("gradient", x, epoch, step)
        for group, lr in zip(self.optimizer.param_groups, self.base_lr, strict=True):
            group["lr"] = lr * self._lr_factor(epoch, step)
        update(self.optimizer, summed.parameters, summed.gradients)
        self.progress["last_loss"] = summed.loss / x.whole if self.objective.has_value else None
        self._add(loss=summed.loss, seen=x.whole)
        if step % self.settings.log_every == 0:
            self._add(train_reconstruction=summed.numbers[0], train_kl=summed.numbers[1], probed=x.whole)
        self.told_to_stop = bool(summed.numbers[2])

    def _gradients(self, x: Batch, epoch: int, step: int) -> Gradients | None:
        """Those of this process's rows; None where it has none, since Pyro knows no empty plate."""
        if not len(x):
            return None
        reseed(self.settings.seed, "step", epoch, step)
        return self.step(x, epoch + step / self.steps, self.settings.epochs)

    def _clip(self, gradients: Sequence[Tensor], batch: int) -> bool:
        """Scale the gradients to `clip_norm` where they are longer; False, and nothing done, if they are not finite."""
        if self.settings.clip_norm is None:
            return isfinite(torch.stack([g.sum() for g in gradients]).sum().item())
        norm = nn.utils.get_total_norm(gradients).item()
        if norm > self.settings.clip_norm * batch and isfinite(norm):
            torch._foreach_mul_(list(gradients), self.settings.clip_norm * batch / norm)
        return isfinite(norm)

    def _to_device(self, x: Tensor) -> Tensor:
        return x.to(next(self.vae.parameters()).device)

    def _lr_factor(self, epoch: int, step: int) -> float:
        return value_at(self.settings.lr_schedule, epoch + step / self.steps, self.settings.epochs)

    def _weight_penalty(self, batch: int) -> Tensor | float:
        scale = self.settings.weight_prior
        if scale is None:
            return 0.0
        squares = sum(p.square().sum() for p in self.vae.decoder.parameters())
        return squares / (2 * scale**2) * batch / self.num_data

    def _probe(self, x: Batch, epoch: int, step: int) -> tuple[float, float]:
        """The bound's reconstruction and KL, summed over the rows at hand, whatever the objective is."""
        if not len(x):
            return 0.0, 0.0
        seed = derive_seed(self.settings.seed, "probe", epoch, step)
        with self.loss.noise(x.whole):
            wide = self._widen(x)
            terms = measured(
                self.objective, self.vae.model, self.vae.guide, wide.x, seed=seed, batch=x.whole, **wide.inputs
            )
        return terms.reconstruction.sum().item(), terms.kl.sum().item() if terms.is_bound else 0.0

    def _add(self, **amounts: float) -> None:
        for name, amount in amounts.items():
            self.sums[name] = self.sums.get(name, 0.0) + amount

    def _train_means(self) -> dict[str, float]:
        reconstruction, kl = (self.sums[n] / self.sums["probed"] for n in ("train_reconstruction", "train_kl"))
        terms = {"elbo": reconstruction - kl, "reconstruction": reconstruction, "kl": kl}
        return terms if self.has_elbo else {"reconstruction": reconstruction}

    def _close_epoch(self, epoch: int) -> None:
        valid = self.validation.measure()
        if valid:
            self._judge(valid["loss"], epoch)
        row = {"epoch": epoch + 1, "step": (epoch + 1) * self.steps, "loss": self.sums["loss"] / self.sums["seen"]}
        row |= {f"train_{name}": value for name, value in self._train_means().items()}
        row |= {f"valid_{name}": value for name, value in valid.items()}
        row |= {
            "lr": float(self.base_lr[0] * self._lr_factor(epoch, self.steps - 1)),
            "seconds": round(self._elapsed(), 3),
        }
        self.rows.append(row)
        self.progress |= {"epoch": epoch + 1, "step": 0}
        self.sums = {}
        if self.world.main:
            self.watch.look(epoch + 1)

    def _judge(self, loss: float, epoch: int) -> None:
        """Whether this epoch is the best so far, by the objective's value on validation data."""
        best = self.progress["best_loss"]
        if isfinite(loss) and (best is None or loss < best):
            self.progress |= {"best_loss": loss, "waited": 0}
            self._keep_weights(epoch)
        elif self.objective.settled(epoch + 1, self.settings.epochs):
            self.progress["waited"] += 1

    def _keep_weights(self, epoch: int) -> None:
        if self.settings.keep == "best":
            self.progress["best_epoch"] = epoch + 1
            self.best = {name: value.detach().clone() for name, value in self.vae.state_dict().items()}

    def _kept(self) -> str:
        """Which weights the module ends with, and why."""
        if self.best:
            return f"best: epoch {self.progress['best_epoch']} by the validation value of {self.validation.name}"
        why = "no validation value was finite" if self.data.valid is not None else "no validation data to choose by"
        return f"last: epoch {self.progress['epoch']}" + ("" if self.settings.keep == "last" else f", {why}")

    def _finished(self) -> bool:
        return self.progress["epoch"] >= self.settings.epochs or self._out_of_patience()

    def _out_of_patience(self) -> bool:
        return self.settings.patience is not None and self.progress["waited"] >= self.settings.patience

    def _elapsed(self) -> float:
        """Seconds of this training, over all the processes it took."""
        return self.before + time.monotonic() - self.started

    # ---- starting, saving, stopping

    def _check(self) -> None:
        if self.settings.weight_prior is not None and not hasattr(self.vae, "decoder"):
            raise UsageError("weight_prior needs a module with a `decoder`")
        least = min(self.num_data, self.settings.batch_size)
        if least < self.world.size:
            raise UsageError(
                f"{self.world.size} processes can't share out batches of {least}: take a larger batch_size, or fewer "
                "processes"
            )

    def _start(self) -> None:
        """On process 0: from the checkpoint, or from the beginning."""
        state = self.directory.restore() if self.directory is not None else None
        if state is not None:
            self._restore(state)
        else:
            self._start_afresh()
        if self.progress["onednn"] is None:
            self.progress["onednn"] = onednn_is_better()

    def _begun(self) -> str:
        """Where a training that is started again goes on; empty if it is begun."""
        epoch, step = self.progress["epoch"], self.progress["step"]
        if not epoch and not step:
            return ""
        if self._finished():
            why = ", stopped early" if self._out_of_patience() else ""
            return f"already complete: {epoch} of {self.settings.epochs} epochs{why}"
        return f"resumed at epoch {epoch + 1} of {self.settings.epochs}{f', after step {step}' if step else ''}"

    def _start_afresh(self) -> None:
        """What the module takes from the data before it is trained; a module of the user's own need not know of it."""
        set_scale(self.vae, self.data)
        if count := getattr(self.vae, "start_count", 0):
            self.vae.start_prior(self._to_device(self.data.some(count, self.settings.seed, "start")))
        self.progress["precision"] = usable_precision(self.settings.precision, self.world.device)
        if self.settings.start_at_mean:
            self.vae.start_at(self.data.mean(), self.data.std())

    def _share(self) -> None:
        """Give the state of process 0 to all."""
        if self.world.size == 1:
            return
        data = self.world.broadcast(self._state().to_bytes() if self.world.main else None)
        with agreed(self.world):
            if not self.world.main:
                self._restore(State.from_bytes(data))

    def _compile(self) -> bool:
        """Whether to compile, once decided: a resumed training does as it did before."""
        if self.settings.compile == "auto":
            return worth_compiling(self.vae, self.num_data, self.settings.batch_size, self.settings.epochs)
        return self.settings.compile

    def _choose_step(self) -> None:
        self.vae.train()
        x, epochs, tolerance = self._first_batch(), self.settings.epochs, _TOLERANCES[self.progress["precision"]]
        self.loss, self.has_elbo = self._tensorial(x), self._has_elbo(x)
        self.rows = self.rows if self.has_elbo else [_without_elbo(row) for row in self.rows]
        if self.world.size > 1:
            few = torch.arange(min(self.num_data, shares_tried(self.world)))
            rows = Batch(self._to_device(self.data.batch(few, self.settings.seed, 0, 0)), self.data.given("train", few))
            check_shares(self.world, self.loss, rows, epochs, tolerance)
        self.step = choose_step(self.loss, x, self.progress["compile"], epochs, tolerance)

    def _has_elbo(self, x: Batch) -> bool:
        wide = self._widen(x)
        try:
            return has_elbo(self.vae.guide, wide.x[:1], **{name: value[:1] for name, value in wide.inputs.items()})
        except UsageError:  # a guide that draws nothing, since Pyro's loss sums over all sites: `measured` tells
            if self.objective.needs_elbo:
                raise
            return True

    def _tensorial(self, x: Batch) -> Loss:
        """The loss by operations on tensors alone, where the objective has such a form for this pair."""
        try:
            with seeded(self.settings.seed, "step", 0, 0), torch.no_grad(), same_buffers(self.vae):
                self.loss(x, self.objective.at(0.0, self.settings.epochs))
        except NotTensorial:
            return replace(self.loss, tensorial=False)
        return self.loss

    def _first_batch(self) -> Batch:
        return self._share_of(torch.arange(min(self.num_data, self.settings.batch_size)), 0, 0)

    def _preflight(self) -> None:
        """What fails is told before the training, which runs without Pyro's validation."""
        self.vae.train()
        rehearse(self.loss, self._first_batch(), self.settings.epochs)

    def _restore(self, state: State) -> None:
        progress, device = dict(state.progress), next(self.vae.parameters()).device
        chosen_by_elbo = "best_elbo" in progress
        if chosen_by_elbo:  # by a version before `keep`, which computed in the precision that it was told
            progress["best_loss"] = progress.pop("best_elbo")
            progress.setdefault("precision", self.settings.precision)
            state.rows = [{**row, "valid_loss": nan} if "valid_elbo" in row else row for row in state.rows]
        if "data" in progress and progress["data"] != self.progress["data"]:
            raise self._other_data()
        where = f"{self._path()}/manifest.json" if self.world.main else "the progress of process 0"
        names = {*self.progress, "optimizer", "sums", "seconds"}
        check_progress(progress, names, state.rows, self.settings.epochs, self.steps, where)
        check_columns(state.rows, self.data.valid is not None, f"{self._path()}/metrics.csv")
        restore_weights(self.vae, state.weights, state.files["weights"])
        check_tensors(state.best, self.vae.state_dict() if progress["best_epoch"] else {}, state.files["best"])
        done = progress["epoch"] * self.steps + progress["step"]
        restore_optimizer(self.optimizer, state.optimizer, progress.pop("optimizer"), state.files["optimizer"], done)
        self.sums, self.before = progress.pop("sums"), progress.pop("seconds")
        self.progress, self.rows = {**self.progress, **progress}, state.rows
        self.best = {name: value.to(device) for name, value in state.best.items()}
        if chosen_by_elbo and self.best:
            self._judge_anew()

    def _judge_anew(self) -> None:
        """What the best weights are worth by the objective."""
        latest = {name: value.clone() for name, value in self.vae.state_dict().items()}
        self.vae.load_state_dict(self.best)
        self.progress["best_loss"] = replace(self.validation, world=World()).measure()["loss"]
        self.vae.load_state_dict(latest)

    def _other_data(self) -> PyroVaeError:
        if not self.world.main:
            return DataError(
                f"process {self.world.rank} was given other training data than process 0: give it the same"
            )
        return CheckpointError(f"{self._path()} was trained on other data: give it the same, or use another directory")

    def _path(self) -> Path | None:
        return None if self.directory is None else self.directory.path

    def _save(self) -> None:
        self.saved_at = time.monotonic()
        if self.directory is not None:
            self.directory.save(self._state())

    def _state(self) -> State:
        tensors, plain = optimizer_tensors(self.optimizer)
        progress = {**self.progress, "optimizer": plain, "sums": self.sums, "seconds": self._elapsed()}
        return State(self.vae.state_dict(), tensors, self.best, progress, self.rows)

    def _tick(self) -> None:
        """After a step: save if it is time to, stop if a signal came (to one of several processes, before the sum)."""
        if self.told_to_stop or (self.pending and self.world.size == 1):
            number = self.world.largest(self.pending[0] if self.pending else 0)
            self._save()
            raise Stopped(number, f"epoch {self.progress['epoch'] + 1}, step {self.progress['step']} of {self.steps}")
        if time.monotonic() - self.saved_at > self.save_every:
            self._save()

    def _refuse(self, what: str, x: Batch, epoch: int, step: int) -> None:
        sites = texts(self.world, self._culprit(x, epoch, step))
        site = next(
            (text for text in sites if text), "every site is finite: the overflow is in the sum or the gradient"
        )
        last = self.progress["last_loss"]
        self._save()
        with agreed(self.world):
            raise NumericalError(
                f"the {what} is not finite at epoch {epoch + 1}, step {step + 1} of {self.steps} ({site}); it was not "
                f"applied. The last finite loss was {'none' if last is None else f'{last:.6g} nats per datum'}. "
                "Lower the learning rate, set clip_norm, or bound the scales"
            )

    def _culprit(self, x: Batch, epoch: int, step: int) -> str:
        """What is not finite on this process's rows, in words; empty if nothing."""
        if not len(x):
            return ""
        with seeded(self.settings.seed, "step", epoch, step), self.loss.noise(x.whole):
            wide = self._widen(x)
            return find_culprit(self.vae.model, self.vae.guide, wide.x, **wide.inputs)


def _means_text(means: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.2f}" for name, value in means.items())


def _row_text(row: Mapping[str, Any]) -> str:
    means = {name: row[f"train_{name}"] for name in ("elbo", "reconstruction", "kl") if f"train_{name}" in row}
    valid = f"  valid loss {row['valid_loss']:.2f}" if "valid_loss" in row else ""
    valid += "".join(f"  {term} {row[f'valid_{term}']:.2f}" for term in [*means][:1] if f"valid_{term}" in row)
    return f"{_means_text(means)}{valid}  {row['seconds']:.0f} s"


def _without_elbo(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as it is without an ELBO; earlier versions wrote one for every guide."""
    return {name: value for name, value in row.items() if not name.endswith(("_elbo", "_kl"))}
