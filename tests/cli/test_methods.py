"""`pyro-vae evaluate --method`: each method alone, and all of them side by side."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pyro_vae.cli.parsing import parser_of
from pyro_vae.evidence.methods import METHODS, estimate
from pyro_vae.runs.loading import load
from tests.cli.test_cli import FAST, call, done, some_of, tensors
from tests.evidence.test_methods import FASTEST

pytestmark = pytest.mark.usefixtures("few_adapted")
FEW = "--num_data 3 --num_particles 40 --quiet"
CHEAP = " ".join(f"--options.{name} {value}" for m in ("ais", "appendix_d") for name, value in FASTEST[m].items())


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = tmp_path_factory.mktemp("methods") / "run"
    assert call("fit", FAST, "--data digits --binarize dynamic --epochs 1 --run", run).code == 0
    return run


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def everything(run):
    """The JSON of all methods, and the run."""
    return done("evaluate", run, FEW, CHEAP, "--method all"), run


def saved_result(run, method):
    """What is saved of a method, without what proves that the arrays belong to it."""
    saved = json.loads((run / f"evidence-test-{method}.json").read_text())
    proof = saved.pop("arrays_sha256")
    assert proof == hashlib.sha256((run / f"evidence-test-{method}.npz").read_bytes()).hexdigest()
    return saved


def options_of(method):
    chosen = FASTEST[method] if method in ("ais", "appendix_d") else {}
    return " ".join(f"--options.{name} {value}" for name, value in chosen.items())


class TestOne:
    """A method of its own name, and a file of its own."""

    @pytest.mark.parametrize("method", sorted(set(METHODS) - {"importance"}))
    def test_json_and_files(self, run, method):
        before = tensors(run), (run / "manifest.json").read_bytes()
        result = done("evaluate", run, FEW, options_of(method), "--method", method)
        vae, x = load(run), some_of("test", 3)
        own = FASTEST[method] if method in ("ais", "appendix_d") else {}
        own |= {"num_particles": 40} if method in ("psis", "prior") else {}
        expected = estimate(method, vae.model, vae.guide, x, **own)
        assert result["method"] == method and result["bound"] == expected.bound and result["num_data"] == 3
        assert result["nll"] == -result["log_p"] == pytest.approx(-expected.mean, abs=1e-4)
        assert result["bits_per_dim"]["mean"] == pytest.approx(result["nll"] / 64 / np.log(2))
        assert saved_result(run, method) == result
        with np.load(run / f"evidence-test-{method}.npz") as arrays:
            assert set(arrays) == set(expected.columns())
            np.testing.assert_allclose(arrays["log_p"], expected.log_p.numpy(), atol=1e-4)
        assert before == (tensors(run), (run / "manifest.json").read_bytes())
        assert not (run / "evidence-test.json").exists() and not (run / "pictures").exists()

    def test_importance_keeps_its_names_and_its_words(self, run):
        named = done("evaluate", run, FEW, "--method importance")
        assert named == done("evaluate", run, FEW) and "method" not in named and "health" not in named
        assert {p.name for p in run.glob("evidence-*")} == {"evidence-test.json", "evidence-test.npz"}

    def test_table(self, run):
        shown = call("evaluate", run, FEW, "--method quadrature").out
        for text in ("quadrature (log p(x) off to either side)", "NLL ", "standard error, method", "not converged"):
            assert text in shown
        shown = call("evaluate", run, FEW, "--method psis").out
        assert (
            "psis (log p(x) off to either side)" in shown and "(K = 40 draws, seed 0)" in shown and "k-hat > " in shown
        )

    def test_the_number_of_data_by_default_is_told(self, run):
        result = done("evaluate", run, "--method quadrature --quiet")
        assert result["num_data"] == 100 and "100 data at most" in result["note"]
        assert "note" not in done("evaluate", run, "--method prior --num_particles 5 --quiet")


class TestAll:
    """Every method on the same data, in one table and one file."""

    def test_json(self, everything):
        result, run = everything
        assert list(result["methods"]) == list(METHODS) and result["num_data"] == 3
        exact = result["methods"]["quadrature"]["log_p"]
        for name, entry in result["methods"].items():
            assert entry["nll"] == -entry["log_p"] and entry["seconds"] >= 0 and entry["health"]
            assert entry["bound"] in ("lower", "upper", "consistent") and 0 <= entry["unreliable"] <= 1
            assert abs(entry["log_p"] - exact) < 3, name
        assert saved_result(run, "all") == result
        assert {p.name for p in run.glob("evidence-*")} == {"evidence-test-all.json", "evidence-test-all.npz"}
        with np.load(run / "evidence-test-all.npz") as arrays:
            means = {name.split("/")[0]: arrays[name].mean() for name in arrays if name.endswith("/log_p")}
        assert means == pytest.approx({name: entry["log_p"] for name, entry in result["methods"].items()})

    def test_table_and_refusals(self):
        done("fit", FAST, "--vae.latent_dim 7 --epochs 1 --run r")
        shown = call("evaluate r", FEW, CHEAP, "--method all").out
        lines = shown.splitlines()
        head = next(line for line in lines if "s.e. method" in line)
        rows = {name: next(line for line in lines if line.split()[:1] == [name]) for name in ("importance", "ais")}
        assert all(len(row) <= len(head) for row in rows.values()) and "too low" in rows["ais"]
        assert "quadrature: quadrature takes 1 or 2 latent dimensions, and this model has 7" in shown
        assert "appendix_d: appendix_d fits a density" in shown and "k-hat > " in shown
        result = done("evaluate r", FEW, CHEAP, "--method all")
        assert "has 7" in result["methods"]["quadrature"]["refused"] and "log_p" in result["methods"]["prior"]

    def test_the_exact_value_where_it_is_known(self):
        words = "--data linear_gaussian --vae.likelihood Normal --vae.likelihood.scale 0.5 --epochs 1 --run r"
        done("fit", FAST, words)
        result = done("evaluate r", FEW, CHEAP, "--method all")
        assert result["exact_log_p_of_the_generating_process"] > result["methods"]["quadrature"]["log_p"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("--method nope", ["--method: unknown value 'nope'. Known: importance", "all"]),
        ("--method ais --precision bf16", ["--precision bf16 is for --method importance and psis, not ais"]),
        ("--method all --precision bf16", ["not all"]),
        ("--method ais --options.num_chain 3", ["--options.num_chain: --method ais has no such option", "num_chains"]),
        ("--method prior --options.num_particles 3", ["--options.num_particles", "It is --num_particles"]),
        ("--method importance --options.num_chains 3", ["--method importance has no such option", "none"]),
        ("--method ais --options.num_chains 0", ["must be at least 1"]),
        ("--method quadrature --num_data 0", ["--num_data must be at least 1, got 0"]),
    ],
)
def test_mistakes(run, words, parts):
    result = call("evaluate", run, words, "--quiet")
    assert result.code == 2
    for part in parts:
        assert part in result.error


def test_several_processes_are_refused(run, monkeypatch):
    """Before the others are met: the number of processes is told by torchrun's environment."""
    from pyro_vae.cli.work import evaluate
    from pyro_vae.distributed import World
    from pyro_vae.errors import UsageError

    options = parser_of("evaluate").parse_args(["r", "--method", "ais"])
    with pytest.raises(UsageError, match="--method ais runs in one process"):
        evaluate._check(options, World(rank=0, size=2))


@pytest.mark.parametrize("method", ["importance", "prior", "all"])
def test_errors_of_a_single_datum_are_unknown_not_nan(run, method):
    """There is no spread over one datum."""
    told = call(
        "evaluate", run, "--num_data 1 --num_particles 20 --quiet --method", method, CHEAP * (method == "all")
    ).out
    assert "unknown" in told and "nan" not in told
