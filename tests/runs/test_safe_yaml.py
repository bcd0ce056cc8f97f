"""YAML from outside: plain data as PyYAML gives it, limits before anything is built, one line for each mistake."""

import math

import pytest
import yaml

from pyro_vae.runs.safe_yaml import MAX_CHARACTERS, MAX_DEPTH, MAX_VALUES, YamlError, dump_yaml, load_yaml

CONFIG = {
    "data": "digits",
    "vae": {"class_path": "VAE", "init_args": {"event_shape": [8, 8], "prior": None, "scale": 0.5}},
    "optimizer": {"lr": 1e-3, "betas": [0.9, 0.999]},
    "texts": ["yes", "1e-3", "null", "2024-05-01", "1:30", "", "=", "*a", "1_0", "010"],
    "others": [True, None, -3, 1e300, math.inf],
}


def bomb(levels):
    """`levels` lists of ten aliases of the one before: 10 ** levels values."""
    lines = [f"k{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels + 1)]
    return "\n".join(["k0: &a0 1", *lines])


def test_what_is_dumped_is_read():
    assert load_yaml(dump_yaml(CONFIG)) == CONFIG
    shared = [8, 8]
    assert dump_yaml({"a": shared, "b": shared}) == "a:\n- 8\n- 8\nb:\n- 8\n- 8\n"


@pytest.mark.parametrize("flow", [True, False])
def test_what_pyyaml_dumps_is_read(flow):
    config = {**CONFIG, "texts": [text for text in CONFIG["texts"] if text != "1e-3"]}  # which it takes for no number
    assert load_yaml(yaml.safe_dump(config, default_flow_style=flow)) == config


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("-1E5", -1e5),
        (".5", 0.5),
        ("5.", 5.0),
        ("1_000", 1000),
        ("0x1F", 31),
        ("-.inf", -math.inf),
        ("010", "010"),
        ("1:30", "1:30"),
        ("2024-99-99", "2024-99-99"),
        ("9" * 5000, "9" * 5000),
        ("", None),
        ("a: {b: &b {c: 1}, d: {<<: *b, e: 2}}", {"a": {"b": {"c": 1}, "d": {"c": 1, "e": 2}}}),
    ],
)
def test_values(text, value):
    found = load_yaml(text)
    assert found == value and type(found) is type(value)


def test_aliases_are_copies():
    found = load_yaml("a: &a {hidden: [3]}\nb: *a")
    assert found["a"] == found["b"] == {"hidden": [3]}
    assert found["a"] is not found["b"] and found["a"]["hidden"] is not found["b"]["hidden"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb(9), r"k4\[\d\]: expected at most 10000 values, with aliases written out"),
        ("a: &a [1, 2]\nb: {c: &c [" + "*a, " * 4000 + "]}", r"b\.c\[\d+\]: expected at most 10000 values"),
        ("vae: &v {prior: *v}", r"^vae\.prior: the alias \*v stands for something that it is part of"),
        ("&a [*a]", r"^\[0\]: the alias \*a stands for"),
        ("k: " + "[" * (MAX_DEPTH + 9), r"^k(\[0\])+: expected at most 50 levels"),
        ("[&a 1, &a 2]", r"^line 1, column 8: found duplicate anchor"),
        (f"a: &a {'[' * 30}{']' * 30}\nb: {'[' * 30}*a{']' * 30}", r"^b(\[0\])+: expected at most 50 levels"),
        ("x" * (MAX_CHARACTERS + 1), "at most 200000 characters, got 200001"),
        ("[" + "1, " * (MAX_VALUES + 1) + "]", "at most 10000 values"),
        ("vae: {prior: 1, prior: 2}", r"^vae: the key 'prior' is given twice"),
        ("vae: {1: 2}", r"^vae: expected a name as key, got 1"),
        ("on: 2", r"^expected a name as key, got True"),
        ("vae: {[1]: 2}", r"^vae: expected a name as key, got a mapping or a list"),
        ("a: &a b\n*a : 1", r"expected a name as key, got the alias \*a"),
        ("a: !!python/object/apply:os.system [x]", r"^a: expected plain data, got the tag .*os\.system"),
        ("a: !!binary eA==", r"^a: expected plain data, got the tag"),
        ("a: [", r"^line 2, column 1: "),
        ("a: *b", r"^line 1, column 4: found undefined alias"),
        ("a\n---\nb", "document"),
        ("\0", "control characters"),
    ],
)
def test_mistakes(text, message):
    with pytest.raises(YamlError, match=message) as caught:
        load_yaml(text)
    assert "\n" not in str(caught.value)
