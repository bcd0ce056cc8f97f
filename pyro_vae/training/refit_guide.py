"""`refit_guide`: another guide or encoder for a trained VAE, fitted while its model p(x, z) stays as it is."""

import logging
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pyro_vae.arguments.checked import checked
from pyro_vae.autoencoders import VAE
from pyro_vae.data import Dataset, as_dataset
from pyro_vae.data.allowed import check_allowed
from pyro_vae.errors import UsageError
from pyro_vae.evidence import Bound, bound
from pyro_vae.guides import Delta, Guide
from pyro_vae.networks import FromShapes
from pyro_vae.process.isolation import isolated
from pyro_vae.process.seeding import seeded
from pyro_vae.schedules import Schedule
from pyro_vae.shapes import Shapes
from pyro_vae.statistics.gains import Gains
from pyro_vae.training.fitting import fit
from pyro_vae.training.refit import with_held_out

_log = logging.getLogger("pyro_vae")

_NEW = ("encoder.", "posterior.")
"""How the names of the weights begin that are made anew."""


@dataclass(frozen=True, eq=False, repr=False)
class GuideComparison(Gains):
    """Two guides of one model on the same data, by the same noise.

    Args:
        before: the ELBO of the first.
        after: the ELBO of the second.
        gains: by how much the ELBO of each datum is higher with the second, `[N]`, nats.
    """

    before: Bound
    after: Bound
    gains: Tensor


@isolated
@checked
def compare_guides(
    before: VAE, after: VAE, x: Tensor, num_particles: int = 10, seed: int = 0, **inputs: Tensor
) -> GuideComparison:
    r"""Measure which of two guides is better, on data that neither was fitted to.

    .. math:: \Delta_n = \mathcal L_{after}(x_n) - \mathcal L_{before}(x_n)

    If both VAEs have the same model, that is the difference of `KL(q(z|x) || p(z|x))`, since log p(x) is the same.

    Args:
        before: the VAE with one guide; left as it is.
        after: that with another, such as `refit_guide` returns.
        x: held-out data `[N, *event]`.
        num_particles: draws of z for each datum, at least 1.
        seed: seed of the draws.
        **inputs: `c` of a conditional VAE, `mask` of observed elements, `[N, ...]`.

    Returns:
        A `GuideComparison`, in double precision on the CPU.

    Raises:
        UsageError: if one of the guides is a `Delta`.

    Example:
        >>> vae = VAE((4,), latent_dim=2)
        >>> compare_guides(vae, vae, torch.ones(3, 4)).gains
        tensor([0., 0., 0.], dtype=torch.float64)
    """
    for vae in (before, after):
        _check_elbo(vae)
    device = next(before.parameters()).device
    given: dict[str, Any] = {name: value.to(device) for name, value in inputs.items() if value is not None}
    options = {"num_particles": num_particles, "seed": seed, **given}
    first, second = (bound(vae.model, vae.guide, x.to(device), **options) for vae in (before, after))
    return GuideComparison(first, second, second.elbo - first.elbo)


@isolated
@checked
def refit_guide(
    vae: VAE,
    data: Dataset | Tensor,
    *,
    guide: Callable[[Shapes], Guide] | None = None,
    encoder: Callable[[tuple[int, ...], tuple[int, ...]], FromShapes] | None = None,
    epochs: int = 100,
    batch_size: int = 100,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] = torch.optim.Adam,
    lr_schedule: Schedule | None = None,
    patience: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> VAE:
    r"""Train a new guide for a trained VAE by the ELBO, with prior, decoder and likelihood as they are.

    .. math:: \max_\phi E_x \mathcal L[q_\phi](x) = E_x \log p(x) - \min_\phi E_x KL(q_\phi(z|x) \| p(z|x))

    Log p(x) does not change: only the gap below it does. So this measures what another family or another encoder
    is worth, at the price of a training of the encoder alone, and gives `log_marginal` better proposals. It starts at
    new weights, and keeps those of the epoch with the best ELBO on held-out data. A new guide that is worse there
    than the old one, beyond 2 standard errors (`compare_guides`), is warned about by the logger `pyro_vae`.

    Args:
        vae: the trained VAE; left as it is.
        data: a `Dataset`, or a tensor `[N, *event]`; its `valid` is held out, or else the last tenth of its train.
        guide: the new family of q(z|x), as for `VAE`: a class, or a partial of one; None for the same.
        encoder: the new encoder, as for `VAE`; None for the same class with new weights.
        epochs: passes over the training data.
        batch_size: data in a step.
        optimizer: a `torch.optim` class, or a `functools.partial` of one.
        lr_schedule: factor on the learning rate, in epochs; None for 1. `Cosine(1, 0)` is worth much: for a model of
            static MNIST trained with a flow, a `FullNormal` was 2.0 nats below the flow with it, after 40 epochs from
            2e-3 on, and 9.0 without it after 80.
        patience: stop after this many epochs without a better held-out ELBO; None never to stop early.
        seed: seed of the first weights, of the order of the data and of all noise.
        progress: whether to show progress on standard error.

    Returns:
        A new VAE, in evaluation mode: the same model, and the new guide.

    Raises:
        UsageError: for arguments that make no sense, or a prior that is made of the encoder (`VampPrior`), which would
            change with it.
        DataError: if the data do not fit the VAE, or there are not enough to hold some out.
        NumericalError: at a loss that is not finite.

    References:
        Cremer, Li & Duvenaud 2018, Inference suboptimality in variational autoencoders.

    Example:
        >>> from pyro_vae.guides import FullNormal
        >>> vae = VAE((8, 8), latent_dim=2)
        >>> x = torch.rand(50, 8, 8).round()
        >>> refitted = refit_guide(vae, x, guide=FullNormal, epochs=2, progress=False)
        >>> type(vae.posterior).__name__, type(refitted.posterior).__name__
        ('DiagonalNormal', 'FullNormal')
    """
    check_guide(vae)
    dataset = with_held_out(as_dataset(data))
    held_out, mask = dataset.split("valid"), dataset.observed("valid")
    vae.likelihood.check(held_out, "held-out data", mask)
    check_allowed(vae, dataset)
    refitted = _with_guide(vae, {"guide": guide, "encoder": encoder}, seed)
    device = str(next(vae.parameters()).device)
    for part in (refitted.prior, refitted.decoder, refitted.likelihood):
        part.requires_grad_(False)
    fit(
        _GuideAlone(refitted),
        dataset,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        lr_schedule=lr_schedule,
        patience=patience,
        seed=seed,
        device=device,
        progress=progress,
    )
    _train_as(vae, refitted)
    inputs = dataset.given("valid")
    _warn_if_worse(compare_guides(vae, refitted, held_out, seed=seed, **inputs))
    return refitted.eval()


class _GuideAlone(nn.Module):
    """A VAE whose guide alone is in training mode, so that dropout and norms of its model are as in use."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae, self.model, self.guide = vae, vae.model, vae.guide

    def train(self, mode: bool = True) -> "_GuideAlone":
        """See `nn.Module`."""
        super().train(False)
        self.training = mode
        for part in (self.vae.encoder, self.vae.posterior):
            part.train(mode)
        return self


def check_guide(vae: Any) -> None:
    """Whether the guide of an autoencoder can be fitted alone.

    Raises:
        UsageError: if not, with the reason.
    """
    if not isinstance(vae, VAE):
        raise UsageError(f"refit fits the one guide of a VAE, and this is a {type(vae).__name__}")

    def refuse(*_: Any) -> Any:
        raise UsageError(
            f"refit_guide keeps p(z), and a {type(vae.prior).__name__} is made of the encoder: refit_prior gives the "
            "VAE a prior of its own first"
        )

    probe: Any = copy(vae)
    probe.amortize = refuse
    if vae.arguments["context"] is None:  # a prior may need a context to be made
        probe.prior_distribution()


def _with_guide(vae: VAE, parts: dict[str, Any], seed: int) -> VAE:
    """A VAE with the same model, and these parts with new weights."""
    new = {name: part for name, part in parts.items() if part is not None}
    with seeded(seed, "init"):
        made = type(vae)(**{**vae.arguments, **new}).to(next(vae.parameters()))
    _check_elbo(made)
    kept = {name: value for name, value in vae.state_dict().items() if not name.startswith(_NEW)}
    made.load_state_dict({**made.state_dict(), **kept})
    _train_as(vae, made)
    return made


def _check_elbo(vae: VAE) -> None:
    if isinstance(vae.posterior, Delta):
        raise UsageError("guides are fitted and compared by the ELBO, and a Delta has none: take one with a density")


def _train_as(vae: VAE, made: VAE) -> None:
    """Let the parameters that are no guide's be trained or not, as those of `vae` are."""
    known = dict(vae.named_parameters())
    for name, parameter in made.named_parameters():
        if not name.startswith(_NEW):
            parameter.requires_grad_(known[name].requires_grad)


def _warn_if_worse(found: GuideComparison) -> None:
    if found.verdict == "worse":
        _log.warning(
            f"the new guide is worse than the old one on held-out data, by {-found.gain:.4f} +- "
            f"{found.standard_error:.4f} nats per datum: keep the old one, or fit for more epochs"
        )
