"""The arguments of `fit` as one value, saved with the run and compared when it is resumed."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer

from pyro_vae.arguments.values import factory, folder, number, plain, shown, whole
from pyro_vae.data import Dataset
from pyro_vae.errors import UsageError
from pyro_vae.networks.precision import Precision, check_precision
from pyro_vae.objectives import Objective
from pyro_vae.runs.describing import describe, describe_vae
from pyro_vae.runs.restoring import PRECISIONS
from pyro_vae.schedules import Constant, Schedule
from pyro_vae.training.optimizers import as_schedule, check_ends
from pyro_vae.training.steps import Compile

Keep = Literal["best", "last"]


@dataclass(frozen=True)
class Settings:
    """How to train; each field is an argument of `fit`, which describes it."""

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
    keep: Keep = "best"
    start_from: str | PathLike[str] | None = None

    def __post_init__(self) -> None:
        self._be_numbers()
        for name in ("start_at_mean", "compile"):
            value = plain(getattr(self, name))
            if not isinstance(value, bool) and not (name == "compile" and value == "auto"):
                auto = " or 'auto'" if name == "compile" else ""
                raise UsageError(f"{name}: expected True or False{auto}, got {shown(value)}")
            object.__setattr__(self, name, value)
        object.__setattr__(self, "optimizer", factory("optimizer", self.optimizer, Optimizer))
        object.__setattr__(self, "lr_schedule", check_ends(as_schedule(self.lr_schedule), self.epochs))
        check_precision(self.precision)
        if self.keep not in ("best", "last"):
            raise UsageError(f"keep must be 'best' or 'last', got {self.keep!r}")
        start = folder("start_from", self.start_from)
        object.__setattr__(self, "start_from", None if start is None else str(start))
        if start is not None and self.start_at_mean:
            raise UsageError("start_at_mean would replace a bias of the run in start_from: leave one of them out")

    def _be_numbers(self) -> None:
        """Convert all numbers to Python's own types, as a run directory holds them."""
        for name in ("epochs", "batch_size", "log_every", "patience"):
            if name != "patience" or self.patience is not None:
                object.__setattr__(self, name, whole(name, getattr(self, name), 1))
        object.__setattr__(self, "seed", whole("seed", self.seed, None))
        for name in ("clip_norm", "weight_prior"):
            value = getattr(self, name)
            if value is not None and not (value := number(name, value)) > 0:
                raise UsageError(f"{name} must be positive, got {value}")
            object.__setattr__(self, name, value)

    @property
    def is_constant(self) -> bool:
        """Whether no setting changes with time, so that the number of epochs decides only when a training ends."""
        return isinstance(self.lr_schedule, Constant)

    def described(self) -> dict[str, Any]:
        """The settings as plain data, for the run directory."""
        return {name: describe(value) for name, value in vars(self).items()}


def run_config(vae: Any, dataset: Dataset, objective: Objective, settings: Settings) -> dict[str, Any]:
    """Everything needed to repeat a training, as the plain data that `pyro-vae fit --config` takes."""
    if not hasattr(vae, "arguments"):
        raise UsageError(
            f"can't save a {type(vae).__name__} to a run directory: only an Autoencoder, such as VAE, knows how to "
            "describe itself"
        )
    if not objective.can_be_saved:
        raise UsageError(
            f"can't save a {objective.loss_name} to a run directory: pass one of pyro_vae.objectives "
            "(ELBO() is Trace_ELBO(), ELBO(analytic_kl=True) is TraceMeanField_ELBO()), or train without one"
        )
    _check_precision_of_weights(vae)
    return {
        **dataset.origin,
        "vae": describe_vae(vae),
        "objective": describe(objective),
        **settings.described(),
    }


def _check_precision_of_weights(vae: nn.Module) -> None:
    """Refuse weights that a run directory can't restore: of half precision, or of several types."""
    types = {value.dtype for value in vae.state_dict().values() if value.is_floating_point()}
    if len(types) > 1 or not types <= PRECISIONS:
        raise UsageError(
            f"a run directory takes weights that are all float32 or float64, got {', '.join(sorted(map(str, types)))}: "
            "convert the model by .float() or .double(); precision='bf16' computes products in bfloat16"
        )
