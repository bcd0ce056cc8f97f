"""The proposals that promise most, tried: each trained for some epochs, and its gain measured on held-out data."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyro_vae.autoencoders import VAE
from pyro_vae.errors import CheckpointError, DataError, NumericalError, UsageError
from pyro_vae.evidence import Evidence, log_marginal
from pyro_vae.report.costs import Cost
from pyro_vae.report.proposals import Refit, Retrain
from pyro_vae.report.retraining import Training, retrained
from pyro_vae.report.subject import Subject
from pyro_vae.statistics.averages import number
from pyro_vae.statistics.gains import Gains
from pyro_vae.training.optimizers import falling_adam
from pyro_vae.training.refit import compare_priors, refit_prior
from pyro_vae.training.refit_guide import compare_guides, refit_guide

MOST_TRIALS = 2
_DRAWS = 10
_RUN = "this run"


@dataclass(frozen=True)
class Trial:
    """A proposal that was tried.

    Args:
        cost: what it was to lower.
        gain: of held-out data, on the same draws; None if the trial failed.
        measure: what was gained: "ELBO", or "log p(x)" where the model itself was trained again.
        over: what it was compared with.
        is_shorter: whether that was another training, shorter than the run's: the gain is at this length, and the run
            itself would be hard to beat.
        epochs: passes of each training, at most.
        seconds: how long it took.
        unreliable: shares of the data whose log p(x) is flagged, before and after; of the ELBO none.
        failed: why there is no gain.
    """

    cost: Cost
    gain: Gains | None
    measure: str
    over: str
    is_shorter: bool
    epochs: int
    seconds: float
    unreliable: tuple[float, float] = (0.0, 0.0)
    failed: str = ""

    @property
    def verdict(self) -> str:
        """What was found."""
        return "failed" if self.gain is None else self.gain.verdict

    @property
    def text(self) -> str:
        """The gain with its error, or why there is none."""
        if self.gain is None:
            return f"failed: {self.failed}"
        flagged = ", ".join(f"{share:.1%}" for share in self.unreliable)
        caveat = f"; flagged before and after {flagged}" if any(self.unreliable) else ""
        error = number(self.gain.standard_error)
        return f"{self.measure} {self.gain.gain:+.3f} nats per datum (se {error}) over {self.over}{caveat}"

    def row(self) -> dict[str, str]:
        """It as a row of a table."""
        cost = f"{self.epochs} epochs, {self.seconds:.0f} s"
        return {"tried": self.cost.what, "gain": self.text, "found": self.verdict, "took": cost}

    def summary(self) -> dict[str, Any]:
        """It as plain numbers."""
        how = {"epochs": self.epochs, "seconds": round(self.seconds, 3)}
        if self.gain is None:
            return {"what": self.cost.what, "failed": self.failed, **how}
        gain = {"mean": self.gain.gain, "standard_error": self.gain.standard_error, "verdict": self.verdict}
        gain |= {"of": self.measure, "over": self.over, "num_data": len(self.gain.gains)}
        flagged = dict(zip(("before", "after"), self.unreliable, strict=True)) if self.measure != "ELBO" else None
        return {"what": self.cost.what, "gain": gain, **({"unreliable": flagged} if flagged else {}), **how}


def trials(
    subject: Subject,
    costs: Sequence[Cost],
    epochs: int,
    training: Training,
    progress: bool = True,
    tell: Callable[[Trial], object] = lambda trial: None,
) -> list[Trial]:
    """Try the first two of the costs that have a proposal, if they are above their errors or only a training can tell.

    A part that is fitted anew leaves the rest as it is, so a gain of the ELBO is that of the part alone. A model that
    is trained again, for at most as long as the run was, gains log p(x): over the run itself, or where the number of
    epochs would decide, over the same model without the change and trained as long. A trial that fails is reported.

    Args:
        subject: what was diagnosed; the gains are of its held-out data.
        costs: in order.
        epochs: passes of each training.
        training: how the VAE was trained, on which data.
        progress: whether to show progress on standard error.
        tell: called with each trial as soon as it is done, so that it can be kept whatever happens to the next.
    """
    asked = [cost for cost in costs if cost.proposal is not None and cost.is_worth_trying]
    made = []
    for cost in asked[:MOST_TRIALS]:
        made.append(_tried(subject, cost, epochs, training, progress))
        tell(made[-1])
    return made


def _tried(subject: Subject, cost: Cost, epochs: int, training: Training, progress: bool) -> Trial:
    start, proposal = time.monotonic(), cost.proposal
    measure, over = ("ELBO", _RUN) if isinstance(proposal, Refit) else ("log p(x)", _RUN)
    unreliable, failed, gain, shorter = (0.0, 0.0), "", None, False
    try:
        if isinstance(proposal, Refit):
            gain = _of_part(subject, proposal, epochs, training, progress)
        else:
            assert isinstance(proposal, Retrain)
            epochs = min(epochs, training.epochs)
            shorter = proposal.beside and epochs < training.epochs
            over = f"the same model trained for {epochs} epochs" if shorter else f"{_RUN} of {training.epochs} epochs"
            gain = _of_model(subject, proposal, epochs, training, shorter, progress)
            unreliable = gain.unreliable
    except (UsageError, DataError, CheckpointError, NumericalError) as error:
        failed = str(error)
    return Trial(cost, gain, measure, over, shorter, epochs, time.monotonic() - start, unreliable, failed)


# ---- a part ----------------------------------------------------------------------------------------------------------


def _of_part(subject: Subject, proposal: Refit, epochs: int, training: Training, progress: bool) -> Gains:
    vae: Any = subject.vae
    held_out = subject.held_out
    new = _fitted(vae, training, proposal, epochs=epochs, seed=subject.seed, progress=progress)
    how: dict[str, Any] = {"num_particles": _DRAWS, "seed": subject.seed}
    if "prior" in proposal.parts:
        return compare_priors(vae, new, held_out.x, mask=held_out.inputs.get("mask"), **how)
    return compare_guides(vae, new, held_out.x, **how, **held_out.inputs)


def _fitted(vae: VAE, training: Training, proposal: Refit, **settings: Any) -> VAE:
    settings |= falling_adam(proposal.lr)
    data = training.data(None)
    if "prior" in proposal.parts:
        return refit_prior(vae, data, proposal.parts["prior"], **settings)
    return refit_guide(vae, data, **proposal.parts, **settings)


# ---- the whole model -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class EvidenceGains(Gains):
    """By how much log p(x) of each datum is higher with the second of two models.

    Args:
        gains: `[N]`, nats; their spread has the noise of the draws in it.
        unreliable: share of the data whose log p(x) is flagged, by the first and by the second.
    """

    gains: Tensor
    unreliable: tuple[float, float]


def _of_model(
    subject: Subject, proposal: Retrain, epochs: int, training: Training, beside: bool, progress: bool
) -> EvidenceGains:
    """The gain over the run, or beside it over the same model trained as long."""
    vae: Any = subject.vae
    before = _evidence(subject, retrained(vae, training, None, epochs, progress)) if beside else subject.evidence
    after = _evidence(subject, retrained(vae, training, proposal, epochs, progress))
    return EvidenceGains(after.log_p - before.log_p, (before.unreliable, after.unreliable))


def _evidence(subject: Subject, vae: VAE) -> Evidence:
    """Log p(x) of the held-out data by another model, by as many draws as that of the one that is diagnosed."""
    given: dict[str, Any] = {"num_particles": subject.sizes.num_particles, "seed": subject.seed}
    return log_marginal(vae.model, vae.guide, subject.held_out.x, **given, **subject.held_out.inputs)
