"""`pyro-vae restore`: what it prints, saves and refuses."""

import json

import numpy as np
import pytest

from tests.cli.test_cli import SMALL, call, is_png


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = tmp_path_factory.mktemp("restore") / "run"
    assert call("fit", SMALL, "--epochs 1 --pictures false --quiet --run", run).code == 0
    return run


QUICK = "--num 3 --num_draws 5 --num_particles 50 --method encoder"


def test_a_picture_and_its_measures(run, tmp_path):
    done = call("restore", run, QUICK, "--channel.pattern lower_half --json --out", tmp_path / "r.png")
    assert done.code == 0 and is_png(tmp_path / "r.png")
    found = json.loads(done.out)
    assert found["channel"].startswith("Missing(pattern='lower_half'") and found["num"] == 3
    assert 0 <= found["coverage_90"] <= 1 and found["mean_squared_error"] >= 0
    assert found["methods"] == {"encoder": 3, "refined": 0, "gibbs": 0, "hmc": 0}


def test_observations_of_a_file(run, tmp_path):
    y = np.ones((2, 8, 8), np.float32)
    y[:, 4:] = np.nan
    np.save(tmp_path / "y.npy", y)
    done = call("restore", run, QUICK, "--observed", tmp_path / "y.npy", "--out", tmp_path / "r.npz")
    assert done.code == 0
    with np.load(tmp_path / "r.npz") as saved:
        assert saved["draws"].shape == (5, 2, 8, 8) and "truth" not in saved
        assert (saved["mean"][:, :4] == 1).all() and saved["known"][:, :4].all()


def test_strengths_of_an_option_that_is_a_whole_number(run):
    done = call("restore", run, QUICK, "--channel AveragePool --strengths k=3,9")
    assert done.code == 2 and "multiples of 3, got data of shape [8, 8]" in done.err
    done = call("restore", run, QUICK, "--channel AveragePool --strengths k=2,2.5")
    assert done.code == 2 and "--strengths k=2,2.5: k: expected a whole number, got 2.5" in done.err


def test_strengths(run, tmp_path):
    done = call("restore", run, QUICK, "--channel BitFlip --strengths p=0.05,0.3 --json --out", tmp_path / "r.npz")
    assert done.code == 0
    found = json.loads(done.out)
    assert abs(sum(found["strength_probabilities"].values()) - 1) < 1e-5
    assert found["channel"] in found["strength_probabilities"]


@pytest.mark.parametrize(
    ("channel", "shown"),
    [
        ("GaussianNoise --channel.std 0.3", "GaussianNoise(std=0.3)"),
        ("AveragePool --channel.k 4", "AveragePool(k=4, std=0.0)"),
    ],
)
def test_other_channels(run, tmp_path, channel, shown):
    done = call("restore", run, QUICK, "--channel", channel, "--json --out", tmp_path / "r.png")
    assert done.code == 0 and json.loads(done.out)["channel"].startswith(shown) and is_png(tmp_path / "r.png")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--channel Mising", "unknown class 'Mising'"),
        ("--channel BitFlip --channel.p 2", "p: expected the probability of a flip"),
        (
            "--channel GaussianNoise --channel.std 0",
            "--channel GaussianNoise: std: expected the standard deviation of",
        ),
        ("--channel AveragePool --channel.k 3", "multiples of 3, got data of shape [8, 8]"),
        ("--channel Blur", "train the model with the likelihood Normal"),
        ("--channel Linear --channel.matrix nowhere.npy", "nowhere.npy"),
        ("--channel BitFlip --strengths q=1", "expected OPTION=VALUE"),
        ("--channel BitFlip --strengths p=0.1,2", "--strengths p=0.1,2: p: expected the probability"),
        ("--channel BitFlip --strengths p=a", "expected numbers after p="),
        ("--channel.pattern middle", "pattern"),
        ("--observed nowhere.npy", "nowhere.npy"),
        (f"--observed {__file__}", "it is no .npy file: give one, as numpy.save writes it"),
        ("--num_draws 0", "num_draws"),
        ("--num 0", "--num must be at least 1, got 0"),
        ("--num -1 --observed nowhere.npy", "--num must be at least 1, got -1"),
        ("--out r.txt", "--out must end in .png"),
    ],
)
def test_mistakes(run, words, message):
    done = call("restore", run, words)
    assert done.code in (2, 3, 7) and message in done.err and "Traceback" not in done.err
