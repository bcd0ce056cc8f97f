"""How a run was trained, and its model trained again so, but for what a proposal changes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyro_vae.autoencoders import VAE
from pyro_vae.data import Dataset
from pyro_vae.process.seeding import seeded
from pyro_vae.report.proposals import Retrain
from pyro_vae.runs.describing import resolve
from pyro_vae.runs.formats import MADE_BY
from pyro_vae.training import fit

_SETTINGS = (
    "objective",
    "batch_size",
    "optimizer",
    "lr_schedule",
    "clip_norm",
    "weight_prior",
    "patience",
    "keep",
    "start_at_mean",
    "seed",
    "compile",
    "precision",
)
"""Arguments of `fit` that a run's config holds, but for `epochs`."""


@dataclass(frozen=True)
class Training:
    """How a run was trained.

    Args:
        config: that of the run.
        data: gives the data of the run, for a number of data of train to hold out where they have no validation data.
        has_valid: whether the data have validation data.
        size: number of training data.
        trust: further modules whose classes the config may name.
    """

    config: Mapping[str, Any]
    data: Callable[[int | None], Dataset]
    has_valid: bool
    size: int
    trust: Sequence[str] = ()

    @property
    def is_whole(self) -> bool:
        """Whether the config alone says how the model was made: it was not refitted, nor begun with other weights."""
        return MADE_BY not in self.config and self.config.get("start_from") is None

    @property
    def epochs(self) -> int:
        """How long the run was trained for, at most."""
        return self.config["epochs"]

    @property
    def stops_early(self) -> bool:
        """Whether the weights are those of the best epoch on validation data."""
        return self.has_valid and self.config.get("keep", "best") == "best"

    def settings(self) -> dict[str, Any]:
        """The arguments of `fit`, without `epochs`.

        Raises:
            CheckpointError: if the config names a class outside the trusted modules.
        """
        trusted = ("pyro_vae", "torch.optim", *self.trust)
        return {name: resolve(self.config[name], trusted) for name in _SETTINGS if name in self.config}


def retrained(vae: VAE, training: Training, change: Retrain | None, epochs: int, progress: bool = True) -> VAE:
    """The model trained again from new weights, in evaluation mode; what `change.command` trains.

    Args:
        vae: the VAE; left as it is.
        training: how it was trained.
        change: what is changed; None for nothing.
        epochs: passes over the training data.
        progress: whether to show progress on standard error.
    """
    change = change or Retrain("nothing")
    settings = {**training.settings(), **change.settings}
    device = next(vae.parameters()).device
    with seeded(settings.get("seed", 0), "init"):
        made = type(vae)(**change.arguments(vae.arguments)).to(next(vae.parameters()).dtype)
    data = training.data(change.valid_size)
    fit(made, data, settings.pop("objective"), epochs=epochs, device=str(device), progress=progress, **settings)
    return made.eval()
