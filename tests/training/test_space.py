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
    ("space", "num", "message"),
    [
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
        ({"a": [1, 2]}, 1, "expected at least 2 candidates, got 1"),
    ],
)
def test_refusals(space, num, message):
    with pytest.raises(UsageError, match=message):
        candidates(space, num)
