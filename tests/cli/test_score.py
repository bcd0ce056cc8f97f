"""`pyro-vae score`: its numbers are those of the functions, its files hold them, and mistakes are answered."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_vae.data import load_data
from pyro_vae.runs.loading import load
from pyro_vae.tasks.scores import detection, score, states, threshold
from tests.cli.test_cli import FAST, call, done, is_png


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run; never changed."""
    run = tmp_path_factory.mktemp("scored") / "run"
    assert call("fit", FAST, "--epochs 1 --run", run).code == 0
    return run


@pytest.fixture(scope="module")
def data():
    return load_data("digits", binarize="dynamic")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


QUIET = "--quiet --num_data 150"


def spread(x, num):
    """`num` data, evenly spread, as the command takes them."""
    from pyro_vae.data.dataset import evenly_spread

    return x if num >= len(x) else x[evenly_spread(len(x), num)]


class TestNumbers:
    def test_scores_threshold_and_arrays(self, trained, data):
        result = done(
            "score", trained, "--method elbo --seed 3 --num_particles 20 --false_alarms 0.05 --out o.npz", QUIET
        )
        vae = load(trained)
        options = {"num_particles": 20, "seed": 3}
        test, valid = (spread(data.split(name), 150) for name in ("test", "valid"))
        found, alarm = score(vae, test, "elbo", **options), threshold(score(vae, valid, "elbo", **options), 0.05)
        assert result["mean"] == found.mean and result["num_data"] == 150 and result["method"] == "elbo"
        assert result["threshold"]["value"] == alarm.value and result["threshold"]["num_calibration"] == 150
        assert result["threshold"]["alarms"] == int(alarm.alarms(found).sum())
        assert result["threshold"]["probability_at_most"] == alarm.expected_rate
        saved = np.load("o.npz")
        assert set(saved) == {"score", "standard_error", "flagged", "alarm", "label", "elements"}
        assert np.array_equal(saved["score"], found.values) and np.array_equal(saved["elements"], found.elements)
        assert np.array_equal(saved["label"], spread(data.labels["test"], 150))

    def test_anomalies_by_label(self, trained, data):
        result = done("score", trained, "--method rate --anomaly_labels 0 8 --false_alarms 0.1 --out o.csv", QUIET)
        x, labels = spread(data.split("test"), 150), spread(data.labels["test"], 150)
        which = torch.isin(labels, torch.tensor([0, 8]))
        vae = load(trained)
        parts = score(vae, x[~which], "rate"), score(vae, x[which], "rate")
        measured = detection(*parts)
        assert result["detection"]["auroc"]["value"] == measured.auroc.value
        assert result["detection"]["auroc"]["low"] == measured.auroc.low and result["anomalies"] == "labels 0 8"
        assert result["threshold"]["num_calibration"] < 150  # without these classes
        rows = list(csv.DictReader(Path("o.csv").read_text().splitlines()))
        assert [float(row["score"]) for row in rows] == torch.cat([p.values for p in parts]).tolist()
        assert {row["label"] for row in rows if row["set"] == "anomalies"} == {"0", "8"}

    def test_anomalies_of_another_set(self, trained, data):
        noise = (np.random.default_rng(0).random((40, 8, 8)) < 0.5).astype(np.float32)
        np.savez("noise.npz", train=noise, test=noise)
        result = done(
            "score", trained, "--method evidence --num_particles 50 --anomalies noise.npz --false_alarms 0.1", QUIET
        )
        assert result["detection"]["num_anomalies"] == 40 and result["detection"]["auroc"]["value"] > 0.9
        assert result["threshold"]["anomalies_found"] > 20 and "noise" in result["anomalies"]
        assert result["saved"].endswith("pictures/scores-evidence-test.png") and is_png(Path(result["saved"]))

    @pytest.mark.parametrize("method", ["typicality", "density_of_states"])
    def test_half_of_the_reference_is_for_the_score(self, trained, data, method):
        result = done(
            "score", trained, f"--method {method} --num_particles 10 --num_data 80 --false_alarms 0.1 --quiet"
        )
        vae, valid = load(trained), spread(data.split("valid"), 160)
        of = states if method == "density_of_states" else lambda *a, **k: score(*a, "evidence", **k)
        reference = of(vae, valid[::2], num_particles=10)
        options = {"reference": reference, "num_particles": 10}
        alarm = threshold(score(vae, valid[1::2], method, **options), 0.1)
        assert result["mean"] == score(vae, spread(data.split("test"), 80), method, **options).mean
        assert result["threshold"]["value"] == alarm.value

    def test_further_models(self, trained, data):
        found = {}
        for method, option in (("ratio", "--background"), ("ensemble", "--others")):
            words = f"--method {method} {option} {trained} --num_particles 10 --false_alarms 0.1 --num_data 20 --quiet"
            found[method] = done("score", trained, words)
        evidence = done("score", trained, "--num_particles 10 --false_alarms 0.1 --num_data 20 --quiet")
        assert found["ratio"]["mean"] == 0 and found["ensemble"]["mean"] == pytest.approx(evidence["mean"])

    def test_regret_with_options(self, trained):
        words = "--method regret --options.max_steps 50 --options.selection 4 --num_data 10 --false_alarms 0.1 --quiet"
        result = done("score", trained, words)
        assert result["unreliable"] == 1 and result["threshold"]["num_calibration"] == 10


def test_in_words(trained):
    words = "--method reconstruction --anomaly_labels 1 --num_data 150 --false_alarms 0.05"
    told = call("score", trained, words)
    assert told.code == 0
    for part in ("nats per datum, higher is more anomalous", "probability at most 0.0", "AUROC", "95% bootstrap"):
        assert part in told.out
    without = call("score", trained, "--method rate --reference none --quiet --num_data 20")
    assert without.code == 0 and "threshold" not in without.out


def test_help_has_an_example():
    told = call("score --help").out
    assert "pyro-vae score runs/mnist --method regret --anomalies fashion_mnist.npz" in told


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("--num_data 0", "--num_data must be at least 1"),
        ("--anomalies x.npz --anomaly_labels 1", "give one of them"),
        ("--anomaly_labels 77", "0 of 200 data are of these classes"),
        ("--false_alarms 1.5", "--false_alarms: expected a rate between 0 and 1, got 1.5"),
        ("--false_alarms 0.001", "give at least 999, or --false_alarms 0.005"),
        ("--background r", "--background is for --method ratio, not evidence"),
        ("--others r", "--others is for --method ensemble"),
        ("--method ensemble", "--others RUN ... is needed"),
        ("--method ratio", "or pass --background RUN"),
        ("--method typicality --reference none", "--method typicality needs reference data"),
        ("--method regret --options.steps 3", "has no such option. Known: copies, lr, max_steps"),
        ("--method elbo --options.seed 3", "It is --seed"),
        ("--out x.jpg", "--out must end in .png, .npz, .csv, got 'x.jpg'"),
        ("--method nope", "unknown value 'nope'. Known: evidence, elbo"),
        ("--num_particles 1 --method elbo", "at least 2"),
    ],
)
def test_mistakes(trained, words, part):
    told = call("score", trained, "--quiet", words)
    assert told.code == 2 and part in told.err, told.err
    assert "Traceback" not in told.err and not told.out


def test_data_that_do_not_fit(trained):
    np.savez("wide.npz", train=np.zeros((4, 9, 9), np.float32), test=np.zeros((4, 9, 9), np.float32))
    told = call("score", trained, "--quiet --anomalies wide.npz")
    assert told.code == 2 and "expected data of shape [8, 8], got [9, 9]" in told.err
    told = call("score", trained, "--quiet --data nowhere.npz")
    assert told.code == 3 and "nowhere.npz" in told.err
    assert not json.loads(json.dumps(told.out))
