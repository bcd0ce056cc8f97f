"""The fields of a request: what is not as expected is refused by its name."""

import pytest
import torch

from pyro_vae.errors import UsageError
from pyro_vae.explore.request import Request

NAN, LARGE = float("nan"), 10**400


@pytest.mark.parametrize("fields", [None, [], "index", 3, True])
def test_fields_by_name(fields):
    with pytest.raises(UsageError, match="expected fields by name"):
        Request(fields, ["index"])


def test_unknown_fields():
    with pytest.raises(UsageError, match="unknown field 'path'"):
        Request({"path": "/etc/passwd"}, ["index"])


@pytest.mark.parametrize("value", [-1, 10, 1.0, True, "1", None, NAN, LARGE, [1], {}])
def test_whole_numbers(value):
    with pytest.raises(UsageError, match="n: expected a whole number from 0 to 9"):
        Request({"n": value}, ["n"]).whole("n", 0, 9)


@pytest.mark.parametrize("value", [-0.1, 1.1, NAN, float("inf"), LARGE, True, "0.5", None, [0.5]])
def test_numbers_of_a_range(value):
    with pytest.raises(UsageError, match="p: expected a number from 0 to 1"):
        Request({"p": value}, ["p"]).number("p", 0.0, 1.0, 0.0)


@pytest.mark.parametrize(
    "value", [None, [], [1], [1, 2, 3], [1, "2"], [1, None], [1, NAN], [1, 1e39], [1, LARGE], "12", [[1], [2]]]
)
def test_lists_of_numbers(value):
    with pytest.raises(UsageError, match="x: expected"):
        Request({"x": value}, ["x"]).numbers("x", 2)


@pytest.mark.parametrize("value", [None, [], [[1, 2]] * 5, [1, 2], [[1, 2], [1]], [[1, 2], None], {"0": [1, 2]}])
def test_rows(value):
    with pytest.raises(UsageError, match="x: expected"):
        Request({"x": value}, ["x"]).rows("x", 2, most=4)


def test_choices_and_truths():
    request = Request({"a": "q", "b": 1, "c": ["p"]}, list("abc"))
    with pytest.raises(UsageError, match="a: expected 'p' or 'r', got 'q'"):
        request.choice("a", ["p", "r"])
    with pytest.raises(UsageError, match="c: expected 'p', got a list"):
        request.choice("c", ["p"])
    with pytest.raises(UsageError, match="b: expected true or false, got 1"):
        request.truth("b")


def test_what_is_right():
    request = Request({"x": [1, None, 2.5], "k": [[0, 3]], "axes": [1, 0]}, ["x", "k", "axes"])
    assert torch.equal(request.numbers("x", 3, gaps=True).nan_to_num(7), torch.tensor([1, 7, 2.5], dtype=torch.double))
    assert request.rows_of_wholes("k", 2, most=1, below=4).tolist() == [[0, 3]]
    assert request.wholes("axes", 2, below=2) == [1, 0]
    assert request.whole("n", 0, 9, 4) == 4 and request.choice("f", ["p", "q"]) == "p" and not request.truth("t")
