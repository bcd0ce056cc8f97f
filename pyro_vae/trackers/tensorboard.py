"""`TensorBoard`: curves, settings and pictures of a training as TensorBoard's files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyro_vae.errors import MissingPackage, UsageError
from pyro_vae.trackers.base import Tracker

_SPLITS = ("train", "valid")


class TensorBoard(Tracker):
    """Writes for TensorBoard, by `torch.utils.tensorboard`; needs the extra `tensorboard`.

    The columns of `History` that training and validation data share are one group of curves: `elbo/train` beside
    `elbo/valid`. Everything is on disk after each call. `tensorboard --logdir runs` shows all runs below a folder.

    Args:
        folder: where its files go; null for the folder `tensorboard` in the run directory.

    Raises:
        MissingPackage: if tensorboard is not installed.

    Example:
        >>> import tempfile
        >>> from functools import partial
        >>> from pyro_vae import VAE, fit
        >>> tracker = partial(TensorBoard, tempfile.mkdtemp())
        >>> history = fit(VAE((4,), latent_dim=2), torch.ones(20, 4), epochs=2, tracker=tracker, progress=False)
    """

    def __init__(self, folder: str | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingPackage("tensorboard", "tensorboard", "the tracker TensorBoard") from error
        self.folder, self._open, self._writer = folder, SummaryWriter, None

    def settings(self, settings: Mapping[str, Any]) -> None:
        """The settings as text."""
        run, folder = settings.get("run"), self.folder
        if folder is None and run is None:
            raise UsageError("TensorBoard needs a folder where there is no run directory: TensorBoard('runs/board')")
        if self._writer is not None:  # that of another run, of an object that is used for several
            self._writer.close()
        self._writer = self._open(str(Path(str(run), "tensorboard") if folder is None else folder))
        lines = json.dumps(settings, indent=2, default=str).splitlines()
        self._writer.add_text("settings", "\n".join(f"    {line}" for line in lines))  # a block of code in Markdown
        self._writer.flush()

    def numbers(self, numbers: Mapping[str, float], step: int) -> None:
        """A point of each curve."""
        writer = self._opened()
        for name, value in numbers.items():
            writer.add_scalar(_tag(name), value, step)
        writer.flush()

    def figure(self, name: str, figure: Any, step: int) -> None:
        """A picture."""
        writer = self._opened()
        writer.add_figure(name, figure, step, close=False)
        writer.flush()

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()

    def _opened(self) -> Any:
        if self._writer is None:
            self.settings({})
        return self._writer


def _tag(name: str) -> str:
    """The name of a curve: `elbo/train` for the column `train_elbo`.

    Example:
        >>> _tag("valid_kl"), _tag("loss"), _tag("lr")
        ('kl/valid', 'loss/train', 'training/lr')
    """
    split, _, term = name.partition("_")
    if split in _SPLITS and term:
        return f"{term}/{split}"
    return "loss/train" if name == "loss" else f"training/{name}"
