"""`fit`: stochastic variational inference on a Pyro pair, by one torch optimizer, resumable to the bit."""

import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil, isfinite
from pathlib import Path
from typing import Any, Literal

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.optim import Optimizer

from pyro_vae.backends import fast_cpu
from pyro_vae.checkpoint import Run, State, describe, open_run, optimizer_tensors, restore_optimizer
from pyro_vae.data import Dataset, as_dataset
from pyro_vae.errors import CheckpointError, NumericalError, PyroVaeError, Stopped, UsageError
from pyro_vae.evidence import bound
from pyro_vae.importance import sample_sites
from pyro_vae.networks import computing_in
from pyro_vae.objectives import ELBO, NotTensorial, Objective, as_loss
from pyro_vae.optimizers import Updates, make_optimizer
from pyro_vae.progress import Progress
from pyro_vae.schedules import Constant, Schedule
from pyro_vae.seeding import derive_seed, reseed, seeded
from pyro_vae.steps import Compile, EagerStep, Loss, Step, choose_step, worth_compiling

Precision = Literal["float32", "bf16"]


@dataclass(frozen=True)
class Settings:
    """How to train; `fit` says what each means. A value, so that it can be saved and compared."""

    epochs: int
    batch_size: int
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    lr_schedule: Schedule
    clip_norm: float | None
    weight_prior: float | None
    patience: int | None
    start_at_mean: bool
    seed: int
    log_every: int
    compile: Compile = "auto"
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "log_every", "patience", "clip_norm", "weight_prior"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{name} must be positive, got {value}")
        for name in ("epochs", "batch_size", "log_every", "patience", "seed"):
            if not isinstance(getattr(self, name), int | None):
                raise UsageError(f"{name} must be a whole number, got {getattr(self, name)!r}")
        if self.compile not in (True, False, "auto"):
            raise UsageError(f"compile must be true, false or 'auto', got {self.compile!r}")
        if self.precision not in ("float32", "bf16"):
            raise UsageError(f"precision must be 'float32' or 'bf16', got {self.precision!r}")

    def described(self) -> dict[str, Any]:
        """As plain data, for the run directory."""
        return {name: describe(value) for name, value in vars(self).items()}


@dataclass(frozen=True)
class History:
    """What happened in a training.

    Args:
        rows: one an epoch, the columns of metrics.csv: `epoch`, `step`, `loss` (the objective, mean over all steps),
            `train_elbo`, `train_reconstruction`, `train_kl` (beta = 1, on every `log_every`-th batch while it is
            trained on), `valid_*` (one draw for each validation datum, the same noise every epoch), `lr`,
            `seconds` (since the start, over all resumptions); nats per datum.
        best_epoch: the epoch whose weights the module now has; the last where there was no validation data.
        stopped_early: whether patience ran out.
        device: where it ran.
        mode: how: `"eager"`, or `"compiled (...)"` with what compiled it.
    """

    rows: list[dict[str, Any]]
    best_epoch: int
    stopped_early: bool
    device: str
    mode: str

    def column(self, name: str) -> list[float]:
        """One column of `rows`."""
        return [row[name] for row in self.rows]


def fit(
    vae: nn.Module,
    data: Dataset | Tensor,
    objective: Any = None,
    *,
    epochs: int = 100,
    batch_size: int = 100,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] = torch.optim.Adam,
    lr_schedule: Schedule | None = None,
    clip_norm: float | None = None,
    weight_prior: float | None = None,
    patience: int | None = None,
    start_at_mean: bool = False,
    seed: int = 0,
    compile: Compile = "auto",
    precision: Precision = "float32",
    device: str = "auto",
    run: str | Path | None = None,
    progress: bool = True,
    log_every: int = 50,
    save_every: float = 10.0,
) -> History:
    r"""Train a VAE by stochastic gradients of an objective, and leave it with its best weights.

    Each step draws its noise from `(seed, epoch, step)` alone, so `pyro.infer.SVI` under
    `seeded(seed, "step", epoch, step)` on the same batches makes the same steps, and a run that was killed and is
    started again ends with the same bits. A non-finite loss or gradient is never applied.

    Compiled, the Pyro programs run once, and the tensor operations they made run from then on, without Pyro and without
    autograd: the same draws and the same gradients, to rounding. What can't be recorded (a site that is not
    reparameterised, a branch on a tensor's value, batch normalisation) trains eagerly, and the reason is logged.

    Args:
        vae: a module with Pyro programs `model(x)` and `guide(x)`, e.g. a `VAE`; trained in place.
        data: a `Dataset`, or a tensor `[N, *event]` to train on.
        objective: an objective or a Pyro ELBO; None for `ELBO()`.
        epochs: passes over the training data.
        batch_size: data in a step; the last batch of an epoch may be smaller.
        optimizer: a `torch.optim` class, or a `functools.partial` of one.
        lr_schedule: factor on the learning rate, in epochs; None for 1.
        clip_norm: largest global norm of the gradient of the mean loss per datum; None for no clipping.
        weight_prior: standard deviation s of a N(0, s^2) prior on the decoder's weights and biases: adds
            `|theta|^2 / (2 s^2) * B / N` to a batch's loss (AEVB: 1); None for maximum likelihood.
        patience: stop after so many epochs without a better validation bound, counted once the objective's schedules
            have settled; None to go on.
        start_at_mean: set the decoder's output bias from the training means first.
        seed: seed of the order of the data and of all noise.
        compile: whether to compile the step; `"auto"` if the training is long enough for the seconds it takes to pay.
        precision: `"bf16"` computes the products of all `Network`s in bfloat16; weights, densities and sums stay as
            they are.
        device: `"auto"` (CUDA where there is one), `"cpu"`, `"cuda"`, ...
        run: a run directory to save to, and to resume from; None to save nothing.
        progress: whether to show progress on standard error (a bar on a terminal, else a line now and then).
        log_every: steps between two measurements of the bound on the batch at hand.
        save_every: seconds between checkpoints; one is also written at the end and on SIGINT and SIGTERM.

    Returns:
        The `History`.

    Raises:
        UsageError: for arguments that make no sense, or programs that fail Pyro's validation on the first batch.
        DataError: for data outside the likelihood's support.
        CheckpointError: if `run` is locked, damaged, or holds a run with other settings.
        NumericalError: at a non-finite loss, with the step, the site and the last finite loss.
        Stopped: on SIGINT or SIGTERM with a run directory, after a checkpoint.

    References:
        Kingma & Welling 2013, Auto-encoding variational Bayes, algorithm 1.

    Example:
        >>> from pyro_vae.vae import VAE
        >>> vae = VAE((8, 8), latent_dim=2)
        >>> fit(vae, torch.ones(20, 8, 8), epochs=2, progress=False).best_epoch
        2
    """
    objective = ELBO() if objective is None else objective
    settings = Settings(
        epochs,
        batch_size,
        optimizer,
        lr_schedule or Constant(),
        clip_norm,
        weight_prior,
        patience,
        start_at_mean,
        seed,
        log_every,
        compile,
        precision,
    )
    dataset = as_dataset(data)
    _check_data(vae, dataset)
    place = choose_device(device)
    config = {} if run is None else run_config(vae, dataset, objective, settings)
    with open_run(run, config) as directory, _signals(directory is not None) as pending:
        trainer = _Trainer(vae.to(place), dataset.to(place), objective, settings, directory, save_every, pending)
        with Progress(settings.epochs, "epoch", enabled=progress) as bar:
            return trainer.run(bar)


def run_config(vae: Any, dataset: Dataset, objective: Any, settings: Settings) -> dict[str, Any]:
    """Everything needed to repeat a training, as the plain data that `pyro-vae fit --config` takes."""
    if not hasattr(vae, "arguments"):
        raise UsageError(
            f"can't save a {type(vae).__name__} to a run directory: only a VAE knows how to describe itself"
        )
    if not isinstance(objective, Objective):
        raise UsageError(
            f"can't save a {type(objective).__name__} to a run directory: pass one of pyro_vae.objectives "
            "(ELBO() is Trace_ELBO(), ELBO(analytic_kl=True) is TraceMeanField_ELBO()), or train without one"
        )
    return {
        **dataset.origin,
        "vae": {name: describe(value) for name, value in vae.arguments.items()},
        "objective": describe(objective),
        **settings.described(),
    }


def choose_device(name: str) -> torch.device:
    """The device called `name`; `"auto"` is CUDA where there is one.

    Raises:
        UsageError: if there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"no device {name!r} here: {str(error).splitlines()[0]}; use --device cpu") from error
    return device


_DTYPES = {"float32": None, "bf16": torch.bfloat16}
_TOLERANCES = {"float32": 1e-3, "bf16": 0.1}
"""Largest relative difference between a compiled step and an eager one: each rounds bfloat16 in places of its own."""


class _Trainer:
    """One training: the module, the data and the state that a checkpoint holds."""

    def __init__(
        self,
        vae: Any,
        data: Dataset,
        objective: Any,
        settings: Settings,
        run: Run | None,
        save_every: float,
        pending: list[int],
    ) -> None:
        self.vae, self.data, self.objective, self.settings = vae, data, objective, settings
        self.directory, self.save_every, self.pending = run, save_every, pending
        self.optimizer = make_optimizer(settings.optimizer, list(vae.parameters()))
        self.updates = Updates(self.optimizer)
        self.base_lr = [group["lr"] for group in self.optimizer.param_groups]
        self.num_data = len(data.train)
        self.steps = ceil(self.num_data / settings.batch_size)
        self.loss = Loss(vae, objective, lambda batch: data.widen(batch), self._weight_penalty)
        self.step: Step = EagerStep(self.loss)
        self.rows: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}
        self.progress: dict[str, Any] = {
            "epoch": 0,
            "step": 0,
            "best_elbo": None,
            "best_epoch": 0,
            "waited": 0,
            "last_loss": None,
            "onednn": None,
            "compile": self._compile(),
            "data": self.data.fingerprint() if run is not None else None,
        }
        self.sums: dict[str, float] = {}
        self.before, self.started, self.saved_at = 0.0, time.monotonic(), time.monotonic()

    def run(self, bar: Progress) -> History:
        """Train from the checkpoint, or from the start, to the end."""
        self._check()
        state = self.directory.restore() if self.directory is not None else None
        if state is not None:
            self._restore(state)
        with fast_cpu(self.progress["onednn"]) as onednn, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Encountered NaN")  # Pyro's; ours is an error, with the site
            self.progress["onednn"] = onednn
            with computing_in(self.vae, _DTYPES[self.settings.precision]):
                self._train(bar, fresh=state is None)
        self._save()
        if self.best:
            self.vae.load_state_dict(self.best)
        self.vae.eval()
        best_epoch = self.progress["best_epoch"] if self.best else self.progress["epoch"]
        device = str(next(self.vae.parameters()).device)
        return History(self.rows, best_epoch, self._out_of_patience(), device, self.step.mode)

    def _train(self, bar: Progress, fresh: bool) -> None:
        if fresh:
            self._start()
        with pyro.validation_enabled(False), seeded(self.settings.seed, "training"):
            self._choose_step()
            while not self._finished():
                self._epoch(bar)

    # ---- the loop

    def _epoch(self, bar: Progress) -> None:
        self.vae.train()
        epoch = self.progress["epoch"]
        with seeded(self.settings.seed, "order", epoch):
            order = torch.randperm(self.num_data)
        for step in range(self.progress["step"], self.steps):
            index = order[step * self.settings.batch_size : (step + 1) * self.settings.batch_size]
            batch = self._batch(index, epoch, step)
            self._step(batch, epoch, step)
            if step % self.settings.log_every == 0:
                self._probe(self.data.widen(batch), epoch, step)
                bar.show(round(epoch + (step + 1) / self.steps, 2), _means_text(self._train_means()))
            self.progress["step"] = step + 1
            self._tick()
        self._close_epoch(epoch)
        bar.show(epoch + 1, _row_text(self.rows[-1]), now=epoch == 0 or self._finished())

    def _batch(self, index: Tensor, epoch: int, step: int) -> Tensor:
        """Training data as they are stored, beside the weights: a mapped file gives batches on the CPU."""
        return self._to_device(self.data.batch(index, self.settings.seed, epoch, step))

    def _step(self, batch: Tensor, epoch: int, step: int) -> None:
        reseed(self.settings.seed, "step", epoch, step)
        loss, parameters, gradients = self.step(batch, epoch + step / self.steps, self.settings.epochs)
        value = loss.item()
        if not isfinite(value):
            self._refuse("loss", batch, epoch, step)
        if not self._clip(gradients, len(batch)):
            self._refuse("gradient", batch, epoch, step)
        for group, lr in zip(self.optimizer.param_groups, self.base_lr, strict=True):
            group["lr"] = lr * self._lr_factor(epoch, step)
        self.updates.apply(parameters, gradients)
        self.progress["last_loss"] = value / len(batch)
        self._add(loss=value, seen=len(batch))

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
        return self.settings.lr_schedule(epoch + step / self.steps, self.settings.epochs)

    def _weight_penalty(self, batch: int) -> Tensor | float:
        scale = self.settings.weight_prior
        if scale is None:
            return 0.0
        squares = sum(p.square().sum() for p in self.vae.decoder.parameters())
        return squares / (2 * scale**2) * batch / self.num_data

    def _probe(self, x: Tensor, epoch: int, step: int) -> None:
        """Measure the bound, its reconstruction and its KL on the batch at hand, whatever the objective is."""
        terms = bound(self.vae.model, self.vae.guide, x, seed=derive_seed(self.settings.seed, "probe", epoch, step))
        total = terms.reconstruction.sum().item(), terms.kl.sum().item()
        self._add(train_reconstruction=total[0], train_kl=total[1], probed=len(x))

    def _add(self, **amounts: float) -> None:
        for name, amount in amounts.items():
            self.sums[name] = self.sums.get(name, 0.0) + amount

    def _train_means(self) -> dict[str, float]:
        reconstruction, kl = (self.sums[n] / self.sums["probed"] for n in ("train_reconstruction", "train_kl"))
        return {"elbo": reconstruction - kl, "reconstruction": reconstruction, "kl": kl}

    def _close_epoch(self, epoch: int) -> None:
        valid = (
            {}
            if self.data.valid is None
            else bound(
                self.vae.model, self.vae.guide, self._to_device(self.data.split("valid")), seed=self.settings.seed
            ).means()
        )
        if valid:
            self._keep_best(valid["elbo"], epoch)
        row = {"epoch": epoch + 1, "step": (epoch + 1) * self.steps, "loss": self.sums["loss"] / self.sums["seen"]}
        row |= {f"train_{name}": value for name, value in self._train_means().items()}
        row |= {f"valid_{name}": value for name, value in valid.items()}
        row |= {"lr": self.base_lr[0] * self._lr_factor(epoch, self.steps - 1), "seconds": round(self._elapsed(), 3)}
        self.rows.append(row)
        self.progress |= {"epoch": epoch + 1, "step": 0}
        self.sums = {}

    def _keep_best(self, elbo: float, epoch: int) -> None:
        best = self.progress["best_elbo"]
        if isfinite(elbo) and (best is None or elbo > best):
            self.progress |= {"best_elbo": elbo, "best_epoch": epoch + 1, "waited": 0}
            self.best = {name: value.detach().clone() for name, value in self.vae.state_dict().items()}
        elif not isinstance(self.objective, Objective) or self.objective.settled(epoch + 1, self.settings.epochs):
            self.progress["waited"] += 1

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

    def _start(self) -> None:
        if self.settings.start_at_mean:
            self.vae.start_at(self.data.mean(), self.data.std())
        self._preflight()
        self._save()

    def _compile(self) -> bool:
        """Whether to compile, once decided: a resumed training does as it did before."""
        if self.settings.compile == "auto":
            return worth_compiling(self.vae, self.num_data, self.settings.batch_size, self.settings.epochs)
        return self.settings.compile

    def _choose_step(self) -> None:
        self.vae.train()
        batch = self._first_batch()
        self.loss = self._tensorial(batch)
        tolerance = _TOLERANCES[self.settings.precision]
        self.step = choose_step(self.loss, batch, self.progress["compile"], self.settings.epochs, tolerance)

    def _tensorial(self, batch: Tensor) -> Loss:
        """The loss by operations on tensors alone, where the objective has such a form for this pair."""
        try:
            with seeded(self.settings.seed, "step", 0, 0), torch.no_grad():
                if type(self.objective).__dict__.get("tensor_loss"):
                    self.loss(batch, self.loss.at(0.0, self.settings.epochs))
        except NotTensorial:
            return replace(self.loss, tensorial=False)
        return self.loss

    def _first_batch(self) -> Tensor:
        return self._batch(torch.arange(min(self.num_data, self.settings.batch_size)), 0, 0)

    def _preflight(self) -> None:
        """One loss under Pyro's full validation, so that a wrong shape or plate is told before training without it."""
        x = self.data.widen(self._first_batch())
        try:
            with pyro.validation_enabled(True), torch.no_grad(), seeded(self.settings.seed, "step", 0, 0):
                as_loss(self.loss.at(0.0, self.settings.epochs))(self.vae.model, self.vae.guide, x)
        except PyroVaeError:
            raise
        except (ValueError, RuntimeError, AssertionError, NotImplementedError) as error:
            raise UsageError(f"the first batch fails in the model, the guide or the objective: {error}") from error

    def _restore(self, state: State) -> None:
        progress, device = dict(state.progress), next(self.vae.parameters()).device
        if progress.get("data") != self.progress["data"]:
            raise CheckpointError(
                f"{self._path()} was trained on other data: give it the same, or use another directory"
            )
        try:
            self.vae.load_state_dict(state.weights)
            restore_optimizer(self.optimizer, state.optimizer, progress.pop("optimizer"))
            self.sums, self.before = progress.pop("sums"), progress.pop("seconds")
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{self._path()} is damaged: its state does not fit this training: {error}"
            ) from error
        self.progress, self.rows = {**self.progress, **progress}, state.rows
        self.best = {name: value.to(device) for name, value in state.best.items()}

    def _path(self) -> Path | None:
        return None if self.directory is None else self.directory.path

    def _save(self) -> None:
        self.saved_at = time.monotonic()
        if self.directory is None:
            return
        tensors, plain = optimizer_tensors(self.optimizer)
        progress = {**self.progress, "optimizer": plain, "sums": self.sums, "seconds": self._elapsed()}
        self.directory.save(State(self.vae.state_dict(), tensors, self.best, progress, self.rows))

    def _tick(self) -> None:
        """After a step: save if it is time to, stop if a signal came."""
        if self.pending:
            self._save()
            raise Stopped(
                self.pending[0], f"epoch {self.progress['epoch'] + 1}, step {self.progress['step']} of {self.steps}"
            )
        if time.monotonic() - self.saved_at > self.save_every:
            self._save()

    def _refuse(self, what: str, batch: Tensor, epoch: int, step: int) -> None:
        with seeded(self.settings.seed, "step", epoch, step):
            site = find_culprit(self.vae.model, self.vae.guide, self.data.widen(batch))
        last = self.progress["last_loss"]
        self._save()
        raise NumericalError(
            f"the {what} is not finite at epoch {epoch + 1}, step {step + 1} of {self.steps} ({site}); it was not "
            f"applied. The last finite loss was {'none' if last is None else f'{last:.6g} nats per datum'}. "
            "Lower the learning rate, set clip_norm, or bound the scales"
        )


def find_culprit(model: Any, guide: Any, x: Tensor) -> str:
    """Name the first site, in guide then model, whose value or log-density is not finite."""
    with torch.no_grad(), pyro.validation_enabled(False):
        guide_trace = poutine.trace(guide).get_trace(x)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(x)
    for program, trace in (("guide", guide_trace), ("model", model_trace)):
        for name, site in sample_sites(trace).items():
            if not site["value"].isfinite().all():
                return f"site {name!r} of the {program} draws a value that is not finite"
            if not site["fn"].log_prob(site["value"]).isfinite().all():
                return f"site {name!r} of the {program} has a log-density that is not finite"
    return "every site is finite: the overflow is in the sum or in the gradient"


def _check_data(vae: Any, data: Dataset) -> None:
    """Shape and support of every split, as the likelihood will see them."""
    likelihood = getattr(vae, "likelihood", None)
    if likelihood is None:
        return
    for name in ("train", "valid", "test"):
        if getattr(data, name) is not None:
            start = 0
            for x in data.chunks(name):
                likelihood.check(x, f"{name} data[{start}:]" if start else f"{name} data")
                start += len(x)


@contextmanager
def _signals(active: bool) -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list while training with a run directory, so that it can save and stop."""
    pending: list[int] = []
    if not active or threading.current_thread() is not threading.main_thread():
        yield pending
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda n, _: pending.append(n)) for number in numbers}
    try:
        yield pending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _means_text(means: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.2f}" for name, value in means.items())


def _row_text(row: Mapping[str, Any]) -> str:
    means = {name: row[f"train_{name}"] for name in ("elbo", "reconstruction", "kl")}
    valid = f"  valid elbo {row['valid_elbo']:.2f}" if "valid_elbo" in row else ""
    return f"{_means_text(means)}{valid}  {row['seconds']:.0f} s"
