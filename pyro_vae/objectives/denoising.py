"""The denoising criterion: the guide gets corrupted data, the model the data themselves."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.errors import PyroVaeError, UsageError
from pyro_vae.inference.programs import Program
from pyro_vae.objectives.base import Objective, tensor_form
from pyro_vae.objectives.bounds import ELBO, IWAE
from pyro_vae.schedules import Schedule

_INNER = "objective."
"""Prefix of the names of the inner objective's schedules."""


@dataclass(frozen=True)
class Denoising(Objective):
    r"""Any objective, with a guide that sees corrupted data and so learns codes that are robust to noise.

    .. math:: \mathcal L(x) = E_{r(\tilde x | x)}\left[ \mathcal L\left(x; q(z | \tilde x)\right) \right], \qquad
        \text{of the ELBO } E_{r(\tilde x | x)} E_{q(z | \tilde x)}\left[
        \log \frac{p(x, z)}{q(z | \tilde x)} \right] \le \log p(x)

    Each q(z|x~) is a distribution of z, so what is a bound on log p(x) for any guide is still one on average over the
    noise. It is lower than the bound of the averaged guide q~(z|x) = E[q(z|x~)], by the mutual information of z and x~
    given x (the KL is convex). With `Delta` and `ELBO(beta=0)` it is the denoising autoencoder: -log p(x | mu(x~)).

    Only the guide sees x~; the model scores x, so x~ need not lie in the likelihood's support. (A guide that evaluates
    the likelihood at its input, `SemiAmortized`, needs noise that stays in the support.) One x~ is drawn for each datum
    and call, for all particles; the dreams of a sleep phase are corrupted by the same noise. The other values that
    `fit` reports, and the evidence, use q(z|x) of the clean data.

    Args:
        objective: the inner objective, which is evaluated with the corrupted data.
        noise: r(x~|x), independent for each element: `"mask"` sets it to `low` with probability `amount`;
            `"salt_and_pepper"` sets it with probability `amount` to `low` or `high`, each with probability 1/2;
            `"normal"` adds N(0, amount^2).
        amount: a probability, or a standard deviation; a number, or a schedule.
        low: value of a masked element, and of pepper.
        high: value of salt.

    Raises:
        UsageError: for an option out of range; if called while `amount` is a schedule, with programs whose first
            argument is not the data, or with a guide that fails on corrupted data.

    References:
        Vincent et al. 2008, Extracting and composing robust features with denoising autoencoders. Im et al. 2017,
        Denoising criterion for variational auto-encoding framework.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> Denoising(ELBO(), noise="mask", amount=0.25)(vae.model, vae.guide, torch.ones(3, 4)).shape
        torch.Size([])
    """

    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"amount": 0.0}, {"objective": IWAE(3), "low": -1.0, "high": 2.0})

    objective: Objective = ELBO()  # noqa: RUF009 - a frozen value
    noise: Literal["mask", "salt_and_pepper", "normal"] = "mask"
    amount: float | Schedule = 0.3
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.noise not in ("mask", "salt_and_pepper", "normal"):
            raise UsageError(f"Denoising needs noise to be 'mask', 'salt_and_pepper' or 'normal', got {self.noise!r}")
        if not isinstance(self.objective, Objective):
            raise UsageError(f"Denoising needs one of pyro_vae.objectives, got {type(self.objective).__name__}")
        if self.objective.updates > 1:
            raise UsageError(f"Denoising does not take {type(self.objective).__name__}: its codes are not the guide's")
        self._require(amount=0)
        if self.noise != "normal" and not isinstance(self.amount, Schedule) and not self.amount <= 1:
            raise UsageError(f"Denoising needs an amount of at most 1, a probability, for {self.noise}: {self.amount}")

    @property
    def num_particles(self) -> int:
        """The inner objective's draws of z for each datum."""
        return getattr(self.objective, "num_particles", 1)

    @property
    def is_bound(self) -> bool:
        """Only without noise: with noise it is a bound, but without equality at the posterior of clean data."""
        return self.amount == 0 and self.objective.is_bound

    @property
    def couples_rows(self) -> bool:
        """As for the inner objective."""
        return self.objective.couples_rows

    def for_data(self, num_data: int, inputs: Mapping[str, Tensor] | None = None) -> Self:
        """With the inner objective's `for_data`."""
        return replace(self, objective=self.objective.for_data(num_data, inputs))

    def for_validation(self, train: Mapping[str, Tensor], valid: Mapping[str, Tensor]) -> Self:
        """With the inner objective's `for_validation`."""
        return replace(self, objective=self.objective.for_validation(train, valid))

    @property
    def schedules(self) -> dict[str, Schedule]:
        """Its own schedules, and those of the inner objective."""
        inner = {_INNER + name: schedule for name, schedule in self.objective.schedules.items()}
        return {**super().schedules, **inner}

    def at(self, epoch: float, total: float) -> Self:
        """This objective and the inner one at a moment of the training."""
        amount = self.amount(epoch, total) if isinstance(self.amount, Schedule) else self.amount
        return replace(self, objective=self.objective.at(epoch, total), amount=amount)

    def holding(self, values: Mapping[str, Tensor]) -> Self:
        """This objective and the inner one with tensors in some of their fields."""
        inner = {name.removeprefix(_INNER): value for name, value in values.items() if name.startswith(_INNER)}
        held: Any = {name: value for name, value in values.items() if not name.startswith(_INNER)}
        held["objective"] = self.objective.holding(inner)
        return super().holding(held)

    def __call__(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The inner objective's loss, summed over the batch, nats."""
        return self.objective(model, self._corrupting(guide, *args), *args, **kwargs)

    def tensor_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The `tensor_loss` of the inner objective."""
        return tensor_form(self.objective)(model, self._corrupting(guide, *args), *args, **kwargs)

    def _corrupting(self, guide: Program, *args: Any) -> Program:
        """The guide on corrupted data, the same noise at each call."""
        if not args or not isinstance(args[0], Tensor) or args[0].dim() == 0:
            came = type(args[0]).__name__ if args else "none"
            raise UsageError(
                f"Denoising corrupts the programs' first argument, data with the batch in front, got {came}"
            )
        amount, noise = self._number("amount"), self._drawn(args[0])

        def corrupted(x: Tensor, *rest: Any, **kwargs: Any) -> Any:
            try:
                return guide(self._corrupted(x, noise, amount), *rest, **kwargs)
            except PyroVaeError:
                raise
            except ValueError as error:  # torch's, of a value outside a support
                raise UsageError(
                    f"the guide can't be run on corrupted data ({str(error).splitlines()[0]}): take noise that keeps "
                    "them what the likelihood is for, by low and high, or a guide that does not ask it"
                ) from error

        return corrupted

    def _drawn(self, x: Tensor) -> Tensor:
        """Noise of the data's shape: a Pyro site, so that several processes can split it."""
        like = torch.zeros(x.shape[1:], dtype=x.dtype if x.is_floating_point() else None, device=x.device)
        elements = dist.Normal(like, 1.0) if self.noise == "normal" else dist.Uniform(like, torch.ones_like(like))
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("corruption", elements.to_event(like.dim()))

    def _corrupted(self, x: Tensor, noise: Tensor, amount: Any) -> Tensor:
        """The data that the guide gets; an element that is nan stays nan, unless it is masked."""
        if self.noise == "normal":
            return x + amount * noise
        if self.noise == "mask":
            return torch.where(noise < amount, self.low, x)
        peppered = torch.where(noise < amount / 2, self.low, x)
        return torch.where(noise > 1 - amount / 2, self.high, peppered)
