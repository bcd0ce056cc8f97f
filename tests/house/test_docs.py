"""What the documentation shows, runs: Python and commands of its pages, docstrings' examples, configurations, links."""

import doctest
import importlib
import pkgutil
import re
import runpy
import shlex
import sys
from functools import cache
from pathlib import Path
from signal import SIGINT, SIGTERM

import pytest
import torch

import pyro_vae
from pyro_vae import errors
from pyro_vae.cli import main
from pyro_vae.cli.finding import command_names
from pyro_vae.cli.parsing import parser_of
from pyro_vae.errors import Stopped
from pyro_vae.evidence.methods import METHODS
from pyro_vae.testing import AXES
from pyro_vae.testing import inside_a_vae as whole

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    m.name for m in pkgutil.walk_packages(pyro_vae.__path__, "pyro_vae.") if not m.name.endswith("__main__")
)


@pytest.mark.usefixtures("few_adapted")
@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs={"torch": torch}, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_the_doctests_are_there():
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for name in MODULES for test in finder.find(importlib.import_module(name))]
    assert sum(len(test.examples) for test in found) > 25


@pytest.fixture
def run_python(tmp_path, monkeypatch):
    """A function that runs all Python blocks of a page in order, in one namespace, and returns it.

    A block with `file=` is written to that file, which can then be imported.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    written = []

    def run(page, least=4):
        namespace = {}
        blocks = re.findall(r"```python(?: file=(\S+))?\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
        assert len(blocks) >= least
        for file, code in blocks:
            if file:
                (tmp_path / file).write_text(code)
                written.append(file.removesuffix(".py"))
            else:
                exec(compile(code, page, "exec"), namespace)
        return namespace

    yield run
    for module in written:
        sys.modules.pop(module, None)


def shape_of(text):
    """The lines of an output without their numbers, whether one is "at least" so large, and the width of columns."""
    text = text.replace("at least ", "")
    return [re.sub(r"\s+", " ", re.sub(r"-?\d+(\.\d+)?", "#", line)) for line in text.strip().splitlines()]


def outputs():
    """The outputs that README shows, in order."""
    return re.findall(r"```text\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_readme_python(run_python, capsys):
    """Prints what the page shows, and reaches it but for rounding on another machine."""
    namespace = run_python("README.md", least=2)
    shown = outputs()[0]
    assert shape_of(capsys.readouterr().out) == shape_of(shown)
    assert namespace["digits"].shape == (16, 8, 8)
    assert namespace["evidence"].mean == pytest.approx(float(re.search(r"log p\(x\) = (\S+)", shown)[1]), abs=0.3)


def test_readme_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = re.search(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1].splitlines()
    for line in lines:
        capsys.readouterr()
        assert main(line.removeprefix("pyro-vae ").split()) == 0
    printed, shown = capsys.readouterr().out, outputs()[1]
    assert shape_of(printed) == shape_of(shown)
    nll = [float(re.search(r"NLL +(\S+) nats", text)[1]) for text in (printed, shown)]
    assert nll[0] == pytest.approx(nll[1], abs=0.3)


def test_parts_names_every_part():
    text = (ROOT / "docs/parts.md").read_text()
    missing = [c.__name__ for axis in AXES for c in axis.classes() if f"`{c.__name__}`" not in text]
    assert not missing


def test_command_names_every_command():
    text = (ROOT / "docs/command.md").read_text()
    assert set(re.findall(r"^pyro-vae (\w+)", text, re.MULTILINE)) == set(command_names())


def test_exit_codes_are_those_of_the_errors():
    table = re.search(r"## Exit codes\n(.*?)\n## ", (ROOT / "docs/command.md").read_text(), re.DOTALL)[1]
    rows = re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE)
    codes = {value.exit_code for value in vars(errors).values() if hasattr(value, "exit_code")}
    codes |= {Stopped(signal, "").exit_code for signal in (SIGINT, SIGTERM)}
    assert {int(code) for row in rows for code in row.split(",")} == codes | {0}


def test_extending_python(run_python, capsys):
    namespace = run_python("docs/extending.md")
    assert "normalises" in capsys.readouterr().out
    assert type(namespace["vae"].encoder).__name__ == "Sines"


def test_tasks_python(run_python, capsys):
    """Missing pixels are restored better than by chance, and the page's numbers are of the shapes it says."""
    namespace = run_python("docs/tasks.md")
    assert namespace["restored"].mean.shape == namespace["x"].shape
    assert namespace["scores"].values.shape == (len(namespace["test"]),)
    assert "alarms" in capsys.readouterr().out


def test_sklearn_python(run_python):
    """The search's estimator is what was saved."""
    namespace = run_python("docs/sklearn.md", least=2)
    assert namespace["search"].best_params_["vaetransformer__latent_dim"] in (1, 2)


@pytest.mark.parametrize("page", ["command", "data", "evidence", "parts", "tasks", "training"])
def test_commands_parse(page):
    """Every line of the command on a page is one that the command takes."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / f"docs/{page}.md").read_text(), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    lines = [re.sub(r" >>? \S+", "", line) for line in lines if line.startswith("pyro-vae ")]  # to a file
    commands = [shlex.split(line, comments=True)[1:] for line in lines]
    kept_parser = cache(parser_of)
    for command, *words in commands:
        assert kept_parser(command).parse_args(words)


def test_extending_names_every_check():
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", (ROOT / "docs/extending.md").read_text(), re.MULTILINE)
    told = {name: re.findall(r"`(\w+)`", checks) for name, checks in rows}
    of_a_vae = [check.__name__ for check in whole.CHECKS]
    for axis in AXES:
        own = [check.__name__ for check in axis.checks if check not in whole.CHECKS]
        assert told[axis.name] == own
    assert told["a VAE with the part in it"] == of_a_vae


@pytest.mark.usefixtures("few_adapted")
def test_evidence_python(run_python, capsys):
    """The gap of the example is that of an untrained model, where it must be small."""
    namespace = run_python("docs/evidence.md", least=1)
    assert abs(namespace["both"].gap.mean) < 1 and "Sandwich(" in capsys.readouterr().out


def test_evidence_names_every_method():
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/evidence.md").read_text(), re.MULTILINE)
    assert rows == list(METHODS)


FOLDERS = [ROOT, ROOT / ".github", *(ROOT / "docs" / name for name in ("", "learn", "howto", "explain", "reference"))]
PAGES = [page for folder in FOLDERS for page in folder.glob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_exist(page):
    """Files and folders are there, and so are the headings that a link names."""
    for target, heading in re.findall(r"\]\(([^)#:\s]*)(?:#([^)]+))?\)", without_code(page.read_text())):
        path = page.parent / target if target else page
        assert path.exists() or is_written_by_the_build(path), target
        assert not heading or heading in anchors(path), heading


def without_code(text):
    """A page without its blocks of code and its formulas."""
    return re.sub(r"```.*?```|\$\$.*?\$\$|\$[^$\n]*\$|`[^`\n]*`", "", text, flags=re.DOTALL)


def is_written_by_the_build(path):
    """Whether it is a page of the reference, which Sphinx checks."""
    return (ROOT / "docs/reference") in [folder.resolve() for folder in path.parents][1:]


def anchors(page):
    """The anchors of a page's headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda p: p.stem)
def test_example_configurations_parse(path):
    assert parser_of("fit").parse_args(["--config", str(path)]).epochs > 0


def test_demo_configuration_on_a_small_setting(tmp_path, capsys):
    code = main(
        [
            "fit",
            "--config",
            str(ROOT / "examples/digits.yaml"),
            "--epochs",
            "2",
            "--run",
            str(tmp_path / "run"),
            "--quiet",
        ]
    )
    assert code == 0 and (tmp_path / "run/pictures/samples.png").exists()


def test_extend_example(capsys, monkeypatch):
    """The parts keep their contracts (imported, so that a run directory can name them), and the script runs."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    extend = importlib.import_module("extend")
    try:
        extend.main(epochs=2)
    finally:
        del sys.modules["extend"]
    out = capsys.readouterr().out
    assert out.count("checks passed") == 3 and "k-hat" in out


def test_own_programs_example(capsys):
    """The script runs, and its estimate is within 0.01 nats of the exact log p(x) it prints beside it."""
    namespace = runpy.run_path(str(ROOT / "examples/own_programs.py"))
    namespace["main"](epochs=5)
    off = float(re.search(r"off by ([-+.\d]+)", capsys.readouterr().out)[1])
    assert abs(off) < 0.01
