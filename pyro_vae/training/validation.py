"""The validation value: the objective on the validation data, by which the best epoch is chosen."""

from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Any, Self

import torch
from torch import Tensor

from pyro_vae.autoencoders import Autoencoder
from pyro_vae.data import Dataset
from pyro_vae.data.storage import is_large
from pyro_vae.distributed import World
from pyro_vae.errors import UsageError
from pyro_vae.evidence import Bound, bound
from pyro_vae.inference.programs import Program, evaluation_mode
from pyro_vae.messages import log_once
from pyro_vae.objectives import ELBO, Objective
from pyro_vae.process.seeding import seeded
from pyro_vae.training.plan import Plan


@dataclass(frozen=True)
class Validation:
    r"""Measures a model on the validation data, in evaluation mode, with the same noise each time.

    .. math:: \text{valid loss} = \frac1N \sum_{\text{batches}} \mathcal L_{\text{final}}(\text{batch})

    L is the loss that is minimised, with the last value of each of its schedules, so that epochs can be compared; it is
    taken in batches of the training's size, with the objective's own number of draws:

    - a bound (`ELBO`, `IWAE`, `Renyi`, `VQBound`, ...) has its own value, a weighted one with its weights; estimators
      of gradients (`DReG`, `StickingTheLanding`, `ScoreFunction`) the value of their bound;
    - `WakeSleep`, whose two phases minimise no common loss, has the ELBO, `ReweightedWakeSleep` the importance
      weighted bound: what they report in training too;
    - `MonteCarloEM` has the ELBO of its guide; without `teach_guide` minus log p(x, z) at draws of fresh chains;
    - `Denoising` has its criterion, on data corrupted by the same noise each time;
    - `SemiSupervisedELBO` counts the labels that the validation data have as an input, weighed as in training; usually
      they have none, and the bound alone decides;
    - with a `Delta` guide the value is minus log p(x|z) - beta log p(z) at the guide's point;
    - an ELBO of Pyro has its `loss`; where it has none (`TraceTailAdaptive_ELBO`), minus the ELBO;
    - a function of the user's own is called as in training, a copy of it, so that counters in it do not move.

    Args:
        vae: the module with `model` and `guide`.
        data: whose `valid` is taken.
        objective: what is minimised, as `Objective.for_data` returns it.
        epochs: length of the training, for the schedules.
        batch_size: data in a batch, at most.
        seed: of the noise.
        world: the processes that share the work.
    """

    vae: Any
    data: Dataset
    objective: Objective
    epochs: int
    batch_size: int
    seed: int
    world: World

    @classmethod
    def of(cls, plan: Plan) -> Self:
        """The one of a training."""
        settings = plan.settings
        options = settings.epochs, settings.batch_size, settings.seed
        return cls(plan.vae, plan.data, plan.objective, *options, plan.world)

    @property
    def name(self) -> str:
        """The class or function that is minimised, with the final weight of the KL where that is not 1."""
        final = self._final()
        beta = getattr(final, "beta", 1)
        return final.loss_name if beta == 1 else f"{final.loss_name} with beta {beta:g}"

    def measure(self) -> dict[str, float]:
        """`loss`, `elbo`, `reconstruction` and `kl`, nats per datum; nothing where there are no validation data.

        For a guide without a width there is no ELBO and no KL (`has_elbo`).
        """
        if self.data.valid is None:
            return {}
        x = self._on_disk if is_large(self.data.valid) else self._read()
        x = x.to(next(self.vae.parameters()).device)
        inputs = self.data.widen_inputs(self.data.given("valid"))
        model, guide = self.vae.model, self.vae.guide
        terms = measured(self.objective, model, guide, x, seed=self.seed, world=self.world, **inputs).means()
        return {"loss": self._loss(x, inputs, terms), **terms}

    def _read(self) -> Tensor:
        """The validation data, with 0 where not observed, as batches of train have it."""
        return self.data.split("valid", gaps=0.0)

    @cached_property
    def _on_disk(self) -> Tensor:
        """The same, read and written once for all epochs."""
        return self._read()

    def _loss(self, x: Tensor, inputs: dict[str, Any], terms: dict[str, float]) -> float:
        final = self._final()
        if type(final) is ELBO and _is_ours(self.vae) and "kl" in terms:  # no scales on sites
            known = final.beta * terms["kl"] - terms["reconstruction"]  # pyright: ignore[reportOperatorIssue]
            if isfinite(known):
                return known
        try:
            return self._mean(final, x, inputs)
        except NotImplementedError:  # by Pyro, for a loss that computes gradients only
            return -terms.get("elbo", terms["reconstruction"])

    def _mean(self, final: Objective, x: Tensor, inputs: dict[str, Any]) -> float:
        parts = torch.arange(len(x)).tensor_split(-(-len(x) // self.batch_size))
        own = self.world.rows(len(parts))
        sums: list[float] = []  # no tensors: see `bound`
        with evaluation_mode(self.vae.model, self.vae.guide):
            for part in parts[own]:
                rows = slice(int(part[0]), int(part[-1]) + 1)
                given = {name: value[rows] for name, value in inputs.items()}
                with seeded(self.seed, "validation", rows.start):
                    value = final.evaluate(self.vae.model, self.vae.guide, x[rows], **given)
                sums.append(float(torch.as_tensor(value).detach()))
        return (self.world.gather(torch.tensor(sums, dtype=torch.float64)).sum() / len(x)).item()

    def _final(self) -> Objective:
        """The objective for the validation data, with the last values of its schedules."""
        train, valid = (
            self.data.given(split) for split in ("train", "valid" if self.data.valid is not None else "train")
        )
        return self.objective.for_validation(train, valid).at(self.epochs, self.epochs)


def measured(objective: Objective, model: Program, guide: Program, x: Tensor, **options: Any) -> Bound:
    """The bound of each datum; nan where it can't be computed and the objective does not need it.

    For example, Pyro's own losses take a model with sites that are summed out, which the guide does not draw.

    Raises:
        UsageError: if there is no bound, and `objective.needs_elbo`.
    """
    try:
        return bound(model, guide, x, **options)
    except UsageError as error:
        if objective.needs_elbo:
            raise
        log_once(f"no ELBO is reported: {error}")
        unknown = torch.full((len(x),), torch.nan, dtype=torch.float64)
        return Bound(unknown, unknown)


def _is_ours(vae: Any) -> bool:
    return isinstance(vae, Autoencoder) and type(vae).__module__.startswith("pyro_vae.")
