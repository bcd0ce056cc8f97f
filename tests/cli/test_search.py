"""`pyro-vae search`: its table, picture and JSON, going on after a stop, and one clear error for a bad space."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.test_cli import ROOT, call, done, is_png

CONFIG = """
data: digits
binarize: threshold
vae: {class_path: VAE, init_args: {latent_dim: 2}}
vae.encoder.hidden: [8]
vae.decoder.hidden: [8]
lr_schedule: Constant
objective: ELBO
batch_size: 500
pictures: false
"""
TRACKER = """
from pathlib import Path


class Lines:
    def settings(self, settings):
        self.file = Path(settings["run"], "lines.txt")
        self.write("settings")

    def write(self, text):
        with self.file.open("a") as file:
            print(text, file=file)

    def numbers(self, numbers, step):
        self.write(numbers["epoch"])

    def figure(self, name, figure, step):
        pass

    def close(self):
        self.write("close")
"""
SPACE = "optimizer.lr: [1e-8, 3e-3]\n"
FEW = "--num_particles 20 --num_data 40 --quiet --budget 4"


@pytest.fixture(autouse=True)
def _files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(CONFIG)
    Path("space.yaml").write_text(SPACE)


def test_a_table_a_picture_and_json():
    shown = call("search config.yaml --space space.yaml --run s", FEW)
    assert shown.code == 0, shown.err
    assert "best: c1 (optimizer.lr 0.003)" in shown.out and "round 1: 2 epochs each, 1 kept" in shown.out
    assert "evaluate it on test" in shown.out and "K = 20" in shown.out and is_png("s/result.png")
    saved = json.loads(Path("s/result.json").read_text())
    again = done("search config.yaml --space space.yaml --run s", FEW)
    assert again == saved and saved["best"] == "c1" and saved["run"] == "s/c1" and saved["lengthened"]
    assert saved["candidates"]["c0"] == {"optimizer.lr": 1e-08} and saved["rounds"][0]["num_data"] == 40
    assert call("evaluate s/c1 --num_particles 2 --num_data 3 --quiet").code == 0


def test_classes_their_options_and_a_range():
    """Options of a class may stand before its name; those of another class are not refused for this one."""
    space = "{objective: [ELBO, {class_path: IWAE, init_args: {num_particles: 3}}], optimizer.lr: {log: [1e-3, 1e-2]}}"
    Path("space.yaml").write_text(f"{space}\n")
    found = done("search config.yaml --space space.yaml --run s --num_candidates 2", FEW)
    assert {str(o["objective"])[:12] for o in found["candidates"].values()} == {"ELBO", "{'class_path"}
    assert all(1e-3 <= o["optimizer.lr"] <= 1e-2 for o in found["candidates"].values())


def test_the_commands_own_schedules_are_trained_anew():
    Path("config.yaml").write_text(CONFIG.replace("lr_schedule: Constant\n", ""))
    found = done("search config.yaml --space space.yaml --run s", FEW)
    assert not found["lengthened"] and found["run"] == "s/c1-2"


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("vae.latent_dim: 3\n", "--space space.yaml: vae.latent_dim: expected a list of values"),
        ("vea.latent_dim: [2, 3]\n", "--space space.yaml: unknown key 'vea.latent_dim', did you mean 'vae'?"),
        ("vae.latent_dm: [2, 3]\n", "--space space.yaml: vae: VAE has no option 'latent_dm', did you mean"),
        ("vae.latent_dim: [2, many]\n", "--space space.yaml: vae.latent_dim: expected"),
        ("objective: [ELBO, NoSuch]\n", "--space space.yaml: objective: unknown class 'NoSuch'"),
        ("epochs: [2, 3]\n", "--space space.yaml: epochs can't be searched: --budget decides it"),
        ("patience: [2, 3]\n", "--space space.yaml: patience can't be searched: the search itself stops"),
        ("data: [digits, mnist]\n", "--space space.yaml: data can't be searched: it is the same for all candidates"),
        ("batch_size: [x, 3]\n", "--space space.yaml: batch_size: expected"),
        ("optimizer.lr: {log: [1e-3, 1e-2]}\n", "is a range: say how many candidates to draw, by --num_candidates"),
        ("[1, 2]\n", "--space space.yaml: expected options with their values"),
        ("a: [1\n", "--space space.yaml: line 2"),
    ],
)
def test_a_bad_space_is_one_clear_error(space, message):
    Path("space.yaml").write_text(space)
    refused = call("search config.yaml --space space.yaml --run s", FEW)
    assert refused.code == 2 and message in refused.error and not Path("s").exists()


def test_other_mistakes():
    refused = call("search config.yaml --space none.yaml --run s", FEW)
    assert refused.code == 2 and "--space: there is no file 'none.yaml'" in refused.error
    refused = call("search none.yaml --space space.yaml --run s", FEW)
    assert refused.code == 2 and "there is no file 'none.yaml'" in refused.error
    refused = call("search config.yaml --space space.yaml --run s --quiet --budget 1")
    assert refused.code == 2 and "--budget: 2 candidates in 1 round need at least 2 epochs, got 1" in refused.error
    refused = call("search config.yaml --space space.yaml --quiet --budget 2 --run=")
    assert refused.code == 2 and "--run: expected a path, got an empty text" in refused.error
    Path("config.yaml").write_text(CONFIG + "patience: 3\n")
    refused = call("search config.yaml --space space.yaml --run s", FEW)
    assert refused.code == 2 and "patience: the search itself stops trainings" in refused.error
    Path("config.yaml").write_text(CONFIG.replace("binarize: threshold\n", ""))
    Path("space.yaml").write_text("vae.likelihood: [Bernoulli, ContinuousBernoulli]\n")
    refused = call("search config.yaml --space space.yaml --run s", FEW)
    assert refused.code == 2 and "set binarize in config.yaml" in refused.error and not Path("s").exists()


def test_the_config_of_a_refitted_run():
    assert call("fit --config config.yaml --epochs 1 --quiet --run plain").code == 0
    assert call("refit plain --prior LearnedNormal --epochs 1 --quiet --out refitted").code == 0
    for words in (f"search refitted/config.yaml --space space.yaml --run s {FEW}", "fit --config refitted/config.yaml"):
        refused = call(words)
        assert refused.code == 2 and "was not trained as a whole: take the config.yaml of the run" in refused.error
        assert refused.error.endswith(f"that it was made from, {Path('plain').resolve()}")


def test_another_search_in_the_folder_is_refused():
    assert call("search config.yaml --space space.yaml --run s", FEW).code == 0
    refused = call("search config.yaml --space space.yaml --run s --seed 1", FEW)
    assert refused.code == 4 and "Different: seed" in refused.error


@pytest.mark.slow
def test_killed_at_any_time_it_goes_on():
    """Killed as soon as each of these files is there: while one candidate trains, is measured, and so on."""
    words = "search config.yaml --space space.yaml --num_particles 20 --num_data 40 --quiet --budget 60 --run"
    assert call(words, "whole").code == 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in ("search.json", "c0/config.yaml", "scores/c0-30.npz", "c1/config.yaml", "scores/c1-30.npz"):
        command = [sys.executable, "-m", "pyro_vae", *words.split(), "killed"]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not Path("killed", name).exists() and process.poll() is None:
            time.sleep(0.005)
        process.kill()
        process.wait()
    assert call(words, "killed").code == 0
    whole, killed = (json.loads(Path(run, "result.json").read_text()) for run in ("whole", "killed"))
    assert {**killed, "run": whole["run"]} == whole


def test_each_candidate_has_a_tracker(monkeypatch):
    """It is told each epoch of its candidate once, also over the rounds in which a run goes on."""
    Path("lines.py").write_text(TRACKER)
    monkeypatch.syspath_prepend(".")
    Path("config.yaml").write_text(f"{CONFIG}tracker: lines.Lines\n")
    Path("space.yaml").write_text("optimizer.lr: [1e-8, 1e-3, 3e-3]\n")
    found = done("search config.yaml --space space.yaml --run s", FEW.replace("--budget 4", "--budget 9"))
    told = {name: Path(f"s/{name}/lines.txt").read_text().split() for name in found["candidates"]}
    assert all(lines[0] == "settings" and lines[-1] == "close" for lines in told.values())
    epochs = {name: [line for line in lines if line.isdigit()] for name, lines in told.items()}
    assert all(line == [str(e + 1) for e in range(len(line))] for line in epochs.values())
    assert len(epochs[found["best"]]) == found["rounds"][-1]["epochs"] == max(map(len, epochs.values()))


def test_a_folder_for_the_curves_of_all_is_refused():
    Path("config.yaml").write_text(f"{CONFIG}tracker: {{class_path: TensorBoard, init_args: {{folder: board}}}}\n")
    refused = call("search config.yaml --space space.yaml --run s", FEW)
    assert refused.code == 2 and "config.yaml: tracker.folder: the curves of all candidates" in refused.err
    assert not Path("s").exists()
