"""`pyro-vae refit`: a new run directory with another prior, which the other commands take; what it refuses."""

import json
import os
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

from pyro_vae.cli import main
from pyro_vae.cli.work import refitted as command
from pyro_vae.data import Dataset, load_data
from pyro_vae.errors import CheckpointError
from pyro_vae.guides import FullNormal
from pyro_vae.networks import MLP
from pyro_vae.priors import MixtureOfNormals
from pyro_vae.runs.derived import derived_run
from pyro_vae.runs.describing import describe
from pyro_vae.runs.directory import Run
from pyro_vae.runs.listing import listed
from pyro_vae.runs.loading import load, read_config
from pyro_vae.schedules import Cosine
from pyro_vae.training.refit import compare_priors, refit_prior, with_held_out
from pyro_vae.training.refit_guide import compare_guides, refit_guide
from tests.cli.test_cli import SMALL, _elsewhere, call, done, is_png, tensors  # noqa: F401 - a fixture
from tests.cli.test_evaluate_points import QUICK, VQ

MIXTURE = "--prior MixtureOfNormals --prior.components 3 --prior.spread 0.1"
FEW = "--epochs 2 --optimizer.lr 0.05 --quiet"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run; never changed."""
    run = tmp_path_factory.mktemp("trained") / "run"
    assert call("fit", SMALL, QUICK, run).code == 0
    return run


@pytest.fixture(scope="module")
def whole(trained):
    return contents(trained)


def contents(run):
    return {path.name: path.read_bytes() for path in Path(run).iterdir() if path.is_file()}


class TestNewRun:
    def test_holds_what_refit_prior_gives(self, trained, whole):
        result = done("refit", trained, MIXTURE, FEW, "--seed 3 --batch_size 200 --out new")
        expected = refit_prior(
            load(trained),
            load_data("digits", binarize="dynamic"),
            partial(MixtureOfNormals, components=3, spread=0.1),
            epochs=2,
            batch_size=200,
            seed=3,
            optimizer=partial(torch.optim.Adam, lr=0.05),
            lr_schedule=Cosine(),
            progress=False,
        )
        found = load("new").state_dict()
        assert set(found) == set(expected.state_dict())
        assert all(torch.equal(found[name], value) for name, value in expected.state_dict().items())
        assert contents(trained) == whole
        assert result["prior"] == "MixtureOfNormals" and result["before"] == "StandardNormal"
        assert result["held_out"] == 200
        assert json.loads(Path("new/refit.json").read_text()) == result
        found = compare_priors(load(trained), expected, load_data("digits", binarize="dynamic").split("valid"), seed=3)
        assert result["gain"] == {"mean": found.gain, "standard_error": found.standard_error}
        assert result["verdict"] == found.verdict and result["held_out_of"] == "valid"
        for name, side in (("cross_entropy", found.after), ("cross_entropy_before", found.before)):
            assert result[name] == {"mean": side.mean, "standard_error": side.standard_error}

    def test_a_worse_prior_is_not_recommended(self, trained):
        far = "--prior MixtureOfNormals --prior.components 1 --prior.spread 20 --optimizer.lr 0 --quiet --epochs 1"
        told = call("refit", trained, far, "--out far").out
        assert "WORSE: MixtureOfNormals fits the held-out codes less well than StandardNormal did" in told
        assert f"pyro-vae evaluate {trained}" in told and "pyro-vae evaluate far" not in told

    def test_the_other_commands_take_it(self, trained):
        old = shutil.copytree(trained, "old")
        done("refit", old, MIXTURE, FEW, "--out new")
        before, after = (done("evaluate", run, "--num_particles 20 --num_data 30") for run in (old, "new"))
        assert after["log_p"] != before["log_p"] and after["weights"] == f"{before['weights']}, prior refitted"
        assert is_png(done("sample new --num 9")["saved"]) and done("reconstruct new --num 9")
        told = done("info new")
        assert told["prior"].startswith("MixtureOfNormals(components=3") and told["epochs"] == "2 of 2"
        assert done("cluster new")["components_in_use"] >= 1
        assert done("refit new --prior LearnedNormal", FEW, "--out newer")["before"] == "MixtureOfNormals"

    def test_says_where_it_is_from(self, trained):
        done("refit", trained, MIXTURE, FEW, "--out new")
        config, source = read_config(Path("new")), read_config(trained)
        made = config.pop("refit")
        assert (
            made["run"] == str(trained.resolve())
            and made["epochs"] == 2
            and made["replaced"] == {"prior": source["vae"]["prior"]}
        )
        assert made["weights"] in {digest for name, digest in tensors(trained).items() if name.startswith("best")}
        assert made["optimizer"]["init_args"]["lr"] == 0.05
        assert made["lr_schedule"] == describe(Cosine())
        prior = config["vae"].pop("prior")
        assert prior["class_path"] == "pyro_vae.priors.MixtureOfNormals" and prior["init_args"]["components"] == 3
        del source["vae"]["prior"]
        assert config == source
        refused = call("fit --config new/config.yaml --run again")
        assert refused.code == 2 and "refit" in refused.error and not Path("again").exists()

    def test_of_another_class(self, tmp_path):
        assert call("fit", VQ, QUICK, "vq").code == 0
        options = "--prior AutoregressiveCodes --prior.width 8 --prior.heads 2 --prior.layers 1"
        done("refit vq", options, "--epochs 1 --quiet --out new")
        vae = load("new")
        assert type(vae).__name__ == "VQVAE" and vae.prior.logits(torch.zeros(1, 0).long()).shape == (1, 1, 8)
        assert read_config(Path("new"))["vae"]["init_args"]["prior"]["init_args"]["width"] == 8
        assert is_png(done("sample new --num 4")["saved"])

    def test_table(self, trained):
        shown = call("refit", trained, MIXTURE, FEW, "--out new")
        assert shown.code == 0 and "nats per datum (standard error 0." in shown.out
        assert "pyro-vae evaluate new" in shown.out

    def test_a_class_of_ones_own(self, trained):
        Path("mine.py").write_text(
            "from pyro_vae.priors import LearnedNormal\n\nclass Mine(LearnedNormal):\n    pass\n"
        )
        done("refit", trained, "--prior mine.Mine", FEW, "--out new")
        assert call("evaluate new --num_particles 5 --num_data 5").code == 4
        assert done("evaluate new --num_particles 5 --num_data 5 --trust mine")["log_p"] < 0


class TestNewGuide:
    def test_holds_what_refit_guide_gives(self, trained, whole):
        result = done("refit", trained, "--guide FullNormal --encoder MLP --encoder.hidden [9]", FEW, "--out new")
        data = load_data("digits", binarize="dynamic")
        expected = refit_guide(
            load(trained),
            data,
            guide=FullNormal,
            encoder=partial(MLP, hidden=[9]),
            epochs=2,
            optimizer=partial(torch.optim.Adam, lr=0.05),
            lr_schedule=Cosine(),
            progress=False,
        )
        found = load("new").state_dict()
        assert all(torch.equal(found[name], value) for name, value in expected.state_dict().items())
        assert contents(trained) == whole
        compared = compare_guides(load(trained), expected, data.split("valid"))
        assert result["gain"] == {"mean": compared.gain, "standard_error": compared.standard_error}
        assert (
            result["guide"] == f"FullNormal with MLP of {sum(p.numel() for p in expected.encoder.parameters())} weights"
        )
        assert read_config(Path("new"))["refit"]["replaced"].keys() == {"guide", "encoder"}
        evaluated = done("evaluate new --num_particles 20 --num_data 30")
        assert evaluated["weights"].endswith(", guide and encoder refitted")

    def test_shown(self, trained):
        shown = call("refit", trained, "--encoder MLP --encoder.hidden [2]", FEW, "--out new").out
        assert "nats per datum (standard error 0." in shown and "DiagonalNormal with MLP of" in shown
        assert "the posteriors of held-out data" in shown or "no difference within error" in shown

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ("--prior LearnedNormal --guide FullNormal", "--prior and --guide: one is fitted at a time"),
            ("--guide StandardNormal", "--guide"),
        ],
    )
    def test_refuses(self, trained, options, told):
        refused = call("refit", trained, options, FEW, "--out new")
        assert refused.code == 2 and told in refused.error and not Path("new").exists()

    def test_refuses_other_models(self, tmp_path):
        assert call("fit", VQ, QUICK, "vq").code == 0
        refused = call("refit vq --guide FullNormal --out new")
        assert refused.code == 2 and "the one guide of a VAE, and this is a VQVAE" in refused.error


class TestNothingIsLost:
    def test_another_run_is_not_written_over(self, trained, whole):
        for other in (trained, shutil.copytree(trained, "copy")):
            refused = call("refit", trained, MIXTURE, FEW, "--out", other)
            assert refused.code == 4 and "holds a run with other settings" in refused.error
            assert contents(other) == whole

    def test_the_same_again_is_the_same(self, trained):
        found = []
        for _ in range(2):
            done("refit", trained, MIXTURE, FEW, "--out new")
            found.append(contents("new"))
        assert found[0] == found[1]
        refused = call("refit", trained, MIXTURE, FEW, "--seed 1 --out new")
        assert refused.code == 4 and "refit.seed is 0 there, 1 here" in refused.error
        assert contents("new") == found[0]

    def test_a_directory_in_use(self, trained, monkeypatch):
        monkeypatch.setattr(command, "refit_prior", lambda *_, **__: pytest.fail("the work was begun"))
        with Run_of("new"):
            refused = call("refit", trained, MIXTURE, FEW, "--out new")
        assert refused.code == 4 and f"is in use by process {os.getpid()} on " in refused.error

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            ("--guide Delta", "guides are fitted and compared by the ELBO, and a Delta has none"),
            (f"{MIXTURE} --lr_schedule Constant --lr_schedule.value -1", "expected factors that are 0 or more, got -1"),
            (f"{MIXTURE} --patience 0", "patience must be at least 1"),
            (f"{MIXTURE} --seed 1e40", "seed: expected a whole number of less than 2^63"),
        ],
    )
    def test_what_is_refused_leaves_nothing(self, trained, words, told):
        refused = call("refit", trained, words, FEW, "--out new")
        assert refused.code == 2 and told in refused.error and not Path("new").exists()

    @pytest.mark.parametrize("words", ["refit {run} --prior Laplace --out=", "export {}", "compare {run} {}"])
    def test_an_empty_path(self, trained, capsys, words):
        """What a shell makes of a variable that is not set."""
        assert main([word.format("", run=trained) for word in words.split()]) == 2
        assert "expected a path, got an empty text" in capsys.readouterr().err
        assert not list(Path().iterdir())

    def test_the_start_is_kept(self, trained):
        """Where no epoch is better, more data can't tell the two apart."""
        same = "--prior StandardNormal --epochs 1 --quiet --out same"
        told = call("refit", trained, same)
        assert told.code == 0 and "none: no epoch was better than the start" in told.out

    def test_killed_before_the_end_leaves_no_run(self, trained, monkeypatch):
        """Half a run is none: what ended goes again, what was killed is interrupted, and the same command makes it."""

        def stopped(*_, **__):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(command, "refit_prior", stopped)
            assert call("refit", trained, MIXTURE, FEW, "--out new").code == 130
        assert not Path("new").exists()
        monkeypatch.setattr(Run, "close", lambda run: run._lock.close())  # as the end of a process that is killed
        with monkeypatch.context() as patch:
            patch.setattr(command, "refit_prior", stopped)
            assert call("refit", trained, MIXTURE, FEW, "--out new").code == 130
        assert not list(Path("new").glob("*.safetensors"))
        refused = call("evaluate new")
        assert refused.code == 4 and "holds no saved weights" in refused.error
        assert listed(Path("new")).state == "interrupted"
        assert done("refit", trained, MIXTURE, FEW, "--out new") and load("new")

    def test_a_source_that_is_no_run(self, tmp_path):
        with pytest.raises(CheckpointError, match="not a run directory"), derived_run("x", "y", {}, {}):
            pass
        assert not Path("y").exists()


class Run_of:  # noqa: N801 - reads as a phrase
    """A run directory that is held open."""

    def __init__(self, path):
        self.run = Run(path, {})

    def __enter__(self):
        return self.run

    def __exit__(self, *_):
        self.run.close()


class TestRefuses:
    @pytest.mark.parametrize(
        ("words", "parts"),
        [
            ("--out new", ["--prior: expected the class of the new prior"]),
            ("--prior LearnedNormal", ["expected --out FOLDER (the new run directory)"]),
            ("--prior LernedNormal --out new", ["unknown class 'LernedNormal', did you mean 'LearnedNormal'?"]),
            ("--prior MixtureOfNormals --prior.parts 3 --out new", ["no option 'parts'", "components"]),
            ("--prior UniformCodes --out new", ["a VAE takes priors p(z), such as MixtureOfNormals, got UniformCodes"]),
            ("--prior LearnedNormal --epochs 0 --out new", ["epochs must be at least 1, got 0"]),
            ("--prior VampPrior --prior.components 5000 --out new", ["take components="]),
        ],
    )
    def test_usage(self, trained, words, parts):
        refused = call("refit", trained, words)
        assert refused.code == 2 and all(part in refused.error for part in parts), refused.error
        assert not list(Path().glob("new/*.safetensors"))

    def test_priors_of_codes(self):
        assert call("fit", VQ, QUICK, "vq").code == 0
        refused = call("refit vq --prior MixtureOfNormals --out new")
        assert refused.code == 2 and "a VQVAE takes priors p(k), such as AutoregressiveCodes" in refused.error

    def test_runs_without_one_prior_of_codes_alone(self):
        layers = "--vae HierarchicalVAE --vae.latent_dims [3,2] --vae.encoder.hidden [4]"
        assert call("fit", layers, QUICK, "layers").code == 0
        refused = call("refit layers --prior LearnedNormal --out new")
        assert refused.code == 2 and "this is a HierarchicalVAE" in refused.error
        assert call("fit", SMALL, "--context labels", QUICK, "labels").code == 0
        refused = call("refit labels --prior LearnedNormal --out new")
        assert refused.code == 2 and "depend on a context" in refused.error


def test_what_is_held_out_of_dequantised_data_is_dequantised():
    data = Dataset("grey", torch.randint(0, 5, (40, 3), dtype=torch.uint8), divisor=4, dequantize=True)
    parts = with_held_out(data)
    assert (len(parts.train), len(parts.valid)) == (36, 4)
    assert parts.dequantize and (parts.split("valid") * 5 % 1 != 0).any()
