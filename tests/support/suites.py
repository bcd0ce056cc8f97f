"""Which cases of a test are for the slow suite."""

import pytest


def once_a_class(parts):
    """One case of each class for the quick suite: its first; the others for the slow one."""
    firsts = {type(part): part for part in reversed(parts)}
    return slow_but(list(firsts.values()), parts)


def slow_but(quick, parts):
    """These cases for the quick suite, the others for the slow one."""
    return [part if part in quick else pytest.param(part, marks=pytest.mark.slow) for part in parts]
