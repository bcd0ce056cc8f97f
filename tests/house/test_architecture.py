"""The house rules: files import only from rows above their own, stay small, and load heavy libraries late."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import pyro_vae

PACKAGE = Path(pyro_vae.__file__).parent
ROWS = [
    "errors shapes messages discovery statistics",
    "process arguments",
    "schedules networks distributions data compiling distributed trackers",
    "priors likelihoods guides inference",
    "autoencoders objectives evidence channels",
    "runs tasks diagnostics",
    "training plots testing explore sharing",
    "report sklearn __init__",
    "cli",
    "__main__",
]
"""The rooms of the package: files import from rooms of rows above their own, and from files of their own room."""
ROW = {name: row for row, names in enumerate(ROWS) for name in names.split()}
FILES = sorted(PACKAGE.rglob("*.py"))
MOST_ARROWS = 232
MOST_LINES, MOST_LINES_OF_A_CLASS, MOST_LINES_OF_A_BODY = 450, 250, 12
LONG: set[str] = set()
"""Files and classes that are still too long; an entry that has become short must be removed."""


@cache
def nodes_of(path):
    return list(ast.walk(ast.parse(path.read_text())))


def dotted(path):
    """The module that a file is."""
    return ".".join(["pyro_vae", *(p for p in path.relative_to(PACKAGE).with_suffix("").parts if p != "__init__")])


MODULES = {dotted(path): path for path in FILES}


def room(module):
    return module.split(".")[1] if "." in module else "__init__"


def imports(path):
    """The modules of the package that a file imports from, wherever in the file."""
    for node in nodes_of(path):
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "pyro_vae")
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pyro_vae":
            names = [f"{node.module}.{a.name}" for a in node.names]
            yield from (name if name in MODULES else node.module for name in names)


def test_every_room_has_a_row():
    assert {room(module) for module in MODULES} == set(ROW)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_from_rows_above(path):
    own = room(dotted(path))
    below = [name for name in imports(path) if room(name) != own and ROW[room(name)] >= ROW[own]]
    assert not below, f"{own} (row {ROW[own]}) imports {below}"


def test_no_cycle_within_a_room():
    """A room's `__init__` imports its files, so no file of the room imports the room itself."""
    edges = {name: {m for m in imports(path) if room(m) == room(name)} - {name} for name, path in MODULES.items()}
    left = set(edges)
    while free := {name for name in left if not edges[name] & left}:
        left -= free
    assert not left, f"a cycle among {sorted(left)}"


def test_few_arrows_between_rooms():
    arrows = {
        (room(dotted(p)), room(m)) for p in FILES if p.parent != PACKAGE or p.stem != "__init__" for m in imports(p)
    }
    arrows = {(a, b) for a, b in arrows if a != b}
    assert len(arrows) <= MOST_ARROWS, f"{len(arrows)} pairs of rooms"


def long_ones():
    """Files above `MOST_LINES`, by path, and classes above `MOST_LINES_OF_A_CLASS`, by path and name."""
    for path in FILES:
        name = path.relative_to(PACKAGE).as_posix()
        if len(path.read_text().splitlines()) > MOST_LINES:
            yield name
        classes = [node for node in nodes_of(path) if isinstance(node, ast.ClassDef)]
        yield from (f"{name} {c.name}" for c in classes if lines_of([c]) > MOST_LINES_OF_A_CLASS)


def lines_of(nodes):
    return nodes[-1].end_lineno - nodes[0].lineno + 1 if nodes else 0


def test_files_and_classes_are_short():
    assert set(long_ones()) == LONG


def test_nine_functions_of_ten_have_a_short_body():
    """A body is counted without the signature and the docstring."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = [node for path in FILES for node in nodes_of(path) if isinstance(node, kinds)]
    lengths = [lines_of(node.body[ast.get_docstring(node) is not None :]) for node in functions]
    assert sum(length <= MOST_LINES_OF_A_BODY for length in lengths) >= 0.9 * len(lengths)


def test_no_pickle_anywhere():
    for path in PACKAGE.rglob("*.py"):
        code = path.read_text()
        assert not re.search(r"import pickle|(?<!safetensors\.)torch\.(load|save)\(", code), path
        assert "allow_pickle=True" not in code


def modules_after(code):
    script = f"import sys; {code}; print(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


def test_import_is_light():
    everything = "import pyro_vae; [getattr(pyro_vae, n) for n in pyro_vae.__all__]"
    assert not modules_after(everything) & {"arviz", "arviz_stats", "torchvision", "matplotlib", "jsonargparse"}


def test_help_needs_no_torch():
    loaded = modules_after("import pyro_vae.cli; pyro_vae.cli.main(['--help'])")
    assert not loaded & {"torch", "pyro", "numpy", "jsonargparse"}


def test_public_names():
    assert all(getattr(pyro_vae, name) is not None for name in pyro_vae.__all__)
    assert callable(pyro_vae.fit) and callable(pyro_vae.log_marginal) and callable(pyro_vae.load)
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = pyro_vae.nope


def calls_of_prior(path):
    """The lines on which a file calls something's `.prior(...)`."""
    calls = (node for node in nodes_of(path) if isinstance(node, ast.Call))
    return [node.lineno for node in calls if isinstance(node.func, ast.Attribute) and node.func.attr == "prior"]


def test_p_of_z_is_asked_of_the_autoencoder_alone():
    """`Autoencoder.prior_distribution`: who calls the module `prior` chooses an encoder for it, maybe another one."""
    of_priors_alone = PACKAGE / "testing" / "priors.py"  # checks a prior without an autoencoder around it
    files = [p for folder in ("pyro_vae", "examples", "benchmarks") for p in (PACKAGE.parent / folder).rglob("*.py")]
    others = [path for path in files if path != of_priors_alone and ".venvs" not in path.parts]  # those of peers
    found = {path.name: lines for path in others if (lines := calls_of_prior(path))}
    assert not found and calls_of_prior(of_priors_alone)
