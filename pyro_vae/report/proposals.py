"""What a report proposes to change: a part fitted anew, or the whole model trained again; each is one command."""

import json
import shlex
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pyro_vae.runs.describing import describe


@dataclass(frozen=True)
class Proposal(ABC):
    """What would change a trained VAE."""

    @abstractmethod
    def command(self, run: str, epochs: int | None = None, seed: int | None = None) -> str:
        """The command that does it.

        Args:
            run: the run directory.
            epochs: how long to train; None for the command's default, or what the run was trained for.
            seed: of a part that is fitted; None for the command's default.
        """


@dataclass(frozen=True)
class Refit(Proposal):
    """A part to be fitted anew with the rest as it is, as `refit_prior` and `refit_guide` do.

    Args:
        parts: classes, or partials of them, by name: `prior`, or `guide` and `encoder`.
    """

    parts: Mapping[str, Any]

    @property
    def lr(self) -> float:
        """Learning rate of Adam, which falls to 0: a prior has few weights, and components that must travel."""
        return 3e-2 if "prior" in self.parts else 2e-3

    def command(self, run: str, epochs: int | None = None, seed: int | None = None) -> str:
        """See `Proposal`."""
        words = [word for name, part in self.parts.items() for word in _words(name, describe(part))]
        how = [*_option("epochs", epochs), *_option("seed", seed or None), "--optimizer.lr", f"{self.lr:g}"]
        return shlex.join(["pyro-vae", "refit", run, *words, *how, "--out", f"{run}-{'-'.join(self.parts)}"])


@dataclass(frozen=True)
class Retrain(Proposal):
    """The whole model to be trained again, as it was trained but for what is changed.

    Args:
        name: of the change, for the new run directory.
        options: by part of the VAE, options of its class, e.g. `{"decoder": {"hidden": (400,)}}`.
        settings: arguments of `fit`.
        valid_size: how many data of train to hold out, for data without validation data; None for data with them.
        beside: whether its gain is over the same model without the change, trained as long; else over the run itself.
    """

    name: str
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    valid_size: int | None = None
    beside: bool = False

    def arguments(self, old: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of the VAE, changed.

        Args:
            old: those of the VAE as it is.
        """
        return {**old, **{name: partial(old[name], **changed) for name, changed in self.options.items()}}

    def command(self, run: str, epochs: int | None = None, seed: int | None = None) -> str:
        """See `Proposal`; the seed is that of the run."""
        parts = {f"vae.{name}.{key}": v for name, changed in self.options.items() for key, v in changed.items()}
        given = {**parts, **self.settings, "valid_size": self.valid_size, "epochs": epochs}
        words = [word for name, value in given.items() for word in _option(name, describe(value))]
        return shlex.join(["pyro-vae", "fit", "--config", f"{run}/config.yaml", *words, "--run", f"{run}-{self.name}"])


def _words(name: str, description: Any) -> list[str]:
    """A described part as options: `--encoder MLP --encoder.hidden [400]`."""
    path, options = description["class_path"], description.get("init_args", {})
    own = [word for key, value in options.items() for word in _option(f"{name}.{key}", value, also_none=True)]
    return [f"--{name}", path.rpartition(".")[2] if path.startswith("pyro_vae.") else path, *own]


def _option(name: str, value: Any, also_none: bool = False) -> list[str]:
    if value is None and not also_none:
        return []
    return [f"--{name}", value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))]
