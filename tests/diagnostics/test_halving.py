"""`diagnostics.halving`: how a budget is shared out, and what the rounds say."""

import json

import pytest

from pyro_vae.diagnostics.comparison import Compared, Comparison
from pyro_vae.diagnostics.halving import Round, SearchResult, described, stages
from pyro_vae.errors import UsageError


@pytest.mark.parametrize(
    ("budget", "num", "factor", "lengthened", "expected"),
    [
        (54, 9, 3, True, [(9, 3), (3, 12)]),
        (54, 9, 3, False, [(9, 3), (3, 9)]),
        (100, 10, 2, True, [(10, 2), (5, 7), (3, 15), (2, 27)]),
        (2, 2, 3, True, [(2, 1)]),
    ],
)
def test_each_round_has_the_same_share(budget, num, factor, lengthened, expected):
    plan = stages(budget, num, factor, lengthened)
    assert [(stage.candidates, stage.epochs) for stage in plan] == expected
    spent = [stage.candidates * stage.more for stage in plan]
    assert sum(spent) <= budget and all(share <= budget / len(plan) for share in spent)


def test_a_budget_below_an_epoch_each_is_refused():
    with pytest.raises(UsageError, match="budget: 9 candidates in 2 rounds need at least 18 epochs, got 17"):
        stages(17, 9, 3, True)
    assert stages(18, 9, 3, True)[0].epochs == 1


def compared(name, difference, error):
    return Compared(name, -90 + difference, 1.0, difference, error, 0.01, 0.0, 0.0, 0.5)


def result(*models, kept=2, failed=None):
    first = Round(1, Comparison(models, 50), tuple(m.name for m in models[:kept]), failed or {})
    options = {m.name: {"lr": 0.1 * (i + 1)} for i, m in enumerate(models)} | {
        name: {"lr": 9.0} for name in failed or {}
    }
    return SearchResult(options, (first,), models[0].name, "runs/a", True, 10, 9, 1000, 0)


def test_undecided_is_where_all_that_are_left_are_within_an_error():
    best = compared("a", 0.0, 0.0)
    assert result(best, compared("b", -0.1, 0.2), compared("c", -3.0, 0.2)).undecided
    assert result(best, compared("b", 0.0, 0.0)).undecided
    assert not result(best, compared("b", -0.3, 0.2)).undecided
    assert not result(best, compared("b", -0.1, 0.2), kept=1).undecided
    assert not result(best, compared("b", -0.1, float("nan"))).undecided


def test_the_table_and_the_verdict():
    found = result(
        compared("a", 0.0, 0.0), compared("b", -0.3, 0.2), compared("c", -9.0, 0.2), kept=1, failed={"d": "nan"}
    )
    assert found.ties == ("b",) and found.rounds[0].close == ("b",)
    assert found.verdict == "best: a (lr 0.1); within two standard errors of it: b"
    lines = str(found).splitlines()
    assert lines[0] == "round 1: 1 epochs each, 1 kept" and lines[2].startswith("a ") and "kept: lr 0.1" in lines[2]
    assert "close: lr 0.2" in lines[3] and lines[5].split()[:2] == ["d", "failed"] and lines[-1] == found.verdict
    assert (
        "stopped: the differences of the 2 that are left"
        in result(compared("a", 0.0, 0.0), compared("b", -0.1, 0.2)).verdict
    )


def test_the_summary_is_plain():
    found = result(compared("a", 0.0, 0.0), compared("b", -0.1, 0.2))
    told = json.loads(json.dumps(found.summary()))
    assert told["best"] == "a" and told["undecided"] and told["rounds"][0]["models"][1]["difference"] == -0.1
    assert told["rounds"][0]["kept"] == ["a", "b"] and told["candidates"]["b"] == {"lr": 0.2}


def test_options_in_words():
    spline = {"class_path": "pyro_vae.guides.SplineFlow", "init_args": {"bins": 8}}
    assert described({"a.b": 2, "guide": spline}) == "a.b 2, guide SplineFlow(bins 8)"
