"""Data of any shape train to the end; what can't be drawn is left out, with a remark."""

import json

import numpy as np
import pytest
import torch

from pyro_vae import plots
from pyro_vae.cli import main
from pyro_vae.errors import UsageError
from pyro_vae.tasks.generation import Generated

SHAPES = [(), (5,), (8, 8), (8, 8, 3), (8, 8, 1), (3, 8, 8), (1, 8, 8), (2, 8, 8), (4, 5, 6, 7)]
UNDRAWN = [(), (2, 8, 8), (4, 5, 6, 7)]
OF_DATA = {"reconstructions.png", "samples.png", "manifold.png"}


@pytest.mark.parametrize("event", [(5,), (8, 8, 3), (1, 8, 8), (2, 8, 8), (4, 5, 6, 7)], ids=str)
def test_fit_sample_and_reconstruct(event, tmp_path, capsys):
    x = (np.random.default_rng(0).random((12, *event)) < 0.4).astype(np.float32)
    np.savez(tmp_path / "x.npz", train=x, valid=x[:4], test=x[:3])
    run, small = str(tmp_path / "run"), ["--vae.encoder.hidden", "[4]", "--vae.decoder.hidden", "[4]"]
    words = ["--data", str(tmp_path / "x.npz"), "--epochs", "1", "--vae.latent_dim", "2", *small, "--quiet", "--json"]
    assert main(["fit", *words, "--run", run]) == 0
    pictures = {path.rpartition("/")[2] for path in json.loads(capsys.readouterr().out)["pictures"]}
    assert "curves.png" in pictures and pictures & OF_DATA == (set() if event in UNDRAWN else OF_DATA)
    for command in ("sample", "reconstruct"):
        assert main([command, run, "--num", "3", "--json"]) == 0
        saved = json.loads(capsys.readouterr().out)["saved"]
        assert saved.endswith(".npz" if event in UNDRAWN else ".png")
        if event in UNDRAWN:
            assert main([command, run, "--num", "3", "--out", str(tmp_path / "x.png")]) == 2
            assert "give a file ending in .npz" in capsys.readouterr().err


def test_numbers_alone_are_refused_before_training(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", train=np.zeros(12, np.float32))
    assert main(["fit", "--data", str(tmp_path / "x.npz"), "--run", str(tmp_path / "run")]) == 3
    assert "a scalar datum is [N, 1]" in capsys.readouterr().err and not (tmp_path / "run").exists()


def pixels(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_at_the_end_are_drawn_as_channels_in_front(channels):
    first = torch.rand(4, channels, 8, 6)
    last = first.movedim(1, -1)
    grids = [(plots.manifold(x.unflatten(0, (2, 2))), plots.image_grid(x)) for x in (first, last)]
    pairs = [(plots.reconstructions(x, 1 - x), plots.samples(Generated({}, x, 1 - x))) for x in (first, last)]
    for a, b in zip((*grids[0], *pairs[0]), (*grids[1], *pairs[1]), strict=True):
        assert np.array_equal(pixels(a), pixels(b))


def test_what_is_no_picture():
    assert [event for event in SHAPES if not plots.drawable(event)] == UNDRAWN
    with pytest.raises(UsageError, match=r"expected data \[N, \*event\] .* got \[4, 2, 8, 8\]: reshape"):
        plots.image_grid(torch.rand(4, 2, 8, 8))
