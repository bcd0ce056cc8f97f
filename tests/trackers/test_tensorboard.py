"""`TensorBoard`: what its files say is what it was told; without the package a warning names the extra."""

import json
import sys
import warnings
from functools import partial
from typing import Any

import matplotlib.figure
import pytest
import torch

from pyro_vae.autoencoders import VAE
from pyro_vae.errors import MissingPackage
from pyro_vae.networks import MLP
from pyro_vae.trackers import TensorBoard
from pyro_vae.trackers.tensorboard import _tag
from pyro_vae.training.fitting import fit
from tests.cli.test_cli import FAST, SMALL, call

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own dependencies
    try:
        from tensorboard.backend.event_processing import event_accumulator  # pyright: ignore[reportMissingImports]
        from torch.utils import tensorboard as _  # noqa: F401
    except ImportError:
        event_accumulator: Any = None

needs_tensorboard = pytest.mark.skipif(event_accumulator is None, reason="the extra tensorboard is not installed")
HOW = {"epochs": 3, "batch_size": 10, "progress": False}


def vae():
    torch.manual_seed(0)
    return VAE((4,), 2, encoder=partial(MLP, hidden=(8,)), decoder=partial(MLP, hidden=(8,)))


def read(folder):
    found = event_accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    found.Reload()
    return found


@needs_tensorboard
class TestFiles:
    def test_every_number_of_the_history_at_its_step(self, tmp_path):
        run = tmp_path / "run"
        history = fit(vae(), torch.ones(25, 4), run=run, tracker=TensorBoard, **HOW)
        found = read(run / "tensorboard")
        names = [name for name in history.rows[0] if name != "step"]
        assert sorted(found.Tags()["scalars"]) == sorted(map(_tag, names)) and "elbo/train" in map(_tag, names)
        for name in names:
            points = [(point.step, point.value) for point in found.Scalars(_tag(name))]
            assert points == [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in history.rows]

    def test_the_settings(self, tmp_path):
        fit(vae(), torch.ones(25, 4), run=tmp_path, tracker=partial(TensorBoard, str(tmp_path / "board")), **HOW)
        (event,) = read(tmp_path / "board").Tensors("settings/text_summary")
        lines = event.tensor_proto.string_val[0].decode().splitlines()
        assert all(line.startswith("    ") for line in lines)
        settings = json.loads("\n".join(lines))
        assert settings["batch_size"] == 10 and settings["run"] == str(tmp_path)
        assert not (tmp_path / "tensorboard").exists()

    def test_a_resumed_training_goes_on(self, tmp_path):
        def stop(row):
            return row["epoch"] == 2

        fit(vae(), torch.ones(25, 4), run=tmp_path, tracker=TensorBoard, on_epoch=stop, **HOW)
        fit(vae(), torch.ones(25, 4), run=tmp_path, tracker=TensorBoard, **HOW)
        steps = [point.step for point in read(tmp_path / "tensorboard").Scalars("loss/train")]
        assert steps == [3, 6, 9]
        files = sorted(tmp_path.glob("tensorboard/*"))
        fit(vae(), torch.ones(25, 4), run=tmp_path, tracker=TensorBoard, **HOW)
        assert len(files) == 2 and sorted(tmp_path.glob("tensorboard/*")) == files  # nothing new to be told

    def test_without_a_folder_it_says_so(self, caplog):
        fit(vae(), torch.ones(25, 4), tracker=TensorBoard, **HOW)
        (record,) = caplog.records
        assert "failed in settings" in record.getMessage() and "TensorBoard('runs/board')" in record.getMessage()

    def test_of_the_command_with_its_pictures(self, tmp_path):
        words = f"{SMALL} --epochs 2 --quiet --tracker TensorBoard --run"
        assert call("fit", words, tmp_path / "run").code == 0
        found = read(tmp_path / "run" / "tensorboard")
        assert [point.step for point in found.Scalars("loss/train")] == [14, 28]
        pictures = {path.stem for path in (tmp_path / "run" / "pictures").iterdir()}
        assert set(found.Tags()["images"]) == pictures and "curves" in pictures
        assert [image.step for image in found.Images("curves")] == [28]
        assert call("fit", words, tmp_path / "run").code == 0
        assert [image.step for image in read(tmp_path / "run" / "tensorboard").Images("curves")] == [28]

    def test_figures_and_numbers_by_hand(self, tmp_path):
        tracker = TensorBoard(str(tmp_path))
        tracker.numbers({"log_p": -3.0}, 7)
        tracker.figure("mine", matplotlib.figure.Figure(), 7)
        tracker.close()
        found = read(tmp_path)
        assert found.Scalars("training/log_p")[0].value == -3.0 and found.Images("mine")[0].step == 7


class TestWithoutThePackage:
    @pytest.fixture(autouse=True)
    def absent(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)

    def test_it_names_the_extra(self):
        with pytest.raises(MissingPackage, match=r"pip install 'pyro-vae\[tensorboard\]'"):
            TensorBoard()

    def test_a_training_goes_on_with_one_warning(self, tmp_path, caplog):
        history = fit(vae(), torch.ones(25, 4), run=tmp_path, tracker=TensorBoard, **HOW)
        (record,) = caplog.records
        assert len(history.rows) == 3 and "pyro-vae[tensorboard]" in record.getMessage()

    def test_of_the_command(self, tmp_path, caplog):
        done = call("fit", FAST, "--epochs 1 --tracker TensorBoard --run", tmp_path)
        assert done.code == 0 and caplog.text.count("the tracker TensorBoard failed in its construction") == 1
