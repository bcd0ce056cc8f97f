"""The examples of trackers, offline: what MLflow and Weights & Biases keep is what they were told, also resumed."""

import importlib.util
import runpy
import struct
from pathlib import Path

import pytest

from tests.cli.test_cli import SMALL, call

EXAMPLES = Path(__file__).parents[2] / "examples"
has_mlflow, has_wandb = (importlib.util.find_spec(name) is not None for name in ("mlflow", "wandb"))
pytestmark = pytest.mark.filterwarnings("ignore")  # of their own dependencies


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """They write to the current folder, and look for settings at home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.syspath_prepend(EXAMPLES)


def run(name, *words):
    namespace = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    return namespace["main"](namespace["parser"]().parse_args([str(word) for word in words]))


@pytest.mark.skipif(not has_mlflow, reason="mlflow is not installed")
class TestMLflow:
    def kept(self, uri):
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]

        client = MlflowClient(tracking_uri=uri)
        (experiment,) = client.search_experiments(filter_string="name = 'pyro-vae'")
        (found,) = client.search_runs([experiment.experiment_id])
        return client, found

    def test_the_script_twice_is_one_run_without_repeats(self, tmp_path):
        uri = f"sqlite:///{tmp_path}/mlflow.db"
        run("track_mlflow", "--run", "run", "--epochs", 2, "--uri", uri)
        rows = run("track_mlflow", "--run", "run", "--epochs", 3, "--uri", uri)
        client, found = self.kept(uri)
        for name in (name for name in rows[0] if name != "step"):
            history = sorted((point.step, point.value) for point in client.get_metric_history(found.info.run_id, name))
            assert history == [(row["step"], row[name]) for row in rows]
        assert found.data.params["vae.latent_dim"] == "4" and found.data.params["batch_size"] == "100"
        assert found.info.status == "FINISHED" and len(rows) == 3

    def test_by_the_command(self, tmp_path):
        words = (
            f"{SMALL} --epochs 2 --quiet --tracker track_mlflow.MLflow --tracker.uri sqlite:///{tmp_path}/m.db --run r"
        )
        assert call("fit", words).code == 0
        client, found = self.kept(f"sqlite:///{tmp_path}/m.db")
        assert [p.step for p in client.get_metric_history(found.info.run_id, "valid_loss")] == [14, 28]
        artifacts = {artifact.path for artifact in client.list_artifacts(found.info.run_id)}
        assert {"curves-28.png", "samples-28.png"} <= artifacts


def offline_steps(file):
    """The step and the epoch of each row in a file of Weights & Biases: records of LevelDB's log, in a single block."""
    from wandb.proto import wandb_internal_pb2 as records  # pyright: ignore[reportMissingImports]

    data, at = file.read_bytes(), 7
    assert len(data) < 1 << 15
    while at + 7 <= len(data):
        (size,) = struct.unpack("<H", data[at + 4 : at + 6])
        record = records.Record()
        record.ParseFromString(data[at + 7 : at + 7 + size])
        at += 7 + size
        if record.WhichOneof("record_type") == "history":
            values = {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
            yield int(values["_step"]), int(values["epoch"]), float(values["valid_loss"])


@pytest.mark.skipif(not has_wandb, reason="wandb is not installed")
def test_weights_and_biases_by_the_script_twice(tmp_path):
    """Both parts have the same id, so they are one run once sent, and no step is in both."""
    run("track_wandb", "--run", "run", "--epochs", 2)
    rows = run("track_wandb", "--run", "run", "--epochs", 3)
    files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2 and len({file.name for file in files}) == 1
    found = [row for file in files for row in offline_steps(file)]
    assert found == [(row["step"], row["epoch"], pytest.approx(row["valid_loss"])) for row in rows]
    assert len(list(tmp_path.glob("run/wandb/offline-run-*/files/media/images/curves_*.png"))) == 2


@pytest.mark.skipif(not has_wandb, reason="wandb is not installed")
def test_weights_and_biases_by_the_command(tmp_path):
    assert call("fit", f"{SMALL} --epochs 2 --quiet --tracker track_wandb.WeightsAndBiases --run r").code == 0
    (file,) = (tmp_path / "r" / "wandb").glob("offline-run-*/*.wandb")
    assert [step for step, *_ in offline_steps(file)] == [14, 28]
