"""The training loop behind `fit`."""

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from math import isfinite

from pyro_vae.compiling.backends import fast_cpu, onednn_is_better
from pyro_vae.diagnostics.collapse import CollapseWatch
from pyro_vae.distributed import ShardedNoise
from pyro_vae.distributed.agreement import agreed, texts
from pyro_vae.errors import NumericalError, PeerLost, Stopped
from pyro_vae.messages import Progress
from pyro_vae.networks import computing_in
from pyro_vae.networks.precision import DTYPES, warn_if_slow
from pyro_vae.process.seeding import derive_seed, reseed, seeded
from pyro_vae.process.switches import checking
from pyro_vae.runs.directory import Run
from pyro_vae.training.batches import Batches
from pyro_vae.training.chains import Chains
from pyro_vae.training.checkpoints import Checkpoints
from pyro_vae.training.history import History, means_text, row_text, without_elbo
from pyro_vae.training.ledger import Ledger
from pyro_vae.training.optimizers import Rates, clip, make_optimizer, update
from pyro_vae.training.plan import Plan
from pyro_vae.training.rehearsal import rehearse
from pyro_vae.training.shares import Summed, Summing
from pyro_vae.training.starting import chosen_step, compiles, in_best_form, pair_has_elbo, start_from_data
from pyro_vae.training.steps import Batch, Gradients, Loss, PyroStep, Step, eager_step, find_culprit, same_buffers
from pyro_vae.training.stopping import OnEpoch, Signals, Stopping, asks_to_end
from pyro_vae.training.telling import Telling
from pyro_vae.training.threads import Threads
from pyro_vae.training.validation import Validation, measured


class Trainer:
    """The loop: makes the steps, measures, and leaves the module with the weights to keep.

    Args:
        plan: what is trained.
        signals: SIGINT and SIGTERM, which end it.
        run: the run directory; None to save nothing.
        save_every: seconds between two checkpoints.
        telling: tells a tracker.
        on_epoch: a function of the caller's, called after each epoch.
    """

    def __init__(
        self,
        plan: Plan,
        signals: Signals,
        run: Run | None,
        save_every: float,
        telling: Telling,
        on_epoch: OnEpoch | None = None,
    ) -> None:
        self.plan, self.signals, self.world, self.settings = plan, signals, plan.world, plan.settings
        self.telling, self.on_epoch, self.told_to_end = telling, on_epoch, False
        self.optimizer = make_optimizer(self.settings.optimizer, list(plan.vae.parameters()))
        self.rates = Rates(self.optimizer)
        self.batches, self.has_elbo = Batches(plan), True
        noise = nullcontext if self.world.size == 1 else lambda size: ShardedNoise(self.world, size, watch=False)
        self.loss = Loss(plan.vae, plan.objective, self.batches.widen, plan.weight_penalty, noise=noise)
        self.gradients: Step = eager_step(self.loss)
        self.steps = self.batches.steps_of_epoch(self.loss)
        self.watch = CollapseWatch(plan.vae, plan.data, plan.objective, self.settings.epochs, self.steps)
        self.summing = Summing(self.world, list(plan.vae.parameters()))
        self.validation = Validation.of(plan)
        self.chains = Chains.of(plan, self.batches.widen)
        self.checkpoints = Checkpoints(plan, self.optimizer, self.validation, run, save_every, self.chains)
        self.stopping = Stopping(self.settings.epochs, self.settings.patience, self.settings.keep)
        fingerprint = plan.data.fingerprint() if run is not None or self.world.size > 1 else None
        self.ledger = Ledger(self.settings.precision, compiles(plan), fingerprint)

    def run(self, bar: Progress) -> History:
        """Train from the checkpoint, or from the start, to the end."""
        with agreed(self.world):
            self.plan.check()
            if self.world.main:
                self._start()
        self.ledger = self.checkpoints.shared(self.ledger, self.steps)
        bar.say(self.stopping.begun(self.ledger))
        bar.begin(self.ledger.epoch + self.ledger.step / self.steps)
        self.telling.begin(self.checkpoints.lasting(self.ledger), self.stopping.is_finished(self.ledger))
        with fast_cpu(self.ledger.onednn), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Encountered NaN")  # Pyro's; `_refuse` says more
            with computing_in(self.plan.vae, DTYPES[self.ledger.precision]):
                self._train(bar)
        self.checkpoints.save(self.ledger)
        self.telling.rows(self.ledger.rows)
        self.world.barrier()
        return self._finish()

    def _start(self) -> None:
        """On process 0: from the checkpoint, or from the beginning."""
        restored = self.checkpoints.restored(self.ledger, self.steps)
        if restored is not None:
            self.ledger = restored
            if not self.stopping.is_finished(restored):
                warn_if_slow(restored.precision, self.world.device)
        else:
            self.ledger.precision = start_from_data(self.plan)
        if self.ledger.onednn is None:
            self.ledger.onednn = onednn_is_better()

    def _train(self, bar: Progress) -> None:
        if not self.ledger.begun:
            with agreed(self.world):
                self._rehearse()
            self.checkpoints.save(self.ledger)
        with checking(False), seeded(self.settings.seed, "training"):
            self._prepare(bar)
            try:
                while not self.stopping.is_finished(self.ledger) and not self.told_to_end:
                    self._epoch(bar)
            except PeerLost:  # raised by collectives alone, and a step changes the state only after its collective
                self.checkpoints.save(self.ledger)
                raise
            except Exception:
                self.telling.rows(self.checkpoints.lasting(self.ledger))
                raise

    def _rehearse(self) -> None:
        """Report errors of the programs before the training, which runs without Pyro's validation."""
        self.plan.vae.train()
        rehearse(self.loss, self.batches.first(), self.settings.epochs)

    def _prepare(self, bar: Progress) -> None:
        """Choose the form of the loss and of the step; the number of threads is chosen when steps are made."""
        self.plan.vae.train()
        batch = self.chains.tried(self.batches.first(), self.ledger.compile)
        self.loss = in_best_form(self.plan, self.loss, batch)
        self.has_elbo = pair_has_elbo(self.plan, self.batches.widen(batch))
        if not self.has_elbo:
            self.ledger.rows = [without_elbo(row) for row in self.ledger.rows]
        how = self.ledger.compile, self.ledger.precision
        self.gradients = chosen_step(self.plan, self.batches, self.loss, batch, *how)
        on_cpu = self.plan.device.type == "cpu"
        tried = on_cpu and self.world.size == 1 and not isinstance(self.gradients, PyroStep)
        compute, begun = (
            partial(self._without_effect, batch) if tried else None,
            self.ledger.threads if on_cpu else None,
        )
        self.threads = Threads(compute, bar.say, begun)

    def _without_effect(self, batch: Batch) -> None:
        """The work of a step but for the update of the weights."""
        with same_buffers(self.plan.vae), seeded(self.settings.seed, "threads"):
            self._own_gradients(batch, 0, 0)

    def _finish(self) -> History:
        ledger, vae = self.ledger, self.plan.vae
        if ledger.best:
            vae.load_state_dict(ledger.best)
        vae.eval()
        return History(
            ledger.rows,
            ledger.best_epoch if ledger.best else ledger.epoch,
            self.stopping.kept(ledger, self.validation),
            self.stopping.is_out_of_patience(ledger) or self.told_to_end,
            str(self.plan.device),
            self.gradients.mode,
        )

    # ---- the loop

    def _epoch(self, bar: Progress) -> None:
        self.plan.vae.train()
        epoch = self.ledger.epoch
        with self.threads.running():
            for step, batch in self.batches.of_epoch(epoch, self.ledger.step, self.steps):
                self.step(batch, epoch, step)
                self.ledger.step = step + 1
                if step % self.settings.log_every == 0:
                    means = means_text(self.ledger.sums.means(self.has_elbo))
                    bar.show(round(epoch + (step + 1) / self.steps, 2), means)
                self.tick()
                self.threads.look()
        self._close_epoch(epoch)
        is_first_or_last = epoch == 0 or self.stopping.is_finished(self.ledger)
        bar.show(epoch + 1, row_text(self.ledger.rows[-1]), now=is_first_or_last)
        self.telling.rows(self.checkpoints.lasting(self.ledger))
        if self.on_epoch is not None:
            save = partial(self.checkpoints.save, self.ledger)
            self.told_to_end = asks_to_end(self.on_epoch, self.ledger.rows[-1], self.world, save)

    def step(self, batch: Batch, epoch: int, step: int) -> None:
        """One step; it changes nothing before the sum over processes, which may fail."""
        measures = step % self.settings.log_every == 0
        terms = self._terms(batch, epoch, step) if measures else (0.0, 0.0)
        batch = self.chains.drawn(batch, epoch, step)
        summed = self._update(batch, epoch, step, (*terms, bool(self.signals.pending)))
        for again in range(1, self.plan.objective.updates):
            self._update(batch, epoch, step, (), again)
        self.ledger.last_loss = summed.loss / batch.whole if self.plan.objective.has_value else None
        self.ledger.sums.add(loss=summed.loss, seen=batch.whole)
        if measures:
            self.ledger.sums.add(train_reconstruction=summed.numbers[0], train_kl=summed.numbers[1], probed=batch.whole)
        self.signals.summed = bool(summed.numbers[2])

    def _update(self, batch: Batch, epoch: int, step: int, numbers: Sequence[float], *again: int) -> Summed:
        """An update of the weights; `again` numbers the further ones on the same batch."""
        summed = self.summing(self._own_gradients(batch, epoch, step, *again), numbers)
        if self.plan.objective.has_value and not isfinite(summed.loss):
            self._refuse("loss", batch, epoch, step)
        if not clip(summed.gradients, self.settings.clip_norm, batch.whole):
            self._refuse("gradient", batch, epoch, step)
        self.rates.scale(self.plan.lr_factor(epoch + step / self.steps))
        update(self.optimizer, summed.parameters, summed.gradients)
        return summed

    def tick(self) -> None:
        """After a step: stop if a signal came; save a checkpoint if one is due."""
        self.ledger.threads = self.threads.chosen
        number = self.signals.number()
        if number is not None:
            self.checkpoints.save(self.ledger)
            raise Stopped(number, f"epoch {self.ledger.epoch + 1}, step {self.ledger.step} of {self.steps}")
        self.checkpoints.save_if_due(self.ledger)

    def _own_gradients(self, batch: Batch, epoch: int, step: int, *again: int) -> Gradients | None:
        """The gradients of this process's rows; None if it has none, since a plate of Pyro can't be empty."""
        if not len(batch):
            return None
        reseed(self.settings.seed, "step", epoch, step, *again)
        return self.gradients(batch, epoch + step / self.steps, self.settings.epochs)

    def _terms(self, batch: Batch, epoch: int, step: int) -> tuple[float, float]:
        """Reconstruction and KL of the ELBO, summed over this process's rows, nats, whatever the objective is."""
        if not len(batch):
            return 0.0, 0.0
        vae, seed = self.plan.vae, derive_seed(self.settings.seed, "probe", epoch, step)
        with self.loss.noise(batch.whole):
            wide = self.batches.widen(batch)
            options = {"seed": seed, "batch": batch.whole, **wide.inputs}
            terms = measured(self.plan.objective, vae.model, vae.guide, wide.x, **options)
        return terms.reconstruction.sum().item(), terms.kl.sum().item() if terms.is_bound else 0.0

    def _close_epoch(self, epoch: int) -> None:
        valid = self.validation.measure()
        if valid:
            self._judge(valid["loss"], epoch)
        means = {f"train_{name}": value for name, value in self.ledger.sums.means(self.has_elbo).items()}
        means |= {f"valid_{name}": value for name, value in valid.items()}
        last = epoch + (self.steps - 1) / self.steps
        self.ledger.close_epoch(means, self.steps, self.rates.base[0] * self.plan.lr_factor(last))
        if self.world.main:
            self.watch.look(epoch + 1)

    def _judge(self, loss: float, epoch: int) -> None:
        """Keep the weights if the validation value is the lowest so far."""
        settled = self.plan.objective.settled(epoch + 1, self.settings.epochs)
        if self.ledger.judge(loss, settled) and self.settings.keep == "best":
            self.ledger.keep(self.plan.vae.state_dict())

    # ---- values that are not finite

    def _refuse(self, what: str, batch: Batch, epoch: int, step: int) -> None:
        sites = [site for site in texts(self.world, self._culprit(batch, epoch, step)) if site]
        site = sites[0] if sites else "every site is finite: the overflow is in the sum or the gradient"
        last = self.ledger.last_loss
        self.checkpoints.save(self.ledger)
        with agreed(self.world):
            raise NumericalError(
                f"the {what} is not finite at epoch {epoch + 1}, step {step + 1} of {self.steps} ({site}); it was not "
                f"applied. The last finite loss was {'none' if last is None else f'{last:.6g} nats per datum'}. "
                "Lower the learning rate, set clip_norm, or bound the scales"
            )

    def _culprit(self, batch: Batch, epoch: int, step: int) -> str:
        """Text that names the site that is not finite on this process's rows; empty if there is none."""
        if not len(batch):
            return ""
        with seeded(self.settings.seed, "step", epoch, step), self.loss.noise(batch.whole):
            wide = self.batches.widen(batch)
            return find_culprit(self.plan.vae.model, self.plan.vae.guide, wide.x, **wide.inputs)
