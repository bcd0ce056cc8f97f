"""The axes of choice: the base class, the module and the checks of each."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from pyro_vae.channels import Channel
from pyro_vae.errors import UsageError
from pyro_vae.guides import Guide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.networks import Network
from pyro_vae.objectives import Objective
from pyro_vae.priors import Prior
from pyro_vae.schedules import Schedule
from pyro_vae.testing import channels, guides, likelihoods, networks, objectives, priors, schedules
from pyro_vae.testing.contract import Check
from pyro_vae.testing.parts import Part, concrete_classes, parts_of


@dataclass(frozen=True)
class Axis:
    """One axis of choice.

    Args:
        base: base class of its parts.
        module: the module or package that defines them.
        build: makes a part, with sizes that it accepts.
        checks: the checks that its parts must pass.
    """

    base: type
    module: str
    build: Callable[[Part], Any]
    checks: tuple[Check, ...]

    @property
    def name(self) -> str:
        """The name for messages."""
        return self.base.__name__.lower()

    def classes(self) -> list[type]:
        """The concrete classes of the package."""
        return concrete_classes(import_module(self.module), self.base)

    def parts(self) -> list[Part]:
        """The concrete classes of the package, each with every setting to try."""
        return [part for cls in self.classes() for part in self.settings(cls)]

    def settings(self, value: Any, variants: bool = True, **sizes: Any) -> list[Part]:
        """The settings to check of a class or a partial, without combinations that the class refuses by UsageError."""
        first, *others = parts_of(value, variants, **sizes)
        return [first, *(part for part in others if not self._refuses(part))]

    def _refuses(self, part: Part) -> bool:
        try:
            self.build(part)
        except UsageError:
            return True
        except Exception:  # a failure, not a refusal: the checks report it
            return False
        return False


AXES: tuple[Axis, ...] = (
    Axis(Prior, "pyro_vae.priors", priors.build, priors.CHECKS),
    Axis(Likelihood, "pyro_vae.likelihoods", likelihoods.build, likelihoods.CHECKS),
    Axis(Guide, "pyro_vae.guides", guides.build, guides.CHECKS),
    Axis(Network, "pyro_vae.networks", networks.build, networks.CHECKS),
    Axis(Objective, "pyro_vae.objectives", objectives.build, objectives.CHECKS),
    Axis(Schedule, "pyro_vae.schedules", schedules.build, schedules.CHECKS),
    Axis(Channel, "pyro_vae.channels", channels.build, channels.CHECKS),
)


def axis_of(cls: Any) -> Axis:
    """The axis of a class.

    Raises:
        UsageError: if it derives from no axis's base class.

    Example:
        >>> from pyro_vae.priors import VampPrior
        >>> axis_of(VampPrior).name
        'prior'
    """
    for axis in AXES:
        if isinstance(cls, type) and issubclass(cls, axis.base):
            return axis
    names = ", ".join(axis.base.__name__ for axis in AXES)
    raise UsageError(f"expected a class that derives from one of {names}, or a functools.partial of one, got {cls!r}")
