"""The contract of a schedule."""

from math import isfinite
from typing import Any

from pyro_vae.testing.contract import Check, expect
from pyro_vae.testing.modules import expect_takes_options, expect_value
from pyro_vae.testing.parts import Part

_TIMES = [t / 10 for t in range(301)]


def build(part: Part) -> Any:
    """The schedule."""
    return part()


def takes_its_options(part: Part) -> None:
    """It can be built with its defaults and with every option in its signature."""
    expect_takes_options(part, build)


def is_a_value(part: Part) -> None:
    """A frozen dataclass: instances with the same fields, copies and saved ones are equal."""
    expect_value(part)


def is_a_finite_number(part: Part) -> None:
    """A finite number at all times, the same at each call, for trainings of any length."""
    for total in (0.5, 1.0, 30.0, 1000.0):
        values = [part()(t * total / 30, total) for t in _TIMES]
        again = [part()(t * total / 30, total) for t in _TIMES]
        bad = [v for v in values if not isinstance(v, int | float) or not isfinite(v)]
        expect(not bad, f"finite numbers over a training of {total} epochs", bad[:3])
        expect(values == again, "a function of time alone", "other values at a second call")


def settles_for_good(part: Part) -> None:
    """Once `settled` is True, its value no longer changes."""
    schedule = part()
    for total in (30.0, 20.0):
        final = schedule(total, total)
        times = [t for t in _TIMES if t <= total]
        early = [t for t in times if schedule.settled(t, total)]
        later = [t for t in times if early and t >= early[0] and schedule(t, total) != final]
        start = early[0] if early else 0
        expect(not later, f"{final} from epoch {start} of {total} on, where it is settled", f"others at {later[:3]}")


CHECKS: tuple[Check, ...] = (takes_its_options, is_a_value, is_a_finite_number, settles_for_good)
