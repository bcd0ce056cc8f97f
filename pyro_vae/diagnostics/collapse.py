"""Posterior collapse: codes that no longer depend on the data, reported in words with what to do about it."""

import logging

from pyro_vae.autoencoders import Autoencoder
from pyro_vae.data import Dataset
from pyro_vae.diagnostics.latents import ACTIVE_VARIANCE, LatentStatistics, latent_statistics
from pyro_vae.objectives import Objective

FEW = 0.1
"""Share of active dimensions below which a code is reported as mostly unused."""
_SEEN = 1000
"""Number of data in a check: the variance of a dimension's mean is then known to some 5 %."""
_SHARE, _STEPS = 0.1, 200
"""Share of the epochs, and steps, before the first check: until then codes may be unused because little is learned."""
_log = logging.getLogger("pyro_vae")


def collapse_warnings(stats: LatentStatistics, beta: float | None = None) -> list[str]:
    """Say which latent sites the model does not use, or hardly, and what to do about it.

    A dimension is active where the variance of its posterior mean over the data is above 0.01. A site with none has
    collapsed: q(z|x) is the same for all data, and what the decoder makes of z is noise. A site in which fewer than a
    tenth are active is reported as well, though it may only be larger than the data need.

    Args:
        stats: as `latent_statistics` gives them.
        beta: the weight that the KL was trained with, where it is known.

    Returns:
        One warning for each such site; empty where all is well.

    Example:
        >>> import torch
        >>> collapse_warnings(LatentStatistics(torch.tensor([0.9, 0.0]), None))
        []
        >>> collapse_warnings(LatentStatistics(torch.tensor([0.0, 0.0]), None), beta=50.0)[0][:59]
        'posterior collapse: none of the 2 dimensions of z is active'
    """
    sizes = dict(stats.sizes or {"z": len(stats.active_variance)})
    kl = None if stats.kl is None or len(sizes) > 1 else float(stats.kl.sum())
    sites = zip(sizes, stats.active.split(list(sizes.values())), strict=True)
    found = [_warning(name, int(active.sum()), len(active), kl, beta) for name, active in sites]
    return [warning for warning in found if warning]


def _warning(name: str, active: int, size: int, kl: float | None, beta: float | None) -> str:
    """The warning about a site; empty if enough of it is active."""
    if active >= FEW * size and active > 0:
        return ""
    known = "" if kl is None else f", KL {kl:.2f} nats per datum"
    rule = f"active: variance of E[z|x] over the data > {ACTIVE_VARIANCE}{known}"
    if active == 0:
        found = f"posterior collapse: none of the {size} dimensions of {name} is active ({rule}): codes ignore the data"
    else:
        found = f"only {active} of the {size} dimensions of {name} {'is' if active == 1 else 'are'} active ({rule})"
    idle = "" if active == 0 else "Where the reconstructions are good, fewer dimensions would do as well. If not: "
    return f"{found}. {idle}{_advice(beta)}"


def _advice(beta: float | None) -> str:
    lower = f"lower beta, which is {beta:g}; " if beta is not None and beta > 1 else ""
    return (
        f"{lower}let the KL weight warm up for longer (beta: Linear from 0 to 1), leave some nats free (FreeBits), or "
        "take a weaker decoder"
    )


class CollapseWatch:
    """Measures during a training whether the codes are in use, and warns once.

    The first measurement is made when the objective has settled (the weight of the KL is final), a tenth of the epochs
    are over and 200 steps are done; further ones 1, 3, 7, 15, ... epochs later, so that they cost little. Each takes up
    to 1000 validation data, or training data if there are none, and leaves the module and all random streams unchanged.

    Args:
        vae: what is trained; only an `Autoencoder` is measured.
        data: what it is trained on.
        objective: what is minimised.
        epochs: number of epochs of the training.
        steps: number of steps in an epoch.
    """

    def __init__(self, vae: object, data: Dataset, objective: Objective, epochs: int, steps: int) -> None:
        self.vae, self.data, self.objective, self.epochs, self.steps = vae, data, objective, epochs, steps
        self.epochs_due, self.warned = 0, False

    def look(self, epoch: int) -> None:
        """At the end of the epoch of this number, counted from 1."""
        if not self._due(epoch):
            return
        self.epochs_due += 1
        if self.epochs_due & (self.epochs_due - 1):  # not a power of 2
            return
        try:
            found = collapse_warnings(self._measure(), self._beta(epoch))
        except Exception:  # discrete codes, a family without moments, overflow: no diagnosis may end a training
            return
        for warning in found:
            _log.warning(warning)
        self.warned = bool(found)

    def _due(self, epoch: int) -> bool:
        trained = epoch >= _SHARE * self.epochs and epoch * self.steps >= _STEPS
        settled = self.objective.settled(epoch, self.epochs)
        return isinstance(self.vae, Autoencoder) and not self.warned and trained and settled

    def _measure(self) -> LatentStatistics:
        assert isinstance(self.vae, Autoencoder)
        split = "train" if self.data.valid is None else "valid"
        x = next(self.data.chunks(split, rows=_SEEN))
        inputs = self.data.widen_inputs(self.data.given(split, slice(len(x))))
        return latent_statistics(self.vae, x, **inputs)

    def _beta(self, epoch: int) -> float | None:
        beta = getattr(self.objective.at(epoch, self.epochs), "beta", None)
        return float(beta) if isinstance(beta, int | float) else None
