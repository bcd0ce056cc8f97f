"""Tables: what their columns are taken for, the numbers that they become, and the way back."""

import re

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_vae import VAE, fit
from pyro_vae.data import Table, as_dataset, load_data
from pyro_vae.data.kinds import kind_of_numbers
from pyro_vae.errors import DataError, UsageError
from pyro_vae.likelihoods import Mixed, Normal
from tests.data.test_sources import refused, written

PEOPLE = """name,age,city,size,smoker,pay,zip
ann,31,Bern,M,yes,1.5,0123
bob,,Chur,S,no,20.25,8000
cyd,47,,L,yes,3.5,0123
dan,52,"Basel, old town",?,no,-4,8000
"""
KINDS = {"name": "category", "size": ["S", "M", "L"], "age": "count", "zip": "category"}


def people(tmp_path, text=PEOPLE, **options):
    return load_data(written(tmp_path / "people.csv", text), **{"missing": "nan", "kinds": KINDS, **options})


def test_codes_are_those_of_the_levels(tmp_path):
    """By hand: levels by the alphabet, or in the order that is given; a gap is nan."""
    data = people(tmp_path)
    assert data.table.described == {
        "name": {"category": ["ann", "bob", "cyd", "dan"]},
        "age": "count",
        "city": {"category": ["Basel, old town", "Bern", "Chur"]},
        "size": {"ordered": ["S", "M", "L"]},
        "smoker": {"binary": ["no", "yes"]},
        "pay": "real",
        "zip": {"category": ["0123", "8000"]},
    }
    nan = float("nan")
    expected = [
        [0, 31, 1, 1, 1, 1.5, 0],
        [1, nan, 2, 0, 0, 20.25, 1],
        [2, 47, nan, 2, 1, 3.5, 0],
        [3, 52, 0, nan, 0, -4, 1],
    ]
    torch.testing.assert_close(data.split("train"), torch.tensor(expected), rtol=0, atol=0, equal_nan=True)
    assert data.table.kinds == ("category:4", "count", "category:3", "ordered:3", "binary", "real", "category:2")


def test_a_file_comes_back_as_it_was(tmp_path):
    """Names, their order, levels with commas and leading zeros, whole numbers; only the sign of a gap is another."""
    data = people(tmp_path)
    back = data.table.frame(data.split("train")).to_csv(index=False)
    assert back == PEOPLE.replace(",?,", ",,").replace(",-4,", ",-4.0,")


@pytest.mark.parametrize("missing", ["nan", -9])
def test_a_frame_comes_back_as_it_was(missing):
    """Types too: whole numbers, truth values, texts, categories in order."""
    size = pd.Categorical(["S", "L", "M"], ["S", "M", "L"], ordered=True)
    frame = pd.DataFrame(
        {"n": [3, 0, 9], "ok": [True, False, True], "t": ["u", "v", "w"], "s": size, "x": [0.5, -1, 2]}
    )
    data = as_dataset(frame, kinds={"n": "count"}, missing=missing)
    assert data.table.kinds == ("count", "binary", "category:3", "ordered:3", "real")
    pd.testing.assert_frame_equal(data.table.frame(data.split("train").double()), frame)


def test_gaps_of_a_frame():
    frame = pd.DataFrame({"n": pd.array([3, None, 9], "Int64"), "ok": [True, None, False], "t": ["u", "v", None]})
    data = as_dataset(frame, missing="nan", kinds={"n": "count"})
    assert data.observed("train").tolist() == [[True, True, True], [False, False, True], [True, True, False]]
    back = data.table.frame(data.split("train"))
    pd.testing.assert_frame_equal(back, frame.astype({"ok": "boolean"}))
    with refused(DataError, "row 1, column 2 ('ok') has no value", "pass missing='nan'"):
        as_dataset(frame)


def test_a_number_that_stands_for_a_gap(tmp_path):
    text = "a,b,c\n-9,x,1\n2,y,-9\n3,-9,0\n"
    data = load_data(written(tmp_path / "t.csv", text), missing=-9)
    assert data.observed("train").tolist() == [[False, True, True], [True, True, False], [True, False, True]]
    assert data.table.described == {"a": "count", "b": {"binary": ["x", "y"]}, "c": "binary"}


def test_means_and_draws_become_values_of_their_kind():
    """A count is rounded, a code becomes the nearest level, and what is outside the nearest there is."""
    table = Table.of({"n": "count", "s": ["S", "M", "L"], "b": "binary", "x": "real"})
    frame = table.frame(torch.tensor([[2.6, 0.6, 0.4, 0.25], [0.4, 2.4, 0.6, -1.0], [7, -3, 1, 3]]))
    assert frame["n"].tolist() == [3, 0, 7] and frame["s"].tolist() == ["M", "L", "S"]
    assert frame["b"].tolist() == [0, 1, 1] and frame["x"].tolist() == [0.25, -1, 3]
    with refused(UsageError, "x: expected shape [N, 4], got [4]"):
        table.frame(torch.zeros(4))


# ---- kinds that the values suggest


def draws(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (draws().normal(size=200), "real"),
        (np.exp(draws().normal(size=200)), "positive"),
        (draws().normal(170, 8, size=200), "real"),  # all positive, not skewed
        (draws().poisson(2, size=500), "count"),
        (draws().poisson(30, size=500), "count"),
        (draws().negative_binomial(1, 0.1, size=500), "count"),
        (draws().integers(1, 6, size=500), "ordered"),
        (draws().normal(1990, 15, size=500).round(), "real"),  # years
        (draws().normal(100, 3, size=500).round(), "real"),  # far less spread than counts
        (np.exp(draws().normal(10, 1, size=200)).round(-2), "positive"),  # incomes
        (draws().integers(0, 2, size=50), "binary"),
        (np.array([2.0, 2.0]), "real"),
        (np.array([-1.0, 0, 1]), "real"),
        (draws().normal(1e9, 1e6, size=200).round(), "real"),  # not exact in single precision
    ],
)
def test_kinds_of_numbers(values, kind):
    """Every array is drawn from a fixed seed, so nothing here is left to chance."""
    assert kind_of_numbers(values.astype(float)) == kind


def test_ordered_levels_are_all_whole_numbers_between(tmp_path):
    rating = [*[1] * 30, *[2] * 30, *[5] * 30]
    data = load_data(written(tmp_path / "t.csv", "r\n" + "\n".join(map(str, rating))), kinds="guess")
    assert data.table.described == {"r": {"ordered": ["1", "2", "3", "4", "5"]}}
    assert data.split("train").unique().tolist() == [0, 1, 4]
    assert data.table.frame(data.split("train"))["r"].tolist() == rating


@pytest.mark.parametrize(
    ("fields", "described"),
    [
        (["a", "b", "c"], {"category": ["a", "b", "c"]}),
        (["b", "a", "b"], {"binary": ["a", "b"]}),
        (["true", "false", "true"], {"binary": ["false", "true"]}),
        (["TRUE", "TRUE", "TRUE"], {"binary": ["FALSE", "TRUE"]}),
        (["none", "mild", "none"], {"binary": ["mild", "none"]}),
        (["x1", "2", "3"], {"category": ["2", "3", "x1"]}),
    ],
)
def test_kinds_of_texts(tmp_path, fields, described):
    assert load_data(written(tmp_path / "t.csv", "t,u\n" + "\n".join(f"{f},1" for f in fields))).table.described == {
        "t": described,
        "u": "real",
    }


def test_a_table_of_numbers_stays_numbers(tmp_path):
    """Without a word on kinds, and without texts, nothing is coded: other likelihoods get what the file has."""
    path = written(tmp_path / "t.csv", "r,x\n1,0.5\n2,3\n2,-1\n")
    data = load_data(path)
    assert data.table.kinds == ("real", "real") and data.split("train").tolist() == [[1, 0.5], [2, 3], [2, -1]]
    assert load_data(path, kinds={"r": "category"}).split("train").tolist() == [[0, 0.5], [1, 3], [1, -1]]
    assert load_data(path, kinds=["category:3", "real"]).split("train").tolist() == [[1, 0.5], [2, 3], [2, -1]]
    assert load_data(path, divide_by=2).split("train")[0].tolist() == [0.5, 0.25]


# ---- reading another file by the same columns


def test_columns_are_found_by_name(tmp_path):
    data = people(tmp_path)
    frame = data.table.frame(data.split("train"))
    shuffled = frame[list(frame.columns[::-1])].to_csv(index=False)
    again = people(tmp_path, shuffled, kinds=data.table)
    assert torch.equal(again.split("train").nan_to_num(-1), data.split("train").nan_to_num(-1))
    assert again.table == data.table == Table.of(data.origin["kinds"])
    one = people(tmp_path, PEOPLE.splitlines()[0] + "\nbob,1.0,Chur,L,no,2,8000\n", kinds=data.table)
    assert one.split("train").tolist() == [[1, 1, 2, 2, 0, 2, 1]]  # codes of the table, not of this file


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (("age,", "Age,"), ("it lacks the column 'age', did you mean 'Age'?", "name, age, city")),
        ((",zip", ",post"), ("it lacks the column 'zip'",)),
        (("Chur", "Zug"), ("line 3, column 3 ('city') is 'Zug', which is none of its levels: Basel, old town, Bern",)),
        ((",S,", ",XL,"), ("line 3, column 4 ('size') is 'XL'", "S, M, L")),
        (("47", "old"), ("line 4, column 2 ('age') is 'old', not a number: the column is count",)),
        (("47", "4.7"), ("line 4, column 2 ('age') is 4.7", "count: whole numbers from 0")),
        ((",zip\n", "\n"), ("line 2 has 7 columns, line 1 has 6",)),
        (("name", "city"), ("two columns called 'city'",)),
    ],
)
def test_files_that_do_not_fit(tmp_path, change, parts):
    table = people(tmp_path).table
    with refused(DataError, "people.csv", *parts):
        people(tmp_path, PEOPLE.replace(*change), kinds=table)


def test_a_wide_table_is_found_by_name(tmp_path):
    names, values = [f"c{i}" for i in range(2000)], [f"{i}.5" for i in range(2000)]
    text = f"{','.join(names)}\n{','.join(values)}\n"
    back = f"{','.join(names[::-1])}\n{','.join(values[::-1])}\n"
    data = people(tmp_path, text, kinds=["real"])
    assert torch.equal(people(tmp_path, back, kinds=data.table).split("train"), torch.arange(2000.0)[None] + 0.5)


def test_a_column_too_many(tmp_path):
    table, longer = (
        people(tmp_path).table,
        "".join(f"{line},1\n" for line in PEOPLE.splitlines()).replace("zip,1", "zip,x"),
    )
    with refused(DataError, "it has an unknown column, 'x'. Expected those of the training data: name, age"):
        people(tmp_path, longer, kinds=table)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a,t\n1,x\n2,x\n", ("column 't' has one text alone, 'x': leave it out",)),
        ("a,t\n1,\n2,\n", ("column 't' has no value at all",)),
        ("a,t\n" + "\n".join(f"1,n{i}" for i in range(30)), ("has 30 different texts in 30 rows", "'t': 'category'")),
        (
            "a,t\n1,2024-05-01\n2,2024-06-01 10:30\n",
            ("line 2, column 2 ('t') is '2024-05-01', not a number but a date",),
        ),
        ("a,t\n1,3.5.2024\n2,4.5.2024\n", ("not a number but a date", "days since a day")),
        ("a,t\n" + "1,2\n" * 30 + "1,2O\n", ("line 32, column 2 ('t') is '2O', not a number as nearly all others",)),
        ("a,t\n1,x\n2\n", ("line 3 has 1 columns, line 1 has 2",)),
        ("a,t\n1,2024-05-01\n" + "2,2024-06-01\n" * 9 + "3,soon\n", ("'2024-05-01', not a number but a date",)),
        ("a;t\n1;1,234\n2;2\n", ("is '1,234': write decimals with a point, and thousands without a comma",)),
        ("a,t\n1,inf\n2,3\n", ("line 2, column 2 ('t') is inf, beyond the numbers of single precision",)),
        ("a,t\n1,2\n2,-1e39\n", ("line 3, column 2 ('t') is -1e+39, beyond the numbers of single precision",)),
        ("a,t\n1,123456789001\n2,123456789002\n", ("column 't' has numbers up to 1.23457e+11", "identifiers")),
    ],
)
def test_columns_that_are_refused(tmp_path, text, parts):
    with refused(DataError, "can't read", *parts):
        people(tmp_path, text, kinds="guess")


@pytest.mark.parametrize(
    "field", ["1,234,567", "-1'234", "1 234.5", "1.234.567,5", "$5", "5%", "1,234 \u20ac", "\u00a32.50"]
)
def test_numbers_with_marks_are_no_levels(tmp_path, field):
    text = f"a;t\n1;{field}\n2;8\n3;9\n4;x\n"
    with refused(DataError, f"column 2 ('t') is {field!r}: write numbers by digits and a decimal point alone"):
        people(tmp_path, text, kinds="guess")
    assert field in people(tmp_path, text, kinds={"t": "category"}).table.described["t"]["category"]


@pytest.mark.parametrize("field", ["1.2.3", "10-20", "110 00", "5 rooms", "A,1", "$", "1,2,3"])
def test_texts_with_digits_are_levels(tmp_path, field):
    data = people(tmp_path, f"a;t\n1;{field}\n2;x\n3;y\n", kinds="guess")
    assert field in data.table.described["t"]["category"]


def test_large_numbers_with_a_spread_are_numbers(tmp_path):
    """Seconds of an epoch, whose rounding to 128 is small beside years."""
    rows = "".join(f"{1_600_000_000 + 1_000_000 * i}\n" for i in range(50))
    assert people(tmp_path, f"t\n{rows}", kinds="guess").table.kinds == ("real",)


def test_dates_of_a_frame_are_refused():
    with refused(UsageError, "column 'd' has dates or times: give a number in its place"):
        as_dataset(pd.DataFrame({"d": pd.to_datetime(["2024-05-01", "2024-05-02"])}))


def test_a_gap_without_a_word_on_gaps_is_refused(tmp_path):
    with refused(DataError, "line 3, column 2 ('age') has no value (''): pass missing='nan'"):
        people(tmp_path, missing=None)


@pytest.mark.parametrize(
    ("kinds", "error", "parts"),
    [
        ({"ages": "real"}, UsageError, ("kinds: the table has no column 'ages', did you mean 'age'?",)),
        ({"age": "reel"}, UsageError, ("kinds: age: expected one of real", "got 'reel', did you mean 'real'?")),
        ({"age": 3}, UsageError, ("kinds: age: expected one of real", "got 3")),
        ({"age": {"real": [1, 2]}}, UsageError, ("kinds: age: expected one of category, ordered, binary", "'real'")),
        ({"size": ["S"]}, UsageError, ("kinds: size: expected at least two different levels",)),
        ({"smoker": [False, True]}, UsageError, ("write the levels in quotes",)),
        ({"size": ["S", "M"]}, DataError, ("('size') is 'L', which is none of its levels: S, M",)),
        ({"city": "real"}, DataError, ("line 2, column 3 ('city') is 'Bern', not a number: the column is real",)),
        ({"pay": "positive"}, DataError, ("line 5, column 6 ('pay') is -4", "positive: numbers above 0")),
        ({"city": "binary"}, DataError, ("column 'city' as binary: expected 2 different values, got 'Basel",)),
        ({"city": "category:4"}, DataError, ("as category: expected 4 different values",)),
        ({"city": "category:1"}, UsageError, ("a number of levels from 2",)),
        ({"size": "ordered"}, UsageError, ("kinds: size: texts have no order of their own", "from lowest to highest")),
        (["real", "real"], UsageError, ("expected one for each of 7 columns",)),
        ("real", UsageError, ("expected the kind of each column by its name",)),
    ],
)
def test_kinds_that_are_refused(tmp_path, kinds, error, parts):
    with refused(error, *parts):
        people(tmp_path, kinds={**KINDS, **kinds} if isinstance(kinds, dict) else kinds)


def test_other_data_have_no_kinds(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 2)))
    with refused(UsageError, "kinds: x has no names of columns"):
        load_data(tmp_path / "x.npy", kinds={"a": "real"})
    with refused(UsageError, "kinds are for a table with names"):
        as_dataset(np.zeros((3, 2)), kinds={"a": "real"})
    with refused(DataError, "expected a table with the columns a, got data of shape [2]"):
        load_data(tmp_path / "x.npy", kinds=Table.of({"a": "real"}))
    with refused(UsageError, "divide_by=2"):
        people(tmp_path, divide_by=2)


def test_likelihoods_that_do_not_fit(tmp_path):
    """Codes of a category are no measurements, and another kind of column takes them for something else."""
    data = people(tmp_path)
    with refused(UsageError, "column 'name' has levels, as category: take likelihood=Mixed"):
        fit(VAE((7,), 2, likelihood=Normal), data, epochs=1, progress=False)
    kinds = ["category:4", "count", "real", "ordered:3", "binary", "real", "binary"]
    with pytest.raises(
        UsageError, match=re.escape("column 'city' is category:3 in the data and real in the likelihood")
    ):
        fit(VAE((7,), 2, likelihood=lambda shapes: Mixed(shapes, kinds)), data, epochs=1, progress=False)


def test_a_summary_of_the_columns(tmp_path):
    data = people(tmp_path)
    assert data.table.summary(data.split("train")).splitlines() == [
        "column  kind        levels or range              gaps",
        "name    category:4  ann, bob, cyd, dan           0",
        "age     count       31 to 52                     1",
        "city    category:3  Basel, old town, Bern, Chur  1",
        "size    ordered:3   S < M < L                    1",
        "smoker  binary      no, yes                      0",
        "pay     real        -4 to 20.25                  0",
        "zip     category:2  0123, 8000                   0",
    ]


@pytest.mark.parametrize("text", ["a,t\n1.5,x\n,\n2,y\n", "a\tt\n1.5\tx\n\t\n\n2\ty\n"])
def test_a_row_of_gaps_stays_a_row(tmp_path, text):
    """A line of delimiters is a row, an empty line is none: imputed rows must be those of the file."""
    x = people(tmp_path, text, kinds={}).split("train")
    expected = torch.tensor([[1.5, 0], [torch.nan, torch.nan], [2, 1]])
    torch.testing.assert_close(x, expected, rtol=0, atol=0, equal_nan=True)
    with refused(DataError, "line 3, column 1 ('a') has no value ('')"):
        people(tmp_path, text, kinds={}, missing=None)


def test_a_gap_in_the_only_column_stays_a_row(tmp_path):
    """pandas writes it as two quotes, so that it is no empty line."""
    frame = pd.DataFrame({"t": ["x", None, "y"]})
    assert people(tmp_path, frame.to_csv(index=False), kinds={}).table.names == ("t",)
    assert people(tmp_path, frame.to_csv(index=False), kinds={}).observed("train").flatten().tolist() == [1, 0, 1]


@pytest.mark.parametrize("text", ["t,a\n#1,3\nx,4\ny,5\n", "#t,s\nx,p\ny,q\n"])
def test_a_comment_that_may_be_a_row_is_refused(tmp_path, text):
    with refused(DataError, "begins with #, as a comment, and has 2 fields, as a row", "first field in quotes"):
        people(tmp_path, text, kinds={})


def test_signs_of_comments_in_names_and_fields(tmp_path):
    data = people(tmp_path, '# of 2024\nt,item #\n"#1",-3.5\nC#,4\n', kinds={})
    assert data.table.described == {"t": {"binary": ["#1", "C#"]}, "item #": "real"}


@pytest.mark.parametrize("texts", [True, False])
def test_a_table_that_is_not_utf_8_is_refused(tmp_path, texts):
    """Read as one sign for all that can't be read, two cities would be one."""
    head = b"c,a\n" if texts else b"\xe4,a\n"
    (tmp_path / "x.csv").write_bytes(head + (b"Z\xfcrich,1\nZ\xe4rich,2\n" if texts else b"1,2\n"))
    with refused(DataError, "can't read", f"line {1 + texts} is not UTF-8", "save the table as UTF-8"):
        load_data(tmp_path / "x.csv", missing="nan")


def test_the_line_of_a_field_is_where_its_row_begins(tmp_path):
    table = people(tmp_path).table
    with refused(DataError, "line 3, column 4 ('size') is 'S\\nno'"):
        people(tmp_path, PEOPLE.replace(",S,", ',"S\nno",'), kinds=table)
