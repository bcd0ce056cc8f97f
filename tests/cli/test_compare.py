"""`pyro-vae compare`: the library's numbers on the same images, what is reused, and what is refused."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pyro_vae.data import load_data
from pyro_vae.diagnostics.comparison import compare
from pyro_vae.evidence import log_marginal
from pyro_vae.runs.loading import load
from tests.cli.test_cli import FAST, call, done, is_png, some_of

FEW = "--num_particles 20 --num_data 30 --quiet"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two runs on the same data, one after an epoch and one after 8; never changed, only copied."""
    folder = tmp_path_factory.mktemp("trained")
    for name, epochs in (("short", 1), ("long", 8)):
        assert call("fit", FAST, f"--epochs {epochs} --run", folder / name).code == 0
    return folder


@pytest.fixture
def runs(trained, tmp_path, monkeypatch):
    """In a folder with copies of both, named as they are."""
    monkeypatch.chdir(tmp_path)
    for name in ("short", "long"):
        shutil.copytree(trained / name, name)


@pytest.fixture(scope="module")
def expected(trained):
    x = some_of("test", 30)
    vaes = {name: load(trained / name) for name in ("short", "long")}
    return compare({name: log_marginal(v.model, v.guide, x, num_particles=20) for name, v in vaes.items()})


@pytest.mark.usefixtures("runs")
class TestResult:
    def test_json(self, expected):
        result = done("compare short long", FEW)
        assert [model["name"] for model in result["models"]] == ["long", "short"] == [m.name for m in expected.models]
        for told, model in zip(result["models"], expected.models, strict=True):
            assert told["difference"] == pytest.approx(model.difference, abs=1e-5)
            assert told["standard_error_difference"] == pytest.approx(model.standard_error_difference, abs=1e-5)
        assert result["num_data"] == 30 and result["num_particles"] == 20 and result["reused"] == []
        assert result["data"] == load_data("digits", binarize="dynamic").protocol and result["split"] == "test"

    def test_table_and_picture(self, expected):
        result = call("compare short long", FEW, "--out pictures/difference.png")
        assert result.code == 0 and is_png("pictures/difference.png")
        rows = [line.split() for line in result.out.splitlines()]
        assert [row[0] for row in rows if row and row[0] in ("short", "long")] == ["long", "short"]
        assert "best: long" in result.out and f"{expected.models[1].difference:.3f}" in result.out
        assert not result.err

    def test_progress_and_nothing_is_written(self):
        before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
        assert call("compare short long --num_particles 2 --num_data 60 --split valid").code == 0
        assert before == {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def raised(log_p):
    return log_p + 1000


def tampered(run, change=raised):
    """The saved estimates of a run, changed, with a summary of them; by default raised: whoever reuses them is seen."""
    path = Path(run) / "evidence-test.npz"
    with np.load(path) as arrays:
        changed = {name: arrays[name] for name in arrays}
    if change is None:
        path.write_bytes(b"PK no archive")
    else:
        np.savez(path, **{**changed, "log_p": change(changed["log_p"])})
    told = json.loads(path.with_suffix(".json").read_text())
    told["arrays_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps(told))


@pytest.mark.usefixtures("runs")
class TestReuse:
    def test_of_the_same(self):
        done("evaluate short", FEW)
        tampered("short")
        result = done("compare short long", FEW)
        assert (
            result["reused"] == ["short"]
            and result["models"][0]["name"] == "short"
            and result["models"][0]["log_p"] > 0
        )

    @pytest.mark.parametrize("other", ["--seed 1", "--num_particles 21", "--num_data 29"])
    def test_not_of_other_draws_or_data(self, other):
        done("evaluate short", FEW)
        tampered("short")
        assert done("compare short long", FEW, other)["models"][0]["log_p"] < 0

    def test_not_of_other_weights(self):
        done("evaluate short", FEW)
        tampered("short")
        for name in ("evidence-test.npz", "evidence-test.json"):
            shutil.copy(Path("short") / name, Path("long") / name)
        result = done("compare short long", FEW)
        assert result["reused"] == ["short"]

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            ("{", "Expecting property name"),
            ("[]", "expected a mapping, got []"),
            ('{"num_particles": "20"}', "num_particles: expected a whole number from 1 on, got '20'"),
        ],
    )
    def test_a_damaged_one_is_refused(self, damage, message):
        done("evaluate short", FEW)
        Path("short/evidence-test.json").write_text(damage)
        refused = call("compare short long", FEW)
        assert refused.code == 4 and message in refused.error and "delete it, and it is estimated anew" in refused.error

    @pytest.mark.parametrize("change", [lambda a: a.astype("float32"), lambda a: a[:, None], lambda a: a[:-1], None])
    def test_arrays_of_another_form_are_refused(self, change):
        """Of one, by a hand that made them fit the summary."""
        done("evaluate short", FEW)
        tampered("short", change)
        refused = call("compare short long", FEW)
        assert refused.code == 4 and "evidence-test.npz is damaged (delete it" in refused.error

    def test_not_of_one_that_is_not_whole(self):
        """A process that dies between the two files leaves arrays that the summary does not belong to."""
        done("evaluate short", FEW)
        tampered("short")
        told = json.loads(Path("short/evidence-test.json").read_text())
        Path("short/evidence-test.json").write_text(json.dumps({**told, "arrays_sha256": "0" * 64}))
        assert done("compare short long", FEW)["reused"] == []
        Path("short/evidence-test.json").write_text('{"num_particles": 20}')
        assert done("compare short long", FEW)["reused"] == []

    def test_the_file_names_data_and_weights(self):
        done("evaluate short", FEW)
        told = json.loads(Path("short/evidence-test.json").read_text())
        assert len(told["data_sha256"]) == len(told["weights_sha256"]) == 64


@pytest.mark.usefixtures("runs")
class TestRefusals:
    def test_arguments(self):
        for words, message in (
            ("short", "two or more different runs, got short"),
            ("short short", "two or more different runs"),
            ("short ./short", "two or more different runs"),
            ("short long --num_data 0", "--num_data must be at least 1"),
            ("short long --out x.pdf", "--out must end in .png"),
            ("short nowhere", "there is no run directory nowhere"),
        ):
            result = call("compare", words)
            assert result.code in (2, 4) and message in result.error

    def test_another_binarisation(self):
        done("fit", FAST, "--binarize threshold --epochs 1 --run other")
        result = call("compare short other", FEW)
        assert result.code == 2 and "log p(x) of different data can't be compared" in result.error
        assert "dynamic binarisation" in result.error and "binarised at > 0.5" in result.error

    def test_other_data(self):
        x = np.random.default_rng(0).random((40, 8, 8)) > 0.5
        np.savez("mine.npz", train=x, test=x)
        done("fit", FAST, "--data mine.npz --epochs 1 --run other")
        assert "mine: " in call("compare short other", FEW).error
        assert done("compare short other --data mine.npz", FEW)["num_data"] == 30

    def test_a_density_and_a_probability(self):
        x = (np.random.default_rng(0).random((40, 4)) > 0.5).astype(np.uint8)
        np.savez("binary.npz", train=x, test=x)
        for likelihood in ("Bernoulli", "Normal"):
            done(
                "fit",
                FAST,
                f"--data binary.npz --vae.likelihood {likelihood} --binarize none --epochs 1 --run {likelihood}",
            )
        result = call("compare Bernoulli Normal --num_particles 5")
        assert result.code == 2 and "that of Bernoulli is a probability, that of Normal is a density" in result.error

    def test_a_context_and_none(self):
        done("fit", FAST, "--context labels --epochs 1 --run given")
        result = call("compare short given", FEW)
        assert result.code == 2 and "short is given nothing in addition to x, and given c" in result.error
