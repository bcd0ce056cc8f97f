"""The page on the design is true: its map is the package's, its rows are those of the tests, its paths are walked."""

import re
import sys
from pathlib import Path

import pytest
import torch

import pyro_vae
from pyro_vae import VAE, ais, fit, load, log_marginal
from pyro_vae.evidence import Annealing
from tests.house.test_architecture import PACKAGE, ROWS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/design.md").read_text()


def section(title):
    """The text below a heading, up to the next of its level or above."""
    level, start = re.search(rf"^(#+) {re.escape(title)}", PAGE, re.MULTILINE)[1], PAGE.index(f"# {title}") + len(title)
    return re.split(rf"^#{{1,{len(level)}}} ", PAGE[start:], maxsplit=1, flags=re.MULTILINE)[0]


def steps(title):
    """The numbered lines of a path, each a file and a function."""
    return re.findall(r"^\d+\. `([\w/]+\.py)`, `(\w+)`: .+\.$", section(title), re.MULTILINE)


def test_the_map_is_that_of_the_package():
    rows = re.findall(r"^\| `(.+?)` \| (.+) \|$", section("The map"), re.MULTILINE)
    in_docstring = re.findall(r"^    (\w+(?:/|\.py)) +(.+)$", pyro_vae.__doc__, re.MULTILINE)
    assert [(room, text.replace("\\|", "|")) for room, text in rows[:-1]] == in_docstring
    last = re.search(r"^    (\w+\.py(?:, \w+\.py)+)$", pyro_vae.__doc__, re.MULTILINE)[1]
    assert rows[-1][0].replace("`", "") == last


def test_the_map_is_complete():
    named = set(re.findall(r"`(\w+(?:/|\.py))`", section("The map")))
    folders = {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    assert named - {"__init__.py"} == folders | {path.name for path in PACKAGE.glob("[!_]*.py")}


def test_the_rows_are_those_of_the_tests():
    assert re.search(r"```text\n(.*?)\n```", section("Who imports whom"), re.DOTALL)[1].split("\n") == ROWS


PATHS = {
    "In `fit(vae, x)`": lambda vae, x, run: fit(vae, x, epochs=1, batch_size=10, progress=False),
    "In `log_marginal(vae.model, vae.guide, x)`": lambda vae, x, run: log_marginal(
        vae.model, vae.guide, x, num_particles=10
    ),
    "In `ais(vae.model, vae.guide, x)`": lambda vae, x, run: ais(
        vae.model, vae.guide, x, annealing=Annealing(num_temperatures=2, num_chains=2)
    ),
    "In `load(run)`": lambda vae, x, run: load(run),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("design") / "run"
    fit(VAE((3,), latent_dim=2), torch.ones(10, 3), epochs=1, progress=False, run=path)
    return path


def calls(function):
    """The functions of the package that are called, as files and names, in order."""
    found = []

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(str(PACKAGE)):
            path = Path(frame.f_code.co_filename).relative_to(PACKAGE).as_posix()
            found.append((path, frame.f_code.co_name))

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return found


@pytest.mark.parametrize("title", PATHS)
def test_paths_are_short_and_walked_in_order(title, run):
    path = steps(title)
    assert 1 < len(path) <= 7 and len({file for file, _ in path}) == len(path)
    walked = iter(calls(lambda: PATHS[title](VAE((3,), latent_dim=2), torch.ones(20, 3), run)))
    for step in path:
        assert step in walked, f"{step} is not called after the steps before it"


def test_files_that_are_named_exist():
    named = re.findall(r"`((?:\w+/)+\w+\.py|(?:\w+/)+)`", PAGE)
    missing = [name for name in named if not any((base / name).exists() for base in (PACKAGE, ROOT))]
    assert len(named) > 30 and not missing
