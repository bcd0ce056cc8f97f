"""`pyro-vae evaluate` where the guide is a point: a lower bound of discrete codes, a reconstruction of others."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_vae.evidence import bound
from pyro_vae.runs.loading import load
from pyro_vae.tasks.codebook import codebook_usage
from tests.cli.test_cli import _elsewhere, call, done, some_of  # noqa: F401 - a fixture

NETS = "--vae.encoder.hidden [8] --vae.decoder.hidden [8]"
QUICK = "--epochs 2 --quiet --pictures false --run"
VQ = f"--vae VQVAE --vae.codes [4] --vae.codebook_size 8 --vae.embedding_dim 3 {NETS} --objective VQBound"
POINT = f"--vae.latent_dim 3 --vae.guide Delta {NETS}"


@pytest.fixture(scope="module")
def vq(tmp_path_factory):
    run = tmp_path_factory.mktemp("vq") / "run"
    assert call("fit", VQ, QUICK, run).code == 0
    return run


@pytest.fixture(scope="module")
def point(tmp_path_factory):
    run = tmp_path_factory.mktemp("point") / "run"
    assert call("fit", POINT, QUICK, run).code == 0
    return run


def files(run):
    return {path.name for path in Path(run).iterdir() if path.suffix in (".json", ".npz")} - {"manifest.json"}


class TestDiscreteCodes:
    def test_json(self, vq):
        result, vae, x = done("evaluate", vq, "--num_data 40"), load(vq), some_of("test", 40)
        expected, usage = bound(vae.model, vae.guide, x), codebook_usage(vae, x)
        assert result["lower_bound"] == pytest.approx(expected.elbo.mean().item())
        assert result["standard_error_data"] == pytest.approx(expected.elbo.std().item() / 40**0.5)
        assert result["reconstruction"] + result["log_p_of_codes"] == pytest.approx(result["lower_bound"])
        assert result["log_p_of_codes"] == pytest.approx(-4 * np.log(8), rel=1e-6)  # uniform over 8 codes at 4 places
        assert result["is_bound"] is True and result["num_data"] == 40 and result["split"] == "test"
        assert result["codebook_perplexity"] == pytest.approx(usage.perplexity)
        assert result["codebook_usage"] == usage.usage and result["codebook_entries_used"].endswith(" of 8")
        assert not {"nll", "log_p", "elbo"} & set(result)

    def test_saved_under_names_of_their_own(self, vq):
        result = done("evaluate", vq, "--num_data 40 --split valid")
        assert "bound-valid.json" in files(vq) and not any(name.startswith("evidence") for name in files(vq))
        assert json.loads((vq / "bound-valid.json").read_text()) == result
        with np.load(vq / "bound-valid.npz") as arrays:
            assert set(arrays) == {"lower_bound", "reconstruction", "log_p_of_codes"}
            assert arrays["lower_bound"].mean() == pytest.approx(result["lower_bound"])

    def test_table(self, vq):
        shown = call("evaluate", vq, "--num_data 40")
        assert shown.code == 0 and shown.err == ""
        assert "LOWER BOUND" in shown.out and "log p(x) >= -" in shown.out and "NLL" not in shown.out
        assert "codebook perplexity" in shown.out and "(N = 40 data)" in shown.out and "draws" in shown.out

    def test_a_learned_prior_raises_it(self, vq):
        """What the command says is what `refit` has gained."""
        refitted = done("refit", vq, "--epochs 4 --optimizer.lr 0.01 --quiet --out refitted")
        assert refitted["prior"] == "AutoregressiveCodes" and refitted["before"] == "UniformCodes"
        before, after = (done("evaluate", run, "--split valid") for run in (vq, "refitted"))
        gain = refitted["cross_entropy_before"]["mean"] - refitted["cross_entropy"]["mean"]
        assert gain > 0.1 and after["lower_bound"] - before["lower_bound"] == pytest.approx(gain, rel=1e-4)
        assert after["reconstruction"] == pytest.approx(before["reconstruction"], rel=1e-6)


class TestAutoencoder:
    def test_json(self, point):
        result, vae, x = done("evaluate", point, "--num_data 40"), load(point), some_of("test", 40)
        with torch.no_grad():
            expected = vae.decode(vae.encode(x).mean).log_prob(x)
        assert result["reconstruction"] == pytest.approx(expected.mean().item(), rel=1e-5)
        assert result["standard_error_data"] == pytest.approx(expected.std().item() / 40**0.5, rel=1e-4)
        assert result["is_bound"] is False and result["active_units"].endswith(" of 3")
        assert not {"nll", "log_p", "elbo", "lower_bound"} & set(result)

    def test_table_and_files(self, point):
        shown = call("evaluate", point, "--num_data 40")
        assert shown.code == 0 and "NOT log p(x), nor a bound on it" in shown.out and "NLL" not in shown.out
        assert files(point) == {"reconstruction-test.json", "reconstruction-test.npz"}
        with np.load(point / "reconstruction-test.npz") as arrays:
            assert set(arrays) == {"reconstruction"} and arrays["reconstruction"].shape == (40,)

    def test_one_datum_has_no_error(self, point):
        result = done("evaluate", point, "--num_data 1")
        assert result["standard_error_data"] is None and "active_units" not in result
        assert call("evaluate", point, "--num_data 1").code == 0
