"""What is shared: an autoencoder, and what its run says of it."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from pyro_vae.arguments.values import shown
from pyro_vae.autoencoders import Autoencoder
from pyro_vae.data.fingerprint import fingerprint
from pyro_vae.errors import UsageError
from pyro_vae.runs.loading import load
from pyro_vae.runs.texts import read_config, read_manifest, weights_in_words


@dataclass(frozen=True)
class Source:
    """An autoencoder, in evaluation mode on the CPU, with what is known of its training.

    Args:
        vae: the autoencoder; not the caller's own, so it may be changed.
        path: the run directory; None for one that is not from a run.
        config: the run's config.yaml.
        manifest: the run's manifest.json.
    """

    vae: Autoencoder
    path: Path | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)

    @property
    def weights(self) -> str | None:
        """In words, which weights of the run these are."""
        return None if self.path is None else weights_in_words(self.config, self.manifest["progress"])

    @property
    def weights_sha256(self) -> str:
        """The fingerprint of the weights, as an evaluation notes it."""
        return fingerprint(*self.vae.state_dict().values())


def source_of(given: Any, trust: Sequence[str] = ()) -> Source:
    """An autoencoder, or the run at a path, ready to share.

    Args:
        given: an `Autoencoder`, or the path of a run directory.
        trust: as for `load`.

    Raises:
        CheckpointError: as `load`.
        UsageError: for anything else.
    """
    if isinstance(given, Autoencoder):
        return Source(deepcopy(given).cpu().eval())
    if not isinstance(given, str | PathLike):
        raise UsageError(f"expected an autoencoder such as a VAE, or the path of a run directory, got {shown(given)}")
    path = Path(given)
    return Source(load(path, trust=trust), path, read_config(path), read_manifest(path))
