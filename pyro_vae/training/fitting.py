"""`fit`: stochastic variational inference on a Pyro pair, by one torch optimizer, resumable to the bit."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from pyro_vae.arguments.checked import checked
from pyro_vae.arguments.values import folder, number, shown
from pyro_vae.compiling.backends import choose_device
from pyro_vae.data import Dataset, as_dataset
from pyro_vae.data.allowed import check_allowed
from pyro_vae.data.gaps import check_each_observed
from pyro_vae.distributed import connect
from pyro_vae.distributed.agreement import agreed
from pyro_vae.errors import UsageError
from pyro_vae.inference.programs import takes
from pyro_vae.messages import Progress
from pyro_vae.networks.precision import Precision
from pyro_vae.objectives import ELBO
from pyro_vae.process.interrupts import signals_collected
from pyro_vae.process.isolation import isolated
from pyro_vae.runs.directory import open_run
from pyro_vae.schedules import Schedule
from pyro_vae.trackers.base import Tracker, check_tracker
from pyro_vae.training.history import History
from pyro_vae.training.optimizers import as_schedule
from pyro_vae.training.plan import Plan
from pyro_vae.training.pyro_loss import as_objective
from pyro_vae.training.settings import Keep, Settings, run_config
from pyro_vae.training.steps import Compile
from pyro_vae.training.stopping import OnEpoch, Signals
from pyro_vae.training.telling import Described, telling
from pyro_vae.training.trainer import Trainer


@isolated
@checked
def fit(
    vae: nn.Module,
    data: Any,
    objective: Any = None,
    *,
    epochs: int = 100,
    batch_size: int = 100,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] = torch.optim.Adam,
    lr_schedule: Schedule | None = None,
    clip_norm: float | None = None,
    weight_prior: float | None = None,
    patience: int | None = None,
    keep: Keep = "best",
    start_at_mean: bool = False,
    start_from: str | Path | None = None,
    seed: int = 0,
    compile: Compile = "auto",
    precision: Precision = "float32",
    device: str = "auto",
    run: str | Path | None = None,
    progress: bool = True,
    log_every: int = 50,
    save_every: float = 10.0,
    on_epoch: OnEpoch | None = None,
    tracker: Tracker | Callable[[], Tracker] | None = None,
) -> History:
    r"""Train a VAE by stochastic gradients of an objective, and leave it with its best weights.

    Each step draws its noise from `(seed, epoch, step)` alone, so `pyro.infer.SVI` under
    `seeded(seed, "step", epoch, step)` on the same batches makes the same steps, and a run that was killed and is
    started again ends with the same bits, as long as it runs on the same number of threads (docs/training.md).
    A non-finite loss or gradient is never applied. Codes that no longer depend on the data (posterior collapse) are
    reported once by the logger `pyro_vae`, with what to do; so are real data that are far from unit scale, unless the
    model was made with `standardize=True`.

    Under `torchrun` (or where the caller has made a process group) every process calls `fit` with the same arguments
    and computes its share of each batch. The result is that of one process, up to the order in which floats are added.
    Only process 0 uses the run directory and shows progress. A run may be resumed by another number of processes.

    With `compile` the Pyro programs run once, and their tensor operations are recorded. Later steps run the record,
    without Pyro and without autograd: the same draws and the same gradients, to rounding. What can't be recorded (a
    site that is not reparameterised, a branch on a tensor's value, batch normalisation) trains eagerly, and the reason
    is logged.

    Args:
        vae: a module with Pyro programs `model(x)` and `guide(x)`, e.g. a `VAE`; trained in place.
        data: a `Dataset`, or a tensor `[N, *event]` to train on; or what `as_dataset` makes a `Dataset` of: a table, a
            torch `Dataset` or `DataLoader` (passed over once), a dictionary of splits, ...
        objective: an objective, a Pyro ELBO (any loss that `pyro.infer.SVI` takes, with the same steps), or a function
            `(model, guide, x, ...) -> loss`; None for `ELBO()`.
        epochs: passes over the training data.
        batch_size: data in a step, over all processes; the last batch of an epoch may be smaller. One of a single datum
            joins the batch before, where batch normalisation could not take it.
        optimizer: a `torch.optim` class, or a `functools.partial` of one.
        lr_schedule: factor on the learning rate, in epochs; None for 1.
        clip_norm: largest global norm of the gradient of the mean loss per datum; None for no clipping.
        weight_prior: standard deviation s of a N(0, s^2) prior on the decoder's weights and biases: adds
            `|theta|^2 / (2 s^2) * B / N` to a batch's loss (AEVB: 1); None for maximum likelihood. `Bayesian`
            networks have a prior of their own, always.
        patience: stop after this many epochs without a better validation value of the objective, counted once its
            schedules have settled; None never to stop early. It needs validation data.
        keep: which weights the module ends with, and `load` gives: `"best"`, those of the epoch with the best value of
            the objective on the validation data (`Validation` says what that is for each), the last where there are
            none; or `"last"`.
        start_at_mean: set the decoder's output bias from the training means first.
        start_from: a run directory to begin with the weights of (what `load` gives), in place of the module's; they
            must be of the same model, and nothing is then initialised from the data. To go on with another objective,
            or for more epochs: the optimizer and the schedules begin anew.
        seed: seed of the order of the data and of all noise.
        compile: whether to compile the step; `"auto"` to compile if the training is long enough to gain from it.
        precision: `"bf16"` computes the products of all `Network`s in bfloat16; weights, densities and sums stay as
            they are. On a CPU without instructions for it a warning is logged and the products are float32's; a
            resumed training keeps what it was begun with, with a warning where bfloat16 is slow.
        device: `"auto"` (CUDA where there is one), `"cpu"`, `"cuda"`, ...
        run: a run directory to save to, and to resume from; None to save nothing. A run can be resumed with more
            epochs if `lr_schedule` and all numbers of the objective are constant: it goes on as if begun so.
        progress: whether to show progress on standard error (a bar on a terminal, else a line now and then).
        log_every: steps between two measurements of the bound on the batch at hand.
        save_every: seconds between checkpoints; one is also written at the end and on SIGINT and SIGTERM.
        on_epoch: a function of the new row of the history, called after each epoch in process 0, when the module has
            the weights of that epoch. If it returns True the training ends there, as if it had no more epochs; None
            and False let it go on. What it raises ends the training after a checkpoint, and is raised here. The same
            call resumes after both.
        tracker: a `Tracker` that is told the settings and each epoch; or a class, or a partial of one, which is made
            when the training begins and closed when it ends. Its failures are one warning.

    Returns:
        The `History`.

    Raises:
        UsageError: for arguments that make no sense, or programs that fail Pyro's validation on the first batch.
        DataError: for data outside the likelihood's support.
        CheckpointError: if `run` is locked, damaged, or holds a run with other settings; or if `start_from` holds no
            run, or that of another model.
        NumericalError: at a non-finite loss, with the step, the site and the last finite loss.
        Stopped: on SIGINT or SIGTERM with a run directory, after a checkpoint; on every process if one gets the signal.
        PeerLost: if another process is gone or does not answer; process 0 has saved a checkpoint then.

    References:
        Kingma & Welling 2013, Auto-encoding variational Bayes, algorithm 1.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((8, 8), latent_dim=2)
        >>> fit(vae, torch.ones(20, 8, 8), epochs=2, progress=False).best_epoch
        2
    """
    if not isinstance(vae, nn.Module):
        raise UsageError(f"vae: expected a torch module with programs `model` and `guide`, got {type(vae).__name__}")
    objective = ELBO() if objective is None else as_objective(objective)
    run, save_every = folder("run", run), number("save_every", save_every)
    settings = Settings(
        epochs,
        batch_size,
        optimizer,
        as_schedule(lr_schedule),
        clip_norm,
        weight_prior,
        patience,
        start_at_mean,
        seed,
        log_every,
        compile,
        precision,
        keep,
        start_from,
    )
    if on_epoch is not None and not callable(on_epoch):
        raise UsageError(f"on_epoch: expected a function of a row of the history, got {shown(on_epoch)}")
    if tracker is not None:
        check_tracker(tracker)
    dataset = as_dataset(data, progress=progress)
    if patience is not None and dataset.valid is None:
        raise UsageError(
            f"patience={patience} counts epochs without a better validation value, and there are no validation data: "
            "pass a Dataset with valid=..., or leave patience out"
        )
    with connect(choose_device(device)) as world, ExitStack() as held:
        with agreed(world):
            _check_data(vae, dataset)
            config = {} if run is None else run_config(vae, dataset, objective, settings)
            pending = held.enter_context(signals_collected(run is not None))  # before any file is written
            unused = () if dataset.valid is not None else ("patience",)  # earlier versions accepted it without effect
            longer = settings.is_constant and not objective.schedules
            directory = held.enter_context(open_run(run if world.main else None, config, unused, longer))
            vae, dataset = vae.to(world.device), dataset.to(world.device)
            objective = objective.for_data(len(dataset.train), dataset.given("train"))
            plan = Plan(vae, dataset, objective, settings, world)
            described = Described(vae, dataset, objective, settings, None if run is None else Path(run))
            told = held.enter_context(telling(tracker if world.main else None, described))
            trainer = Trainer(plan, Signals(pending, world), directory, save_every, told, on_epoch)
        with Progress(settings.epochs, "epoch", enabled=progress and world.main) as bar:
            return trainer.run(bar)


def _check_data(vae: Any, data: Dataset) -> None:
    """Shape and support of every split, as the likelihood will see them."""
    if data.observed("train") is not None and not takes(vae.model, "mask"):
        raise UsageError(f"the data have a mask, and the programs of this {type(vae).__name__} take no `mask`")
    check_each_observed(data.observed("train"), data.table.names if data.table is not None else ())
    likelihood = getattr(vae, "likelihood", None)
    if likelihood is not None and data.table is not None:
        kinds = getattr(likelihood, "kinds", None)
        data.table.check_kinds(None if kinds is None else [str(kind) for kind in kinds])
    check_allowed(vae, data)
