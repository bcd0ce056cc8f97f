"""The house rules: a file imports only from rows above its own, and heavy libraries wait until they are needed."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pyro_vae

PACKAGE = Path(pyro_vae.__file__).parent
ROWS = [
    ["errors", "turns", "switches"],
    ["torch_cache", "interrupts"],
    ["isolation"],
    [
        "remedies",
        "shapes",
        "progress",
        "backends",
        "pareto",
        "rewrites",
        "flow_library",
        "point_masses",
        "averages",
        "convergence",
        "fingerprint",
        "pages",
        "exponentials",
        "rounding",
        "safe_yaml",
        "sites",
    ],
    ["seeding"],
    [
        "arguments",
        "fitting",
        "sources",
        "linear_gaussian",
        "layers",
        "once",
        "stored",
        "precision",
        "reliability",
        "run_files",
        "schema",
        "restoring",
    ],
    ["dataset", "run_schema", "doors", "calling"],
    ["conditioning"],
    ["networks", "schedules", "data", "compiling", "optimizers", "distributed", "mixtures"],
    ["priors", "code_priors", "quantization", "grids", "likelihoods", "guides", "importance", "agreement"],
    ["autoencoder"],
    ["vae", "hierarchical", "vq", "objectives", "tiles"],
    ["targets", "hmc", "simulating", "describing"],
    ["evidence", "checkpoint", "steps", "posterior"],
    ["diagnostics", "arviz_export", "scales"],
    ["parallel", "settings", "derived", "validation", "rehearsal"],
    ["tasks", "training", "refit", "semi_supervised", "clustering"],
    ["testing", "codes"],
    ["plots"],
    ["report"],
    ["cli"],
    ["__init__", "__main__"],
]
ROW = {name: row for row, names in enumerate(ROWS) for name in names}


def modules():
    return sorted({p.relative_to(PACKAGE).parts[0].removesuffix(".py") for p in PACKAGE.rglob("*.py")})


def imports(path):
    """Modules of the package that a file imports, by their first name."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pyro_vae":
            names = [node.module] if node.module != "pyro_vae" else [f"pyro_vae.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names if a.name.split(".")[0] == "pyro_vae"]
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
        yield from (name.split(".")[1] for name in names)


def test_every_file_has_a_row():
    assert set(modules()) == set(ROW)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_from_rows_above(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    below = [name for name in imports(path) if name != own and ROW[name] >= ROW[own]]
    assert not below, f"{own} (row {ROW[own]}) imports {below}"


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
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return [node.lineno for node in calls if isinstance(node.func, ast.Attribute) and node.func.attr == "prior"]


def test_p_of_z_is_asked_of_the_autoencoder_alone():
    """`Autoencoder.prior_distribution`: who calls the module `prior` chooses an encoder for it, maybe another one."""
    of_priors_alone = PACKAGE / "testing" / "priors.py"  # checks a prior without an autoencoder around it
    files = [p for folder in ("pyro_vae", "examples", "benchmarks") for p in (PACKAGE.parent / folder).rglob("*.py")]
    found = {path.name: lines for path in files if path != of_priors_alone and (lines := calls_of_prior(path))}
    assert not found and calls_of_prior(of_priors_alone)
