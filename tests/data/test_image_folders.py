"""Folders of images: labels by sub-folder, one shape for all, and every file that can't be read is named."""

import os
import re
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vae import load_data
from pyro_vae.arguments.remedies import on_command_line
from pyro_vae.cli import main
from pyro_vae.errors import DataError, FileError, UsageError
from pyro_vae.runs.loading import read_config


def refused(error, *parts):
    """Expect `error` with a one-line message that has all the parts, in this order."""
    return pytest.raises(error, match=".*".join(map(re.escape, parts)) + r"[^\n]*\Z")


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    """Where decoded images are kept."""
    monkeypatch.setenv("PYRO_VAE_DATA", str(tmp_path / "own"))
    return tmp_path / "own"


def pixels(seed, size=(4, 3), colour=False):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3) if colour else size, np.uint8)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def made(folder, classes=("bee", "ant"), count=3, **options):
    """A folder with some images of each class; returns their pixels by file name."""
    found = {}
    for n, name in enumerate(classes):
        for i in range(count):
            found[f"{name}{i}"] = pixels(10 * n + i, **options)
            save(folder / name / f"{name}{i}.png", found[f"{name}{i}"])
    return found


def by_content(data, found):
    """The names of the images of train, in order, by their pixels."""
    names = {array.tobytes(): name for name, array in found.items()}
    return [names[np.ascontiguousarray(x).tobytes()] for x in data.train]


# ---- what is read


def test_sub_folders_are_labels(tmp_path):
    found = made(tmp_path / "insects")
    data = load_data(tmp_path / "insects")
    assert isinstance(data.train, np.memmap) and data.train.dtype == np.uint8 and data.event_shape == (4, 3)
    assert data.protocol == "insects: divided by 255; not binarised; train 6; shape 4x3"
    names = by_content(data, found)
    assert sorted(names) == sorted(found)
    assert [{"a": 0, "b": 1}[name[0]] for name in names] == data.labels["train"].tolist()
    assert data.origin["data"] == str(tmp_path / "insects")


def test_the_last_are_some_of_each_class(tmp_path):
    made(tmp_path / "x", count=40)
    data = load_data(tmp_path / "x", valid_size=20)
    counts = data.labels["valid"].bincount(minlength=2)
    assert counts.min() >= 4  # of 20 drawn of 40 and 40 without replacement, fewer with probability 8e-4
    assert load_data(tmp_path / "x", valid_size=20).labels["valid"].tolist() == data.labels["valid"].tolist()


def test_splits_are_sub_folders_above_the_classes(tmp_path):
    made(tmp_path / "x" / "train", classes=("a", "b", "c"))
    made(tmp_path / "x" / "val", classes=("c", "a"))
    made(tmp_path / "x" / "test", classes=("b",), count=2)
    (tmp_path / "x" / ".cache").mkdir()
    data = load_data(tmp_path / "x")
    assert [data.size(split) for split in ("train", "valid", "test")] == [9, 6, 2]
    assert sorted(data.labels["valid"].tolist()) == [0, 0, 0, 2, 2, 2] and data.labels["test"].tolist() == [1, 1]


def test_images_without_classes(tmp_path):
    arrays = [pixels(i, colour=True) for i in range(4)]
    for i, array in enumerate(arrays):
        save(tmp_path / "x" / f"{i}.png", array)
    data = load_data(tmp_path / "x")
    assert np.array_equal(data.train, np.stack(arrays).transpose(0, 3, 1, 2)) and not data.labels


def test_files_that_are_no_images_are_named(tmp_path, caplog):
    made(tmp_path / "x")
    (tmp_path / "x" / "ant" / "labels.csv").write_text("1")
    (tmp_path / "x" / "notes.txt").write_text("1")
    (tmp_path / "x" / "ant" / "._ant0.png").write_bytes(b"x")
    (tmp_path / "x" / ".hidden").mkdir()
    (tmp_path / "x" / "ant" / "deeper").mkdir()
    save(tmp_path / "x" / "ant" / "deeper" / "more.JPG", pixels(3))
    assert load_data(tmp_path / "x").size("train") == 7
    assert "2 files are no images by their names and are left out: notes.txt, labels.csv" in caplog.text


MODES = {"1": (4, 3), "L": (4, 3), "LA": (4, 3), "RGB": (3, 4, 3), "RGBA": (3, 4, 3), "P": (3, 4, 3), "CMYK": (3, 4, 3)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_colours(tmp_path, mode, channels):
    ending = "tif" if mode == "CMYK" else "png"
    (tmp_path / "x").mkdir()
    image = Image.fromarray(pixels(0, colour=True)).convert(mode)
    image.save(tmp_path / "x" / f"a.{ending}")
    data = load_data(tmp_path / "x", channels=channels)
    assert data.event_shape == {None: MODES[mode], 1: (4, 3), 3: (3, 4, 3)}[channels]
    if channels is not None:
        expected = np.asarray(image.convert("L" if channels == 1 else "RGB"))
        assert np.array_equal(data.train[0], expected if channels == 1 else expected.transpose(2, 0, 1))


def test_more_than_256_levels_are_kept(tmp_path):
    deep = np.arange(12, dtype=np.uint16).reshape(4, 3) * 5000
    save(tmp_path / "x" / "a.png", deep)
    data = load_data(tmp_path / "x", divide_by=65535, channels=1)
    assert torch.equal(data.split("train")[0], torch.tensor(deep / 65535).float())
    with refused(DataError, "integers (", "have no known scale: pass divide_by=1"):
        load_data(tmp_path / "x")
    with refused(DataError, "a.png is grey with more than 256 levels, which channels=3 would lose"):
        load_data(tmp_path / "x", channels=3)


def test_a_size_scales_and_cuts_evenly(tmp_path):
    wide = np.zeros((4, 12), np.uint8)
    wide[:, 4:8] = 200  # the middle third
    save(tmp_path / "x" / "wide.png", wide)
    save(tmp_path / "x" / "small.png", np.full((2, 2), 7, np.uint8))
    save(tmp_path / "x" / "right.png", pixels(0, size=(4, 4)))
    data = load_data(tmp_path / "x", image_size=4)
    right, small, cut = data.train
    assert (cut == 200).all() and (small == 7).all() and np.array_equal(right, pixels(0, size=(4, 4)))
    assert load_data(tmp_path / "x", image_size=(2, 6)).event_shape == (2, 6)
    assert load_data(tmp_path / "x", image_size=[2, 6]).origin["image_size"] == [2, 6]


def test_images_are_turned_upright(tmp_path):
    array = np.zeros((4, 8), np.uint8)
    array[:, :4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter clockwise
    save(tmp_path / "x" / "a.jpg", array, exif=exif, quality=100)
    save(tmp_path / "x" / "b.png", np.zeros((8, 4), np.uint8))
    turned = load_data(tmp_path / "x").train[0]
    assert turned.shape == (8, 4) and (turned[:4] > 250).all() and (turned[4:] < 5).all()


# ---- decoded once


def test_images_are_decoded_once(tmp_path, own, monkeypatch):
    made(tmp_path / "x")
    first = load_data(tmp_path / "x")
    monkeypatch.setattr("pyro_vae.data.sources.image_folders.decoded", None)
    monkeypatch.setattr("pyro_vae.data.sources.image_folders.read_header", None)
    assert load_data(tmp_path / "x").fingerprint() == first.fingerprint()
    assert len(list((own / "stored").iterdir())) == 1


def test_images_are_decoded_again_where_a_file_changed(tmp_path, own):
    found = made(tmp_path / "x")
    first = load_data(tmp_path / "x")
    other = save(tmp_path / "x" / "ant" / "ant0.png", pixels(99))
    os.utime(other, ns=(1, 1))
    second = load_data(tmp_path / "x")
    assert second.fingerprint() != first.fingerprint() and len(list((own / "stored").iterdir())) == 1
    assert sorted(by_content(first, found)) == sorted(found)  # what was mapped before is there still
    assert load_data(tmp_path / "x", channels=3).event_shape == (3, 4, 3)
    assert len(list((own / "stored").iterdir())) == 2


def test_another_place_for_what_was_decoded(tmp_path, own):
    made(tmp_path / "x")
    load_data(tmp_path / "x", root=tmp_path / "here")
    assert not own.exists() and len(list((tmp_path / "here" / "stored").iterdir())) == 1
    (tmp_path / "file").write_text("x")
    with refused(FileError, "can't write", "file", "name a folder to keep them in by root=FOLDER"):
        load_data(tmp_path / "x", root=tmp_path / "file")
    with on_command_line(), refused(FileError, "can't write", "by --data_root FOLDER"):
        load_data(tmp_path / "x", root=tmp_path / "file")


# ---- what is refused


def broken(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def cut_off(path, name="bee/big.jpg"):
    save(path / name, pixels(0, size=(4, 3)), quality=95)
    data = (path / name).read_bytes()
    (path / name).write_bytes(data[: len(data) - 60])


def bomb(path):
    """A small file whose header says 20,000 x 20,000."""
    save(path / "bee" / "bomb.png", np.zeros((1, 1), np.uint8))
    data = bytearray((path / "bee" / "bomb.png").read_bytes())
    data[16:24] = (20_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (path / "bee" / "bomb.png").write_bytes(data)


HOSTILE = {
    "a text": (lambda x: broken(x / "bee" / "a.png", b"no picture"), ("a.png: it is no image that Pillow knows",)),
    "no bytes": (lambda x: broken(x / "bee" / "a.png", b""), ("a.png: it is no image that Pillow knows",)),
    "cut off": (cut_off, ("big.jpg",)),
    "400 million pixels": (bomb, ("can't read the image", "bomb.png", "pixels")),
    "another size": (
        lambda x: save(x / "bee" / "odd.png", pixels(0, size=(4, 4))),
        (
            "different sizes, height x width: 4x3 (6: ",
            "4x4 (1: odd.png): pass image_size=(4, 3) to scale each",
        ),
    ),
    "colour among grey": (
        lambda x: save(x / "bee" / "odd.png", pixels(0, colour=True)),
        ("6 are grey (", "and 1 in colour (odd.png): pass channels=1 to make all grey, or channels=3"),
    ),
    "more levels": (
        lambda x: save(x / "bee" / "odd.png", pixels(0).astype(np.uint16)),
        ("and those before", "convert all to one type"),
    ),
    "an image beside the classes": (
        lambda x: save(x / "loose.png", pixels(0)),
        ("loose.png has no label, and others have: put each image into the sub-folder of its class",),
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_images_that_are_refused(tmp_path, own, name):
    spoil, parts = HOSTILE[name]
    made(tmp_path / "x")
    spoil(tmp_path / "x")
    with refused(DataError, *parts):
        load_data(tmp_path / "x")
    assert not list(own.glob("stored/*"))


def test_splits_that_are_refused(tmp_path):
    made(tmp_path / "x" / "train")
    made(tmp_path / "x" / "test", classes=("ant", "wasp"))
    with refused(DataError, "wasp is a class that train does not have: its classes are ant, bee"):
        load_data(tmp_path / "x")
    save(tmp_path / "y" / "train" / "a" / "1.png", pixels(0))
    save(tmp_path / "y" / "test" / "1.png", pixels(0))
    with refused(DataError, "1.png has no label, and others have"):
        load_data(tmp_path / "y")
    save(tmp_path / "z" / "train" / "1.png", pixels(0))
    save(tmp_path / "z" / "test" / "a" / "1.png", pixels(0))
    with refused(DataError, "has no label, and others have"):
        load_data(tmp_path / "z")
    save(tmp_path / "v" / "train" / "1.png", pixels(0))
    (tmp_path / "v" / "test").mkdir()
    with refused(DataError, "test has no image: expected files that end in .png, .jpg"):
        load_data(tmp_path / "v")
    save(tmp_path / "w" / "train" / "1.png", pixels(0))
    save(tmp_path / "w" / "val" / "1.png", pixels(0))
    save(tmp_path / "w" / "valid" / "1.png", pixels(0))
    with refused(DataError, "has two sub-folders of the split 'valid'"):
        load_data(tmp_path / "w")
    made(tmp_path / "vehicles", classes=("car", "train"))
    with refused(
        DataError, "has the sub-folder 'train', for a split, and beside it 'car'", "rename 'train' if it is one"
    ):
        load_data(tmp_path / "vehicles")


def test_a_folder_without_images(tmp_path):
    (tmp_path / "x").mkdir()
    with refused(DataError, "x is a folder without images, train.npy or IDX files"):
        load_data(tmp_path / "x")


@pytest.mark.parametrize("size", [0, -3, (4,), (4, 4, 3), "4", (4.5, 4), True])
def test_sizes_that_make_no_sense(tmp_path, size):
    made(tmp_path / "x")
    with refused(UsageError, "image_size: expected e.g. image_size=64, or (height, width), got"):
        load_data(tmp_path / "x", image_size=size)


def test_options_that_are_for_images(tmp_path):
    made(tmp_path / "x")
    for channels in (0, 2, 4, "RGB", True):
        with refused(UsageError, "channels: expected 1 (grey) or 3 (colour), got"):
            load_data(tmp_path / "x", channels=channels)
    np.save(tmp_path / "x.npy", pixels(0))
    with refused(UsageError, "image_size: for a folder of images, and", "x.npy is none"):
        load_data(tmp_path / "x.npy", image_size=4)
    with refused(UsageError, "linear_gaussian has no images"):
        load_data("linear_gaussian", image_size=4)


# ---- the command


def test_the_command_trains_on_a_folder_and_evaluates_on_another(tmp_path, capsys):
    made(tmp_path / "x", count=20, size=(6, 5))
    made(tmp_path / "y", count=8, size=(9, 9))
    run = str(tmp_path / "run")
    fit = ["fit", "--data", str(tmp_path / "x"), "--image_size", "[4,4]", "--channels", "1", "--epochs", "1"]
    assert main([*fit, "--test_size", "8", "--run", run, "--pictures", "false", "--quiet"]) == 0
    config = read_config(tmp_path / "run", trained=True)
    assert (config["image_size"], config["channels"]) == ([4, 4], 1)
    assert main(["fit", "--config", f"{run}/config.yaml", "--run", run, "--pictures", "false", "--quiet"]) == 0
    assert main(["evaluate", run, "--num_particles", "10", "--quiet"]) == 0
    others = ["--data", str(tmp_path / "y"), "--split", "train"]
    assert main(["evaluate", run, *others, "--num_particles", "10", "--quiet"]) == 0
    assert "N = 8 data" in capsys.readouterr().out


def test_the_command_says_what_is_wrong_in_its_own_words(tmp_path, capsys):
    made(tmp_path / "x")
    save(tmp_path / "x" / "bee" / "odd.png", pixels(0, size=(4, 4)))
    assert main(["fit", "--data", str(tmp_path / "x"), "--run", str(tmp_path / "run")]) == 3
    error = capsys.readouterr().err
    assert "pass --image_size [4,3] to scale each" in error and "Traceback" not in error
    assert main(["fit", "--data", str(tmp_path / "x"), "--image_size", "0", "--run", str(tmp_path / "run")]) == 2
    assert "--image_size: expected e.g. --image_size 64, or [HEIGHT,WIDTH], got 0" in capsys.readouterr().err
