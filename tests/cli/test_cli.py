"""The command: its results, its files, its one-line errors, and a user's own class from Python, YAML and the shell."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import yaml

from pyro_vae.autoencoders import VAE
from pyro_vae.cli import main
from pyro_vae.cli.finding import command_names
from pyro_vae.cli.parsing import parser_of
from pyro_vae.cli.work import evaluate
from pyro_vae.data import load_data
from pyro_vae.data.dataset import evenly_spread
from pyro_vae.diagnostics import LatentStatistics, latent_statistics
from pyro_vae.errors import CheckpointError
from pyro_vae.evidence import log_marginal
from pyro_vae.runs.loading import load, read_config, read_metrics
from pyro_vae.training.fitting import fit

SMALL = "--vae.latent_dim 2 --vae.encoder.hidden [8] --vae.decoder.hidden [8]"
FAST = f"{SMALL} --pictures false --quiet"
ROOT = Path(__file__).parents[2]
PICTURES = {"curves", "reconstructions", "samples", "latent_kl", "pareto_k", "manifold"}


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))

    @property
    def error(self):
        """The last line of standard error, which is the only one that is about an error."""
        assert "Traceback" not in self.err and not self.out
        *before, last = self.err.splitlines()
        assert last.startswith("pyro-vae") and not any("error:" in line for line in before)
        return last


def call(*words):
    """`pyro-vae WORDS`, each split at blanks, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([part for word in words for part in str(word).split()])
        except SystemExit as end:  # --help and --print_config
            code = end.code
    return Result(code, out.getvalue(), err.getvalue())


def shell(*words, program="pyro_vae"):
    """The same in a process of its own."""
    command = [sys.executable, "-m", *program.split(), *(part for word in words for part in str(word).split())]
    paths = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    environment = {**os.environ, "PYTHONPATH": paths.rstrip(os.pathsep)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    return Result(done.returncode, done.stdout, done.stderr)


def done(*words):
    """The JSON of a command that must succeed."""
    result = call(*words, "--json")
    assert result.code == 0, result.err
    return result.json


def saved_result(run):
    """What `evaluate` has saved of the test set."""
    saved = json.loads((Path(run) / "evidence-test.json").read_text())
    proof = saved.pop("arrays_sha256")
    assert proof == hashlib.sha256((Path(run) / "evidence-test.npz").read_bytes()).hexdigest()
    assert len(saved["data_sha256"]) == len(saved["weights_sha256"]) == 64
    return saved


def tensors(run):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(run).glob("*.safetensors")}


def some_of(split, num):
    """The data that the commands take where they are asked for so many."""
    data = load_data("digits", binarize="dynamic")
    return data.select(split, evenly_spread(data.size(split), num))


def is_png(path):
    return Path(path).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """In a folder of its own, which is not on Python's path, and afterwards none of its modules is known."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield
    sys.modules.pop("mine", None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run with pictures; never changed, only copied."""
    run = tmp_path_factory.mktemp("trained") / "run"
    assert call("fit", SMALL, "--epochs 3 --quiet --run", run).code == 0
    return run


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


class TestFit:
    """What a fit says and leaves."""

    def test_files(self, trained):
        names = {path.name for path in trained.iterdir()}
        assert {"config.yaml", "manifest.json", "metrics.csv", "pictures"} < names
        assert {path.stem for path in (trained / "pictures").iterdir()} == PICTURES  # manifold: two latent dimensions
        assert all(is_png(path) for path in (trained / "pictures").iterdir())
        assert [row["epoch"] for row in read_metrics(trained)] == [1, 2, 3]

    def test_no_manifold_of_other_sizes(self, tmp_path):
        assert done("fit --vae.latent_dim 3 --vae.encoder.hidden [4] --epochs 1 --quiet --run r")["pictures"]
        assert {path.stem for path in Path("r/pictures").iterdir()} == PICTURES - {"manifold"}

    def test_json(self):
        result = done("fit", FAST, "--epochs 2 --run r")
        assert result["run"] == "r" and result["epochs"] == 2 and result["pictures"] == []
        assert result["data"] == load_data("digits", binarize="dynamic").protocol
        assert result["device"].startswith("cuda" if torch.cuda.is_available() else "cpu")
        row = read_metrics("r")[result["best_epoch"] - 1]
        for name in ("loss", "train_elbo", "train_reconstruction", "train_kl", "valid_elbo", "valid_kl"):
            assert result[name] == row[name]

    def test_table_and_progress(self):
        result = call("fit", SMALL, "--pictures false --epochs 2 --run r")
        assert result.code == 0
        assert "valid elbo" in result.out and "run                   r\n" in result.out
        assert result.err.startswith("data: digits: divided by 16; dynamic") and "run directory: r\n" in result.err
        assert "elbo -" in result.err

    def test_quiet(self):
        lines = call("fit", FAST, "--epochs 1 --run r").err.splitlines()
        assert [line.partition(":")[0] for line in lines] == ["data", "run directory"]

    def test_a_runs_config_repeats_it(self, trained):
        assert call("fit --quiet --pictures false --run other --config", trained / "config.yaml").code == 0
        assert tensors("other") == tensors(trained) and len(tensors("other")) == 3
        assert read_config(Path("other")) == read_config(trained)

    def test_default_directory_is_stable_and_resumes(self):
        first = done("fit", FAST, "--epochs 2")
        before = (tensors(first["run"]), (Path(first["run"]) / "metrics.csv").read_text())
        again = done("fit", FAST, "--epochs 2 --save_every 1")
        assert again == first and before == (tensors(first["run"]), (Path(first["run"]) / "metrics.csv").read_text())
        other = done("fit", FAST, "--epochs 2 --seed 1")
        assert other["run"] != first["run"]
        assert {str(path) for path in Path("runs").iterdir()} == {first["run"], other["run"]}
        assert Path(first["run"]).name.startswith("digits-")

    def test_print_config(self):
        printed = call("fit", FAST, "--epochs 1 --optimizer SGD --optimizer.lr 1e-4 --run r --print_config")
        assert printed.code == 0 and not Path("r").exists()
        Path("printed.yaml").write_text(printed.out)
        assert done("fit --config printed.yaml")["run"] == "r"
        config = read_config(Path("r"))
        assert config["epochs"] == 1 and config["vae"]["decoder"]["init_args"]["hidden"] == [8]
        assert config["optimizer"]["class_path"] == "torch.optim.SGD" and config["optimizer"]["init_args"]["lr"] == 1e-4

    def test_options_of_the_parts(self):
        likelihood = "--vae.likelihood Normal --vae.likelihood.scale learned --vae.likelihood.min_scale 0.01"
        schedules = "--objective.beta Linear --objective.beta.epochs 3 --lr_schedule Cosine --lr_schedule.end 0.1"
        others = "--vae.guide FullNormal --optimizer.betas [0.8,0.9] --epochs 1 --run r"
        done("fit", FAST, likelihood, schedules, others)
        config, vae = read_config(Path("r")), load("r")
        assert vae.likelihood.scale == "learned" and vae.likelihood.min_scale == 0.01
        assert type(vae.posterior).__name__ == "FullNormal" and vae.decoder.hidden[0].out_features == 8
        assert config["objective"]["init_args"]["beta"]["init_args"]["epochs"] == 3
        assert config["lr_schedule"]["init_args"]["end"] == 0.1 and config["optimizer"]["init_args"]["betas"] == [
            0.8,
            0.9,
        ]

    @pytest.mark.parametrize(
        ("words", "binarize"),
        [
            ("--vae.likelihood Bernoulli", "dynamic"),
            ("--vae.likelihood Normal", "none"),
            ("--vae.likelihood Bernoulli --data binary.npz", "none"),
            ("--vae.likelihood Bernoulli --data grey.npz", "dynamic"),
            ("--vae.likelihood Normal --binarize threshold", "threshold"),
            ("--vae.likelihood Bernoulli --binarize static", "static"),
        ],
    )
    def test_binarize(self, words, binarize):
        grey = np.random.default_rng(0).random((30, 4), dtype=np.float32)
        np.savez("grey.npz", train=grey, test=grey[:5])
        np.savez("binary.npz", train=(grey > 0.5).astype(np.uint8), test=(grey[:5] > 0.5).astype(np.uint8))
        done("fit", FAST, words, "--epochs 1 --run r")
        assert read_config(Path("r"))["binarize"] == binarize

    def test_data_of_ones_own(self, monkeypatch):
        """A path given from one folder holds in another; event_shape comes from the data."""
        x = np.random.default_rng(0).integers(0, 256, (40, 3, 5), dtype=np.uint8)
        np.savez("mine.npz", train=x, test=x[:7])
        assert "mine: divided by 255" in done("fit", FAST, "--data mine.npz --valid_size 10 --epochs 1 --run r")["data"]
        config = read_config(Path("r"))
        assert config["vae"]["event_shape"] == [3, 5] and config["valid_size"] == 10
        assert config["data"] == str(Path("mine.npz").resolve())
        Path("below").mkdir()
        monkeypatch.chdir("below")
        assert done("evaluate ../r --split valid --num_particles 5")["num_data"] == 10

    def test_a_mapped_file(self):
        """An `.npy` gives what the same array in an `.npz` gives, and only the rows asked for are read."""
        x = np.random.default_rng(0).integers(0, 256, (40, 6), dtype=np.uint8)
        np.save("x.npy", x)
        np.savez("x.npz", train=x)
        for source in ("x.npy", "x.npz"):
            words = f"--valid_size 10 --epochs 2 --data_seed 3 --data {source} --run r-{source}"
            assert "dynamic binarisation with seed 3" in done("fit", FAST, words)["data"]
        assert tensors("r-x.npy") == tensors("r-x.npz") != {}
        assert done("evaluate r-x.npy --split valid --num_particles 5")["num_data"] == 10
        expected = load_data("x.npz", binarize="dynamic", valid_size=10, seed=3).select("train", evenly_spread(30, 5))
        with np.load(done("reconstruct r-x.npy --split train --num 5 --out r.npz")["saved"]) as arrays:
            np.testing.assert_array_equal(arrays["x"], expected)
        refused = call("reconstruct r-x.npy --split train --num 0")
        assert refused.code == 2 and "expected at least 1 datum of train, got 0" in refused.error


LAYERS = "--vae HierarchicalVAE --vae.latent_dims [4,2] --vae.encoder.hidden [8] --vae.upper_encoder.hidden [6]"


@pytest.fixture(scope="module")
def layers(tmp_path_factory):
    """A finished run of another class than VAE; never changed, only copied."""
    run = tmp_path_factory.mktemp("layers") / "run"
    assert call("fit", LAYERS, "--epochs 2 --quiet --run", run).code == 0
    return run


class TestAnyAutoencoder:
    """`--vae CLASS`: the class as on the axes of a VAE's parts, its options under `--vae.`."""

    def test_fit(self, layers):
        config = read_config(layers)
        assert config["vae"]["class_path"] == "pyro_vae.autoencoders.HierarchicalVAE"
        arguments = config["vae"]["init_args"]
        assert arguments["event_shape"] == [8, 8] and arguments["latent_dims"] == [4, 2]
        assert arguments["upper_encoder"]["init_args"]["hidden"] == [6] and config["binarize"] == "dynamic"
        assert {path.stem for path in (layers / "pictures").iterdir()} == PICTURES - {"manifold", "latent_kl"}

    def test_the_other_commands(self, layers, tmp_path):
        run = Path(shutil.copytree(layers, tmp_path / "copy"))
        result = done("evaluate", run, "--num_particles 20 --num_data 30")
        vae, x = load(run), some_of("test", 30)
        expected = log_marginal(vae.model, vae.guide, x, num_particles=20)
        assert result["log_p"] == pytest.approx(expected.mean, abs=1e-5)
        assert result["active_units"] == str(latent_statistics(vae, x)) and result["active_units"].startswith("z2: ")
        with np.load(done("sample", run, "--num 9 --out draws.npz")["saved"]) as arrays:
            assert set(arrays) == {"z1", "z2", "mean", "x"} and arrays["z2"].shape == (9, 2)
        assert is_png(done("sample", run, "--num 9")["saved"])
        assert 0 < done("reconstruct", run, "--num 9 --num_particles 2")["mean_squared_error"] < 1
        told = done("info", run)
        assert told["class"] == "HierarchicalVAE" and told["latent_dims"] == "[4, 2]" and told["latent_dim"] == 6
        assert told["upper_encoder"].startswith("MLP(hidden=[6]") and "ladder" not in told

    def test_a_runs_config_repeats_it(self, layers):
        assert call("fit --quiet --pictures false --run other --config", layers / "config.yaml").code == 0
        assert tensors("other") == tensors(layers) and read_config(Path("other")) == read_config(layers)

    def test_the_same_command_resumes(self, layers, tmp_path):
        run = Path(shutil.copytree(layers, tmp_path / "copy"))
        assert done("fit", LAYERS, "--epochs 2 --quiet --pictures false --run", run)["epochs"] == 2
        result = call("fit", LAYERS, "--vae.ladder true --epochs 2 --quiet --run", run)
        assert result.code == 4 and "vae.init_args.ladder is False there, True here" in result.error
        result = call("fit --epochs 2 --quiet --run", run)
        assert result.code == 4 and "holds a run with other settings" in result.error

    def test_print_config(self):
        printed = call("fit", LAYERS, "--vae.ladder true --print_config")
        Path("printed.yaml").write_text(printed.out)
        done("fit --config printed.yaml --epochs 1 --quiet --pictures false --run r")
        assert load("r").ladder and load("r").latent_dims == (4, 2)

    @pytest.mark.parametrize(
        ("vae", "latent"),
        [
            ({"latent_dim": 3}, 3),
            ({"event_shape": [8, 8], "latent_dim": 3}, 3),
            ({"class_path": "pyro_vae.autoencoders.VAE", "init_args": {"latent_dim": 3}}, 3),
            ({"class_path": "VAE", "init_args": {"latent_dim": 3, "event_shape": [8, 8]}}, 3),
            ({"class_path": "pyro_vae.autoencoders.HierarchicalVAE", "init_args": {"latent_dims": [4, 2]}}, 6),
            ({"class_path": "HierarchicalVAE", "init_args": {"latent_dims": [4, 2]}}, 6),
        ],
    )
    def test_yaml(self, vae, latent):
        Path("vae.yaml").write_text(yaml.safe_dump({"vae": vae, "epochs": 1, "run": "r"}))
        done("fit --config vae.yaml --quiet --pictures false")
        assert load("r").shapes.latent == latent and load("r").shapes.event == (8, 8)

    def test_null_reaches_every_depth(self):
        words = "--vae.prior VampPrior --vae.prior.bounds null --vae.context null --objective.beta.epochs null"
        options = parser_of("fit").parse_args(words.split())
        assert options.vae.init_args.prior.init_args.bounds is options.vae.init_args.context is None
        assert options.objective.init_args.beta.init_args.epochs is None

    def test_help(self):
        result = call("fit --help")
        assert "HierarchicalVAE" in result.out and "--vae.latent_dim" in result.out
        result = call("fit --vae.help HierarchicalVAE")
        assert result.code == 0 and "--vae.latent_dims" in result.out and "--vae.upper_encoder" in result.out

    @pytest.mark.parametrize(
        ("words", "parts"),
        [
            ("--vae HierarchicVAE", ["vae: unknown class 'HierarchicVAE', did you mean 'HierarchicalVAE'?", "VAE"]),
            ("--vae.latnt_dim 3", ["VAE has no option 'latnt_dim', did you mean 'latent_dim'?", "conditions"]),
            (
                f"{LAYERS} --vae.latent_dim 3",
                ["HierarchicalVAE has no option 'latent_dim', did you mean 'latent_dims'?"],
            ),
            (f"{LAYERS} --vae.upper_encoder MPL", ["vae.upper_encoder: unknown class 'MPL', did you mean 'MLP'?"]),
            (f"{LAYERS} --vae.upper_encoder.hiden 3", ["MLP has no option 'hiden', did you mean 'hidden'?"]),
            (f"{LAYERS} --vae.prior Vamp", ["vae.prior: unknown class 'Vamp'", "VampPrior"]),
            (f"{LAYERS} --vae.ladder maybe", ["vae.ladder", "true or false", "maybe"]),
            ("--vae HierarchicalVAE --vae.latent_dims [3]", ["expected two layers or more, got (3,)"]),
            ("--vae pyro_vae.networks.MLP", ["vae: expected a subclass of Autoencoder, got MLP", "HierarchicalVAE"]),
            ("--vae.latent_dim three", ["vae.latent_dim: expected a whole number, got 'three'"]),
            ("--vae VQVAE --context labels", ["--context: VQVAE takes none; leave it out, or take --vae VAE"]),
        ],
    )
    def test_mistakes(self, words, parts):
        result = call("fit", words)
        assert result.code == 2
        for part in parts:
            assert part in result.error
        assert "Expected a path" not in result.error


class TestEvaluate:
    """log p(x) and its errors."""

    def test_json(self, run):
        before = tensors(run), (run / "manifest.json").read_bytes(), (run / "metrics.csv").read_bytes()
        result = done("evaluate", run, "--num_particles 20")
        assert before == (tensors(run), (run / "manifest.json").read_bytes(), (run / "metrics.csv").read_bytes())
        data, vae = load_data("digits", binarize="dynamic"), load(run)
        expected = log_marginal(vae.model, vae.guide, data.split("test"), num_particles=20, seed=0)
        assert result["nll"] == -result["log_p"] == pytest.approx(-expected.mean, abs=1e-6)
        assert result["data"] == data.protocol and (result["num_data"], result["num_particles"]) == (200, 20)
        for name in ("standard_error_data", "standard_error_monte_carlo", "unreliable", "elbo", "ess_median"):
            assert result[name] == pytest.approx(expected.summary()[name], rel=1e-5)
        assert result["log_p"] > result["elbo"] and result["split"] == "test" and result["seed"] == 0
        assert saved_result(run) == result
        with np.load(run / "evidence-test.npz") as arrays:
            own = {"log_p", "standard_error", "ess", "pareto_k", "elbo", "rounding"}
            assert set(arrays) == own | {"upper", "upper_standard_error", "tail_start", "tail_excess"}
            np.testing.assert_allclose(arrays["log_p"], expected.log_p.numpy(), rtol=1e-5)
        assert is_png(run / "pictures" / "pareto_k-test.png")

    def test_table(self, run):
        result = call("evaluate", run, "--num_particles 20 --num_data 30")
        assert result.code == 0
        for text in ("NLL ", " nats per datum (log p(x) = -", "standard error, data ", "(N = 30 data)", "ELBO "):
            assert text in result.out
        assert "(K = 20 draws, seed 0)" in result.out and "k-hat > " in result.out

    def test_a_cross_entropy_is_called_one(self, tmp_path):
        """Grey values under Bernoulli: kept grey, no bits, and never a bare number of nats."""
        likelihood = "--vae.likelihood Bernoulli --vae.likelihood.grey true"
        assert "dynamic" not in done("fit --epochs 1", FAST, likelihood, "--run", tmp_path / "run").get("data", "")
        result = done("evaluate", tmp_path / "run", "--num_particles 20")
        assert "cross-entropy" in result["nats_are"] and "bits_per_dim" not in result
        assert "binarisation" not in result["data"]
        assert "no density" in call("evaluate", tmp_path / "run", "--num_particles 20").out

    def test_a_collapsed_code_is_warned_about(self, run, caplog):
        fitted = done("fit", FAST, "--epochs 30 --objective.beta 1000 --run collapsed")
        assert fitted["epochs"] == 30 and "lower beta, which is 1000" in caplog.text
        (warning,) = done("evaluate collapsed --num_particles 20 --num_data 60")["warnings"]
        assert warning.startswith("posterior collapse: none of the 2 dimensions") and "which is 1000" in warning
        assert "posterior collapse" in call("evaluate collapsed --num_particles 20 --num_data 60").out
        active = torch.tensor([1.0, 1.0])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(evaluate, "latent_statistics", lambda *_, **__: LatentStatistics(active, active))
            assert done("evaluate", run, "--num_particles 20 --num_data 60")["warnings"] == []

    @pytest.mark.usefixtures("bfloat16")
    def test_fast_estimate(self, run):
        """It says so, with its shift, and never takes the place of the exact one."""
        done("evaluate", run, "--num_particles 20 --num_data 30")
        exact = (run / "evidence-test.json").read_bytes()
        result = done("evaluate", run, "--num_particles 20 --num_data 30 --precision bf16")
        assert result["fast_estimate"] == "bf16" and abs(result["measured_shift"]) < 0.5
        assert (run / "evidence-test.json").read_bytes() == exact and (run / "evidence-test-bf16.npz").exists()
        shown = call("evaluate", run, "--num_particles 20 --num_data 30 --precision bf16").out
        assert "NLL, FAST ESTIMATE" in shown and "not to be reported" in shown
        assert call("evaluate", run, "--precision half").code == 2

    def test_what_has_no_number_is_null(self, run):
        result = done("evaluate", run, "--num_particles 1 --num_data 1")
        assert result["standard_error_data"] is None and result["standard_error_monte_carlo"] is None
        assert result["log_p"] == result["elbo"]
        assert saved_result(run) == result
        assert call("evaluate", run, "--num_particles 1 --num_data 1").code == 0

    def test_the_cut_does_not_matter(self, run):
        found = []
        for words in ("", "--max_rows 7", "--max_rows 100000"):
            done("evaluate", run, "--split valid --num_particles 10", words)
            with np.load(run / "evidence-valid.npz") as arrays:
                found.append(arrays["log_p"])
        assert [len(log_p) for log_p in found] == [200, 200, 200]
        for log_p in found[1:]:
            np.testing.assert_allclose(log_p, found[0], rtol=1e-5)
        assert done("evaluate", run, "--split valid --num_particles 10 --seed 1")["log_p"] != pytest.approx(
            found[0].mean()
        )
        assert not (run / "evidence-test.npz").exists()

    def test_bits(self, run):
        """Of a probability, of a density on dequantised data as a bound, and of no other density."""
        result = done("evaluate", run, "--num_particles 20 --num_data 30")
        assert result["bits_per_dim"]["mean"] == pytest.approx(-result["log_p"] / 64 / np.log(2))
        assert result["bits_per_dim"]["dequantized"] is None
        done("fit", FAST, "--dequantize true --vae.likelihood ContinuousBernoulli --epochs 1 --run r")
        assert read_config(Path("r"))["dequantize"] is True and done("info r")["dequantize"] is True
        result = done("evaluate r --num_particles 20 --num_data 30")
        bits = result["bits_per_dim"]
        assert bits["mean"] == pytest.approx(-result["log_p"] / 64 / np.log(2) + np.log2(17))
        assert bits["dequantized"] == 17 and "dequantised to (k + u) / 17 with seed 0" in result["data"]
        shown = call("evaluate r --num_particles 20 --num_data 30").out
        assert f"{bits['mean']:.4f} (standard errors" in shown and "upper bound for the 17 levels" in shown
        done("fit", FAST, "--vae.likelihood Normal --epochs 1 --run normal")
        assert "bits_per_dim" not in done("evaluate normal --num_particles 20 --num_data 30")

    def test_linear_gaussian(self):
        """The evidence of the generating process is known, and told beside the model's."""
        words = "--data linear_gaussian --vae.likelihood Normal --vae.likelihood.scale 0.5 --epochs 2 --run r"
        assert "not binarised" in done("fit", FAST, words)["data"]
        result = done("evaluate r --num_particles 10 --num_data 100")
        data = load_data("linear_gaussian")
        exact = data.exact.log_prob(data.select("test", evenly_spread(data.size("test"), 100))).mean().item()
        assert result["exact_log_p_of_the_generating_process"] == pytest.approx(exact)
        assert result["log_p"] < exact  # two epochs are not enough
        assert f"{exact:.4f}" in call("evaluate r --num_particles 10 --num_data 100").out

    def test_other_data(self, run):
        np.savez("other.npz", train=np.zeros((3, 8, 8)), test=np.ones((4, 8, 8)))
        result = done("evaluate", run, "--num_particles 5 --data other.npz")
        assert result["num_data"] == 4 and "other: values as given; dynamic" in result["data"]
        np.savez("small.npz", train=np.zeros((3, 4, 4)), test=np.zeros((3, 4, 4)))
        result = call("evaluate", run, "--data small.npz")
        assert result.code == 3 and "expected shape [N >= 1, 8, 8], got [3, 4, 4]" in result.error

    def test_a_run_on_an_array_needs_its_data_named(self):
        x = load_data("digits", binarize="static").split("test")
        fit(VAE((8, 8), 2), x, epochs=1, run="r", progress=False)
        result = call("evaluate r")
        assert result.code == 2 and "name the data by --data" in result.error
        np.savez("x.npz", x=x.numpy())
        assert done("evaluate r --data x.npz --split train --num_data 5 --num_particles 5")["num_data"] == 5

    def test_some_of_a_sorted_split_are_of_each_kind(self, run):
        test = np.ones((40, 8, 8)) * np.repeat([0.0, 1.0], 20)[:, None, None]
        np.savez("sorted.npz", train=np.zeros((3, 8, 8)), test=test)
        done("evaluate", run, "--num_particles 5 --num_data 4 --data sorted.npz")
        elbo = np.load(Path(run) / "evidence-test.npz")["elbo"]
        assert len(elbo) == 4 and abs(elbo[:2].mean() - elbo[2:].mean()) > 20 * max(np.ptp(elbo[:2]), np.ptp(elbo[2:]))


class TestOthers:
    """sample, reconstruct, info."""

    def test_sample(self, run):
        result = done("sample", run, "--num 9")
        assert is_png(result["saved"]) and Path(result["saved"]) == run / "pictures" / "samples-num9-seed0.png"
        assert result["num"] == 9 and result["weights"].startswith("best on validation, epoch")
        found = []
        for words in ("--out a/draws.npz", "--out b.npz", "--out c.npz --seed 1"):
            with np.load(done("sample", run, "--num 9", words)["saved"]) as arrays:
                found.append(dict(arrays))
        assert found[0]["z"].shape == (9, 2) and found[0]["x"].shape == found[0]["mean"].shape == (9, 8, 8)
        assert (found[0]["x"] == found[1]["x"]).all() and not (found[0]["z"] == found[2]["z"]).any()
        assert set(np.unique(found[0]["x"])) <= {0, 1}

    def test_reconstruct(self, run):
        result = done("reconstruct", run, "--num 9 --split valid --num_particles 3")
        assert is_png(result["saved"]) and 0 < result["mean_squared_error"] < 1 and result["split"] == "valid"
        with np.load(done("reconstruct", run, "--num 9 --out r.npz")["saved"]) as arrays:
            np.testing.assert_array_equal(arrays["x"], some_of("test", 9))
            assert arrays["mean"].shape == (9, 8, 8)
        assert call("reconstruct", run, "--num 9").out.startswith("data ")

    def test_info(self, run):
        result = done("info", run)
        assert result["config"] == read_config(run) and result["epochs"] == "3 of 3"
        assert (result["event_shape"], result["latent_dim"], result["binarize"]) == ("8x8", 2, "dynamic")
        assert result["parameters"] == sum(p.numel() for p in load(run).parameters())
        table = call("info", run)
        assert table.code == 0 and "likelihood" in table.out and "MLP(hidden=[8]" in table.out

    @pytest.mark.parametrize("words", ["sample r", "reconstruct r", "info r", "evaluate r"])
    def test_a_run_that_has_not_begun(self, words):
        Path("r").mkdir()
        Path("r/config.yaml").write_text("vae: {event_shape: [2]}")
        result = call(words)
        assert result.code == 4 and "holds no saved weights" in result.error


class TestUsage:
    """Mistakes: one line, the nearest known name, and the exit code of their kind."""

    def test_help(self):
        result = call("--help")
        assert result.code == 0 and all(name in result.out for name in ("fit", "evaluate", "sample", "info"))
        assert call("--version").out.startswith("pyro-vae ")
        result = call("fit --help")
        assert result.code == 0 and "--vae.latent_dim" in result.out and not result.err

    @pytest.mark.parametrize("command", command_names())
    def test_help_is_for_readers(self, command):
        result = call(f"{command} --help")
        assert result.code == 0 and f"usage: pyro-vae {command}" in result.out
        assert " object at " not in result.out and "<function" not in result.out

    @pytest.mark.parametrize(
        ("words", "parts"),
        [
            (
                "",
                ["expected a command: fit, search, evaluate, compare, diagnose, sample, reconstruct, restore, cluster"],
            ),
            ("fti", ["unknown command 'fti', did you mean 'fit'?", "evaluate"]),
            ("fit --epohcs 3", ["unknown option '--epohcs', did you mean '--epochs'?", "--batch_size"]),
            ("evaluate r --num_particle 3", ["unknown option '--num_particle', did you mean '--num_particles'?"]),
            (
                "fit --vae.likelihood Bernouli",
                ["vae.likelihood: unknown class 'Bernouli', did you mean 'Bernoulli'?", "Normal"],
            ),
            ("fit --vae.encoder MPL", ["vae.encoder: unknown class 'MPL', did you mean 'MLP'?"]),
            ("fit --objective ELOB", ["objective: unknown class 'ELOB', did you mean 'ELBO'?"]),
            ("fit --optimizer Adagard", ["optimizer: unknown class 'Adagard', did you mean 'Adagrad'?", "RMSprop"]),
            ("fit --lr_schedule Cosin", ["lr_schedule: unknown class 'Cosin', did you mean 'Cosine'?", "Linear"]),
            (
                "fit --objective.beta Linaer",
                ["objective.beta: unknown class 'Linaer', did you mean 'Linear'?", "Cyclical"],
            ),
            (
                "fit --vae.likelihood Normal --vae.likelihood.sclae 3",
                ["Normal has no option 'sclae', did you mean 'scale'?", "bounded"],
            ),
            ("fit --vae.encoder.hiden [3]", ["MLP has no option 'hiden', did you mean 'hidden'?", "activation"]),
            ("fit --optimizer.beta 1", ["Adam has no option 'beta', did you mean 'betas'?", "weight_decay"]),
            ("fit --objective.beta.strat 1", ["Linear has no option 'strat', did you mean 'start'?", "epochs"]),
            (
                "fit --vae.encoder.activation tahn",
                ["vae.encoder.activation: unknown value 'tahn', did you mean 'tanh'?", "gelu"],
            ),
            (
                "fit --vae.likelihood Normal --vae.likelihood.scale leraned",
                ["vae.likelihood.scale: unknown value 'leraned', did you mean 'learned'?", "per_element", "a number"],
            ),
            ("fit --binarize dynamik", ["binarize: unknown value 'dynamik', did you mean 'dynamic'?", "threshold"]),
            ("fit --start_at_mean maybe", ["start_at_mean: unknown value 'maybe'. Known", "auto", "true or false"]),
            ("fit --epochs ten", ["epochs: expected a whole number, got 'ten'"]),
            (
                "fit --vae.encoder.hidden x",
                ["vae.encoder.hidden: expected a list of whole numbers such as [200,100], got 'x'"],
            ),
            ("fit digits", ["unexpected argument 'digits': options are written --name value"]),
            ("fit --config nowhere.yaml", ["--config: there is no file 'nowhere.yaml'"]),
            ("fit --epochs 0", ["epochs must be at least 1, got 0"]),
            ("fit --vae.latent_dim 0", ["latent_dim must be at least 1, got 0"]),
            ("fit --device nope", ["no device 'nope'"]),
            ("fit --vae.likelihood nowhere.StudentT", ["vae.likelihood", "nowhere"]),
            (
                "fit --vae.likelihood pyro_vae.networks.MLP",
                ["vae.likelihood: expected a subclass of Likelihood, got MLP", "Bernoulli"],
            ),
            ("evaluate", ["expected RUN (the run directory)"]),
            (
                "evaluate r --split tset",
                ["--split: unknown value 'tset', did you mean 'test'?", "Known: train, valid, test"],
            ),
        ],
    )
    def test_usage(self, words, parts):
        result = call(words)
        assert result.code == 2
        for part in parts:
            assert part in result.error

    def test_usage_of_a_run(self, run):
        for words, part in {
            "evaluate {} --num_particles 0": "num_particles: expected at least 1",
            "evaluate {} --num_data 0": "--num_data must be at least 1, got 0",
            "sample {} --num 0": "num must be at least 1",
            "sample {} --out draws.txt": ".png (a picture), .npz (arrays) or .csv (a table), got 'draws.txt'",
            "evaluate {} --device nope": "no device 'nope'",
        }.items():
            result = call(words.format(run))
            assert result.code == 2 and part in result.error, words

    @pytest.mark.parametrize(
        ("words", "part"),
        [
            ("--data digist", "no data at 'digist' (did you mean 'digits'?)"),
            ("--data damaged.npz", "can't read"),
            ("--binarize none", "outside the support of Bernoulli"),
            ("--data integers.npz", "pass --divide_by 1 for counts"),
        ],
    )
    def test_data(self, words, part):
        Path("damaged.npz").write_bytes(b"PK\3\4 junk")
        np.savez("integers.npz", train=np.arange(12).reshape(3, 4))
        result = call("fit --quiet", words)
        assert result.code == 3 and part in result.error
        assert not Path("runs").exists() or not list(Path("runs").glob("*/manifest.json"))

    def test_missing_split(self):
        np.savez("x.npz", train=np.eye(6))
        done("fit", FAST, "--data x.npz --epochs 1 --run r")
        result = call("evaluate r")
        assert result.code == 3 and "has no split 'test', only train" in result.error

    def test_run_directory(self, run):
        assert "there is no run directory nowhere" in call("evaluate nowhere").error
        result = call("fit", FAST, "--epochs 4 --run", run)
        assert (
            result.code == 4
            and "holds a run with other settings: " in result.error
            and "epochs is 3 there, 4 here" in result.error
        )
        (path,) = run.glob("best-*.safetensors")
        os.truncate(path, 50)
        for name in ("evaluate", "sample", "reconstruct", "info"):
            result = call(name, run)
            assert result.code == 4 and "is damaged: its sha256" in result.error
        Path("file").touch()
        result = call("fit --epochs 1 --quiet --run file")
        assert result.code == 4 and "can't make the run directory file" in result.error

    def test_not_finite(self):
        words = "--vae.likelihood Normal --optimizer SGD --optimizer.lr 1e30 --lr_schedule Constant --epochs 9 --run r"
        result = call("fit", FAST, words)
        assert result.code == 5 and "is not finite at epoch" in result.error and "was not applied" in result.error
        assert all(p.isfinite().all() for p in load("r", which="last").parameters())


class TestProcess:
    """`python -m pyro_vae`, as a shell sees it."""

    def test_evaluate(self, run):
        result = shell("evaluate", run, "--num_particles 10 --json")
        assert result.code == 0 and result.json["num_data"] == 200 and not result.err


MINE = '''\
"""A likelihood of one's own."""

import pyro.distributions as dist

from pyro_vae.likelihoods import Likelihood


class StudentT(Likelihood):
    """Student's t with unit scale."""

    def __init__(self, shapes, df: float = 5.0) -> None:
        super().__init__(shapes)
        self.df = df

    def distribution(self, *params):
        return dist.StudentT(self.df, params[0])
'''


class TestOwnClass:
    """A class in a file beside where one works, with nothing else to tell."""

    @pytest.fixture(autouse=True)
    def _mine(self):
        Path("mine.py").write_text(MINE)

    def forget(self):
        """As a new process: neither the module nor its folder is known."""
        sys.modules.pop("mine", None)
        sys.path[:] = [entry for entry in sys.path if entry != str(Path.cwd())]

    def test_from_python(self, monkeypatch):
        monkeypatch.syspath_prepend(Path.cwd())
        from mine import StudentT

        data, vae = load_data("digits"), VAE((8, 8), 2, likelihood=partial(StudentT, df=4.0))
        fit(vae, data, epochs=1, run="r", progress=False)
        with pytest.raises(CheckpointError, match=r"refused to import 'mine\.StudentT'.*trust=\['mine'\]"):
            load("r")
        again = load("r", trust=["mine"])
        assert isinstance(again.likelihood, StudentT) and again.likelihood.df == 4
        a, b = (log_marginal(v.model, v.guide, data.split("test")[:9], num_particles=5) for v in (vae, again))
        assert torch.equal(a.log_p, b.log_p)

    def test_from_yaml(self):
        likelihood = {"class_path": "mine.StudentT", "init_args": {"df": 4}}
        Path("mine.yaml").write_text(yaml.safe_dump({"vae": {"likelihood": likelihood}, "epochs": 1, "run": "r"}))
        done("fit", FAST, "--config mine.yaml")
        self.check()

    def test_from_the_command_line(self):
        done("fit", FAST, "--vae.likelihood mine.StudentT --vae.likelihood.df 4 --epochs 1 --run r")
        self.check()

    def check(self):
        config = read_config(Path("r"))
        assert config["vae"]["likelihood"] == {"class_path": "mine.StudentT", "init_args": {"df": 4.0}}
        assert config["binarize"] == "none" and config["start_at_mean"] is False
        for name in ("evaluate", "sample", "reconstruct", "info"):
            self.forget()
            result = call(name, "r")
            assert result.code == 4 and "refused to import 'mine.StudentT'" in result.error
            assert "--trust mine" in result.error and "mine" not in sys.modules
        for words in (
            "evaluate r --num_particles 5 --trust mine",
            "evaluate --trust other --trust mine r --num_particles 5",
        ):
            self.forget()
            assert done(words)["num_data"] == 200
        self.forget()
        assert done("info --trust mine r")["likelihood"] == "StudentT(df=4.0)"

    def test_its_options_are_known_too(self):
        result = call("fit --vae.likelihood mine.StudentT --vae.likelihood.fd 4")
        assert result.code == 2 and "StudentT has no option 'fd', did you mean 'df'? Known: df" in result.error

    def test_a_start_it_does_not_know_is_refused(self):
        result = call("fit", FAST, "--vae.likelihood mine.StudentT --start_at_mean true --epochs 1 --run r")
        assert result.code == 2 and "StudentT does not say where a decoder starts" in result.error

    def test_in_a_process_that_is_stopped_by_sigterm(self):
        """It saves, says so and ends with 143; the same command goes on to the same bits."""
        words = ("fit", FAST, "--vae.likelihood mine.StudentT --epochs 3 --run")
        result = shell(*words, "stopped", program="tests.support.stopping 17")
        assert result.code == 143 and "Warning" not in result.err
        assert "stopped by signal 15 at epoch 2, step 3 of" in result.error and "to resume" in result.err
        assert len(read_metrics("stopped")) == 1
        assert done(*words, "stopped")["epochs"] == done(*words, "whole")["epochs"] == 3
        assert tensors("stopped") == tensors("whole")
        assert done("evaluate stopped --num_particles 5 --trust mine")["num_data"] == 200
