"""The contract of every axis, as checks that a part of the package or of yours can be put to.

`check_part` runs them all. With pytest, one test a check and setting says more at a glance:

    AXIS = axis_of(MyPrior)

    @pytest.mark.parametrize("part", AXIS.settings(MyPrior), ids=str)
    @pytest.mark.parametrize("check", AXIS.checks, ids=lambda check: check.__name__)
    def test_my_prior(check, part):
        run_check(check, part)  # ContractError where it is broken, NotApplicable where it says nothing

    contract.py     what a check is and how it is run          parts.py      parts, their settings, where they are found
    axes.py         the axes and their checks                  measure.py    integrals, statistics, noise
    priors.py, likelihoods.py, guides.py, networks.py, objectives.py, schedules.py     what each promises
    whole.py        what a part promises inside a VAE          modules.py    what torch modules and values promise
    codes.py        what a distribution of codes promises      exact.py      a VAE whose log p(x) is known

`parts.py` says how a class tells which of its options to try.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

from pyro_vae.errors import UsageError
from pyro_vae.process.isolation import isolated
from pyro_vae.testing.axes import AXES, Axis, axis_of
from pyro_vae.testing.contract import Check, ContractError, NotApplicable, run_check
from pyro_vae.testing.parts import Part

__all__ = [
    "AXES",
    "Axis",
    "Check",
    "ContractError",
    "NotApplicable",
    "Outcome",
    "Part",
    "axis_of",
    "check_part",
    "run_check",
]


@dataclass(frozen=True)
class Outcome:
    """A check that a part has passed, or that says nothing about it.

    Args:
        part: the part, with its options.
        check: name of the check.
        left_out: why it says nothing; empty if it was passed.
    """

    part: str
    check: str
    left_out: str = ""


@isolated
def check_part(
    part: Any,
    *,
    event: tuple[int, ...] = (2, 3),
    latent: int = 2,
    variants: bool = True,
    only: Collection[str] = (),
    seed: int = 0,
) -> list[Outcome]:
    """Put a part to every check of its axis, the axis being that of its base class.

    Some seconds at most, for a part that computes little. Nothing is drawn from the caller's generators.

    Args:
        part: a prior, likelihood, guide, network, objective or schedule: its class, tried with its defaults and its
            options (see `pyro_vae.testing.parts`), or a `functools.partial` of it, tried as it is.
        event: shape of one datum to check it at, for a part that is not for every shape.
        latent: number of latent dimensions.
        variants: whether to try the options of a class.
        only: names of the checks to run; all if empty.
        seed: seed of the draws.

    Returns:
        What was checked, and what was left out.

    Raises:
        ContractError: at the first promise that is broken; it names the part with its options, the check, what was
            expected and what came.
        UsageError: if this is no part, or a check is not known.

    Example:
        >>> from pyro_vae.schedules import Linear
        >>> [outcome.check for outcome in check_part(Linear, variants=False)]
        ['takes_its_options', 'is_a_value', 'is_a_finite_number', 'settles_for_good']
    """
    axis = axis_of(part.func if isinstance(part, partial) else part)
    unknown = set(only) - {check.__name__ for check in axis.checks}
    if unknown:
        known = ", ".join(check.__name__ for check in axis.checks)
        raise UsageError(f"no check {', '.join(sorted(unknown))} of a {axis.name}: expected some of {known}")
    settings = axis.settings(part, variants, event=tuple(event), latent=latent)
    chosen = [check for check in axis.checks if not only or check.__name__ in only]
    return [_outcome(check, setting, seed) for setting in settings for check in chosen]


def _outcome(check: Check, part: Part, seed: int) -> Outcome:
    try:
        run_check(check, part, seed)
    except NotApplicable as reason:
        return Outcome(str(part), check.__name__, str(reason))
    return Outcome(str(part), check.__name__)
