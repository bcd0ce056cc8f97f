"""`Tracker`: what a class needs to be told the numbers of a training."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pyro_vae.arguments.values import shown
from pyro_vae.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_METHODS = ("settings", "numbers", "figure")


@runtime_checkable
class Tracker(Protocol):
    """Is told the settings, the numbers and the figures of a training.

    Any object with these three methods is one. All calls come one after the other from the thread that trains, between
    two epochs: the training waits for each. What they raise is one warning, and the training goes on without the
    tracker (`Guarded`). A method `close()`, if there is one, is called at the end by whoever made the tracker.

    Example:
        >>> class Printed:
        ...     def settings(self, settings):
        ...         print("batch_size", settings["batch_size"])
        ...
        ...     def numbers(self, numbers, step):
        ...         print(f"epoch {numbers['epoch']} ends at step {step}")
        ...
        ...     def figure(self, name, figure, step):
        ...         pass
        >>> isinstance(Printed(), Tracker)
        True
        >>> from pyro_vae import VAE, fit
        >>> history = fit(VAE((4,), latent_dim=2), torch.ones(20, 4), epochs=2, tracker=Printed, progress=False)
        batch_size 100
        epoch 1 ends at step 1
        epoch 2 ends at step 2
    """

    @abstractmethod
    def settings(self, settings: Mapping[str, Any]) -> None:
        """Told first, also when a training is resumed.

        Args:
            settings: all settings of the training as plain data, nested as in config.yaml; `run` is the run directory,
                None without one.
        """

    @abstractmethod
    def numbers(self, numbers: Mapping[str, float], step: int) -> None:
        """Told after each epoch, once over all resumptions.

        Args:
            numbers: a row of `History`, by column, without `step`; nats per datum.
            step: steps that the training has made.
        """

    @abstractmethod
    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """A picture, e.g. one of those that `pyro-vae fit` draws at the end.

        Args:
            name: what it shows, e.g. `"curves"`.
            figure: of matplotlib; it is the caller's, and stays open.
            step: steps that the training had made.
        """


def check_tracker(value: Any) -> None:
    """Refuse what is neither a tracker, nor a class or a function that makes one.

    Args:
        value: what came as `tracker`.

    Raises:
        UsageError: with the methods that are missing.
    """
    made = value.func if isinstance(value, partial) else value
    if not isinstance(made, type) and callable(made) and not any(hasattr(made, name) for name in _METHODS):
        return
    missing = [name for name in _METHODS if not callable(getattr(made, name, None))]
    if missing:
        raise UsageError(
            f"tracker: expected an object with the methods {', '.join(_METHODS)}, or a class of such, got "
            f"{shown(value)}, which lacks {', '.join(missing)}"
        )


def makes(value: Any) -> Callable[[], Any] | None:
    """The function that makes the tracker; None if it is made already."""
    return value if isinstance(value, type | partial) or not isinstance(value, Tracker) else None


def name_of(value: Any) -> str:
    """The name of a tracker for messages: that of its class."""
    made = value.func if isinstance(value, partial) else value
    return getattr(made, "__name__", type(made).__name__)
