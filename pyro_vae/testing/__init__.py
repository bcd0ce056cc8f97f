"""The contract of every axis, as checks of the package's parts and of yours.

`check_part` runs them all. With pytest, one test for each check and setting reports more:

    AXIS = axis_of(MyPrior)

    @pytest.mark.parametrize("part", AXIS.settings(MyPrior), ids=str)
    @pytest.mark.parametrize("check", AXIS.checks, ids=lambda check: check.__name__)
    def test_my_prior(check, part):
        run_check(check, part)  # ContractError if it is broken, NotApplicable if it does not apply

    contract.py              what a check is and how it is run
    axes.py                  the axes and their checks
    parts.py                 parts, their settings, where they are found; how a class lists the options to try
    priors.py, likelihoods.py, guides.py, networks.py, objectives.py, schedules.py, channels.py    of each axis
    channel_densities.py     the contract of a channel's densities and draws
    observations.py          likelihoods, draws and grids that channels are checked with
    code_distributions.py    the contract of a distribution over codes
    inside_a_vae.py          the contract of a part inside a VAE
    modules.py               the contract of torch modules and of values
    devices.py               whether results are on the device of the data, without an accelerator
    ppca.py                  a VAE with a known log p(x): probabilistic PCA
    spoiled_guides.py        a known posterior, and guides that are wrong in one way each
    measure.py               integrals, statistics, noise
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
    """A check that a part has passed, or that does not apply to it.

    Args:
        part: the part, with its options.
        check: name of the check.
        left_out: why it does not apply; empty if it was passed.
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
    """Run every check of a part's axis, which follows from its base class.

    Takes at most some seconds for a cheap part. Nothing is drawn from the caller's generators.

    Args:
        part: a prior, likelihood, guide, network, objective, schedule or channel: its class, tried with its defaults
            and its options (see `pyro_vae.testing.parts`), or a `functools.partial` of it, tried with its options
            alone.
        event: shape of one datum, for a part that does not take every shape.
        latent: number of latent dimensions.
        variants: whether to try the options of a class.
        only: names of the checks to run; all if empty.
        seed: seed of the draws.

    Returns:
        The outcome of each check.

    Raises:
        ContractError: at the first check that fails; it names the part with its options, the check, what was
            expected and what came.
        UsageError: if this is not a part, or a check is not known.

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
