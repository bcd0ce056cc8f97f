"""What `pip install` brings: each dependency once, with an upper bound where what is private is used, and the types."""

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = {
    "pyro": "pyro-ppl",
    "yaml": "pyyaml",
    "arviz_stats": "arviz",
    "xarray": "arviz",
    "sklearn": "scikit-learn",
    "PIL": "pillow",
}
"""The distribution of a module that is called otherwise, or that another brings."""


def names(requirements):
    return [re.match(r"[\w-]+", requirement)[0].lower() for requirement in requirements]


def imported_modules():
    for path in (ROOT / "pyro_vae").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module


def test_each_dependency_is_listed_once():
    listed = names(PROJECT["dependencies"])
    assert len(listed) == len(set(listed))


def test_all_that_is_imported_is_a_dependency_or_an_extra():
    extras = [name for group in PROJECT["optional-dependencies"].values() for name in names(group)]
    known = {*names(PROJECT["dependencies"]), *extras}
    first = {module.partition(".")[0] for module in imported_modules()}
    others = {name for name in first if name not in sys.stdlib_module_names and name != "pyro_vae"}
    assert {MODULES.get(name, name) for name in others} <= known


def test_what_private_names_are_used_of_has_an_upper_bound():
    bounded = {names([text])[0] for text in PROJECT["dependencies"] if "<" in text}
    assert {"pyro-ppl", "torch", "zuko", "jsonargparse"} <= bounded


def test_the_types_are_part_of_the_package():
    assert "Typing :: Typed" in PROJECT["classifiers"] and (ROOT / "pyro_vae" / "py.typed").is_file()


def test_torchvision_is_an_extra_that_make_installs():
    assert "torchvision" not in names(PROJECT["dependencies"])
    assert names(PROJECT["optional-dependencies"]["images"]) == ["torchvision"]
    assert re.search(r"pip install .*-e '\.\[images,", (ROOT / "Makefile").read_text())
