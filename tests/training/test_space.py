"""`training.space`: combinations, ranges, and what is refused, with the option's name."""

import math

import pytest

from pyro_vae.errors import UsageError
from pyro_vae.training.space import candidates


def test_lists_alone_give_all_combinations_in_order():
    found = candidates({"a": [1, 2], "b": ["x", "y", None]})
    assert [tuple(one.values()) for one in found] == [(a, b) for a in (1, 2) for b in ("x", "y", None)]
    assert list(found[0]) == ["a", "b"]


def test_some_of_the_combinations_without_replacement():
    found = candidates({"a": [1, 2, 3], "b": [True, False]}, num=4)
    assert len(found) == 4 and all(one not in found[:i] for i, one in enumerate(found))
    assert found == candidates({"a": [1, 2, 3], "b": [True, False]}, num=4)
    others = [candidates({"a": [1, 2, 3], "b": [True, False]}, num=4, seed=seed) for seed in range(9)]
    assert any(one != found for one in others)
    assert len(candidates({"a": [1, 2, 3]}, num=10)) == 3


def test_ranges_are_spread_evenly():
    """Each of the 8 equally likely parts of a range has one value, and each of 4 choices is taken twice."""
    found = candidates({"lr": {"log": [1e-4, 1e-2]}, "p": {"uniform": [0.0, 2.0]}, "k": ["a", "b", "c", "d"]}, num=8)
    parts = sorted(math.floor(8 * (math.log10(one["lr"]) + 4) / 2 + 1e-3) for one in found)
    assert parts == list(range(8))
    assert sorted(math.floor(8 * one["p"] / 2 + 1e-3) for one in found) == list(range(8))
    assert sorted(one["k"] for one in found) == sorted("aabbccdd")
    assert all(one["lr"] == float(f"{one['lr']:.3g}") for one in found)


def test_whole_ends_give_whole_numbers_and_both_ends():
    found = [one["n"] for one in candidates({"n": {"uniform": [1, 3]}}, num=60)]
    assert sorted(found) == [1, 2, 3] and all(type(n) is int for n in found)
    widths = [one["n"] for one in candidates({"n": {"log": [1, 64]}}, num=30)]
    assert min(widths) >= 1 and max(widths) <= 64 and len(set(widths)) == len(widths)
    assert sum(n <= 8 for n in widths) > len(widths) / 4


@pytest.mark.parametrize(
    "ends",
    [
        {"uniform": [0.12345, 0.12349]},
        {"uniform": [0.99951, 0.99999]},
        {"uniform": [-1e308, 1e308]},
        {"uniform": [-0.5, 0.0]},
        {"log": [1e-300, 1e308]},
        {"log": [0.99951, 0.99999]},
    ],
)
def test_numbers_stay_in_their_range_and_differ(ends):
    """Also if the range is narrow, or wider than floats are."""
    found = [one["a"] for one in candidates({"a": ends}, num=20)]
    ((low, high),) = ends.values()
    assert all(low <= value <= high for value in found) and len(set(found)) >= 15
    assert max(found) / 2 - min(found) / 2 > 0.4 * (high / 2 - low / 2) or low == 1e-300


def test_lists_with_very_many_combinations():
    """10^30 of them: some are drawn without making all."""
    space = {f"k{i}": list(range(10)) for i in range(30)}
    found = candidates(space, num=50)
    assert len(found) == 50 and all(list(one) == list(space) for one in found)
    assert 0.4 < sum(value < 5 for one in found for value in one.values()) / 1500 < 0.6  # 8 standard errors
    with pytest.raises(UsageError, match=r"have 1000.* combinations: say how many candidates to draw"):
        candidates(space)


@pytest.mark.parametrize(
    ("space", "num", "message"),
    [
        ({"a": {"uniform": [0, 10**400]}}, 3, r"a: expected finite ends, whole ones up to 2\^53"),
        ({"a": {"uniform": [0, math.inf]}}, 3, "a: expected finite ends"),
        ({"a": {"uniform": [0, math.nan]}}, 3, "numbers low < high"),
        ({"a": [1, 2]}, 2.5, "num_candidates: expected a whole number"),
        ({"a": [1, 2]}, "3", "num_candidates: expected a whole number"),
        ({"a": {"log": [0.1, 1.0]}}, 10**9, "expected at least 2 candidates and at most 10000"),
        ({}, None, "expected options with their values"),
        ([1], None, r"expected options with their values, .* got"),
        ({"a": 3}, None, r"a: expected a list of values, \{uniform: \[low, high\]\} or \{log: \[low, high\]\}, got 3"),
        ({"a": []}, None, "a: expected a list"),
        ({"a": {"normal": [0, 1]}}, 3, "a: expected a list"),
        ({"a": {"log": [0.0, 1.0]}}, 3, "a: a logarithmic range begins above 0"),
        ({"a": {"log": [1.0, 0.1]}}, 3, r"a: expected \{log: \[low, high\]\} with numbers low < high"),
        ({"a": {"uniform": [1]}}, 3, "a: expected"),
        ({"a": {"uniform": ["1", "2"]}}, 3, "a: expected"),
        ({"a": {"uniform": [False, True]}}, 3, "a: expected"),
        ({"a": {"log": [0.1, 1.0]}}, None, "a is a range: say how many candidates to draw, by num_candidates"),
        ({"a": [1, 2, 1]}, None, "a: a value is given twice"),
        ({"a": [1]}, None, "expected at least 2 candidates"),
        ({"a": [1, 2]}, 1, "expected at least 2 candidates and at most 10000, got 1"),
    ],
)
def test_refusals(space, num, message):
    with pytest.raises(UsageError, match=message):
        candidates(space, num)
