"""`Plan`: what a training is to do, as one value that its parts share."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data import Dataset
from pyro_vae.distributed import World
from pyro_vae.errors import UsageError
from pyro_vae.networks.bayesian import Bayesian, other_parameters, weight_divergence
from pyro_vae.objectives import Objective
from pyro_vae.training.optimizers import factor_at
from pyro_vae.training.settings import Settings


@dataclass(frozen=True)
class Plan:
    """What is trained, on which data, by which objective, how, and by which processes.

    Args:
        vae: the module with `model` and `guide`, on its device.
        data: what it is trained on.
        objective: what is minimised, as `Objective.for_data` returns it.
        settings: the arguments of `fit`.
        world: the processes that share each batch.
    """

    vae: Any
    data: Dataset
    objective: Objective
    settings: Settings
    world: World

    @cached_property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.vae.parameters()).device

    @property
    def num_data(self) -> int:
        """Number of training data."""
        return len(self.data.train)

    def check(self) -> None:
        """Refuse settings that this module or these processes can't follow.

        Raises:
            UsageError: if `weight_prior` is given for a module without a decoder, or one whose weights have another
                prior, or if a batch has too few data.
        """
        if self.settings.weight_prior is not None:
            check_weight_prior(self.vae)
        least = min(self.num_data, self.settings.batch_size)
        if least < self.world.size:
            raise UsageError(
                f"{self.world.size} processes can't share out batches of {least}: take a larger batch_size, or fewer "
                "processes"
            )

    @cached_property
    def _is_bayesian(self) -> bool:
        """Whether a network is `Bayesian`; found once: a walk through all modules is a tenth of the calls of a step."""
        return any(isinstance(part, Bayesian) for part in self.vae.modules())

    def lr_factor(self, epoch: float) -> float:
        """The factor on the learning rate at a time in epochs."""
        return factor_at(self.settings.lr_schedule, epoch, self.settings.epochs)

    def weight_penalty(self, batch: int) -> Tensor | float:
        r"""Minus the log-prior of the weights of a batch, nats, up to a constant.

        `|theta|^2 / (2 s^2) * batch / num_data` of the decoder's parameters, 0 without `weight_prior`; for `Bayesian`
        networks `KL(q(theta) || p(theta)) * batch / num_data`.
        """
        scale, penalty = self.settings.weight_prior, weight_divergence(self.vae) if self._is_bayesian else 0.0
        if scale is not None:
            squares = sum(p.square().sum() for p in other_parameters(self.vae.decoder))
            penalty = penalty + squares / (2 * scale**2)
        return penalty * batch / self.num_data


def check_weight_prior(vae: Any) -> None:
    """Whether `weight_prior` means something for a module.

    Raises:
        UsageError: if it has no decoder, or one whose weights all have another prior.
    """
    if not hasattr(vae, "decoder"):
        raise UsageError("weight_prior needs a module with a `decoder`")
    if not other_parameters(vae.decoder):
        raise UsageError(
            "weight_prior is for weights that are maximised, and those of this decoder have a posterior (Bayesian), "
            "with its own prior_scale: leave weight_prior out"
        )
