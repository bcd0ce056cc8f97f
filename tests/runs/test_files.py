"""The files of a run directory: whole or not at all, regular or refused; nothing outside is touched."""

import errno
import fcntl
import logging
import os
import shutil
import socket
from functools import partial
from pathlib import Path

import pytest

from pyro_vae.autoencoders import VAE
from pyro_vae.cli import main
from pyro_vae.data import load_data
from pyro_vae.errors import CheckpointError, FileError
from pyro_vae.networks import MLP
from pyro_vae.runs import files as run_files
from pyro_vae.runs.directory import Run, open_run
from pyro_vae.runs.loading import load, read_config, read_manifest, read_metrics
from pyro_vae.training.fitting import fit

NAMES = ("config.yaml", "manifest.json", "metrics.csv", "weights", "optimizer", "best")


def train(run, epochs=2):
    small = partial(MLP, hidden=(4,))
    data = load_data("digits", binarize="dynamic")
    return fit(VAE((8, 8), 2, encoder=small, decoder=small), data, epochs=epochs, run=run, progress=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "run"
    train(path)
    return path


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def outside(tmp_path):
    """A file of somebody else's; it must keep its content."""
    path = tmp_path / "outside"
    path.write_text("precious")
    yield path
    assert path.read_text() == "precious" and path.stat().st_nlink <= 2


def link(path, outside):
    path.symlink_to(outside)


def dangling(path, outside):
    path.symlink_to(outside.with_name("nowhere"))


def fifo(path, outside):
    os.mkfifo(path)


def folder(path, outside):
    path.mkdir()


def sock(path, outside):
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's path has at most 107 characters
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


def loop(path, outside):
    path.symlink_to(path.name)


KINDS = {function.__name__: function for function in (link, dangling, fifo, folder, sock, loop)}


def replaced(run, name, kind, outside):
    """A file of the run, by one that is none."""
    path = run / (read_manifest(run)["files"][name]["name"] if name in ("weights", "optimizer", "best") else name)
    path.unlink(missing_ok=True)
    KINDS[kind](path, outside)
    return path


def everything(run):
    """All that reads a run, and what resumes it."""
    return {
        "load": lambda: load(run, which="last" if not run.name else "best"),
        "last": lambda: load(run, which="last"),
        "config": lambda: read_config(run),
        "manifest": lambda: read_manifest(run),
        "metrics": lambda: read_metrics(run),
        "fit": lambda: train(run),
    }


READERS = {
    "config.yaml": ("load", "last", "config", "fit"),
    "manifest.json": ("load", "last", "manifest", "fit"),
    "metrics.csv": ("metrics", "fit"),
    "weights": ("last", "fit"),
    "optimizer": ("fit",),
    "best": ("load", "fit"),
    "lock": ("fit",),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", READERS)
def test_nothing_but_regular_files_is_read(run, outside, name, kind):
    path = replaced(run, name, kind, outside)
    for reader in READERS[name]:
        with pytest.raises(CheckpointError, match=f"refused to use {path}: expected a regular file") as caught:
            everything(run)[reader]()
        assert caught.value.exit_code == 4
    assert path.is_symlink() or not path.is_file()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["config.yaml", "metrics.csv", "weights-000000-000000.safetensors", "manifest.json"])
def test_nothing_but_regular_files_is_written(tmp_path, outside, name, kind):
    """Where a run is begun in a directory that is not empty."""
    run = tmp_path / "run"
    run.mkdir()
    KINDS[kind](run / name, outside)
    with pytest.raises(CheckpointError, match=f"refused to use .*{name}: expected a regular file"):
        train(run)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "folder"])
def test_pictures_is_a_folder_of_the_run(run, outside, tmp_path, kind, capsys):
    """Also a link to a folder is none: `sample` would write into somebody else's."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if kind == "link":
        (run / "pictures").symlink_to(elsewhere)
    else:
        KINDS[kind](run / "pictures", outside)
    assert main(["sample", str(run), "--num", "2"]) == 4
    assert f"refused to use {run}/pictures/samples" in capsys.readouterr().err
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_a_regular_file(run, outside, kind):
    (run / "pictures").mkdir()
    KINDS[kind](run / "pictures" / "a.png", outside)
    for write in (run_files.check_writable, partial(run_files.write, data=b"new")):
        with pytest.raises(CheckpointError, match=r"refused to use .*pictures/a\.png"):
            write(run, "pictures/a.png")
    assert len(list((run / "pictures").iterdir())) == 1


@pytest.mark.parametrize(
    "argv", [["evaluate", "--num_particles", "5", "--num_data", "5", "--quiet"], ["cluster"], ["diagnose"], ["info"]]
)
def test_the_commands_say_so(run, argv, capsys):
    """Exit code 4, and no waiting for whoever would write into a FIFO."""
    (run / "config.yaml").unlink()
    os.mkfifo(run / "config.yaml")
    assert main([argv[0], str(run), *argv[1:]]) == 4
    assert f"error: refused to use {run}/config.yaml: expected a regular file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", [".config.yaml.tmp", ".metrics.csv.tmp", ".manifest.json.tmp", ".evidence-test.json.tmp"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_temporary_names_are_nobody_elses(run, outside, name, kind):
    """What lies under a name that a save of an earlier version took is neither followed nor written."""
    KINDS[kind](run / name, outside)
    again = load(run)
    with open_run(run, read_config(run)) as directory:
        directory.save(directory.restore())
    run_files.write(run, "evidence-test.json", b"{}")
    assert (run / "evidence-test.json").read_bytes() == b"{}"
    assert load(run).state_dict().keys() == again.state_dict().keys()


def test_a_folder_with_the_name_of_old_weights_stays(run):
    (run / "weights-000001-000000.safetensors").mkdir()
    with open_run(run, read_config(run)) as directory:
        directory.save(directory.restore())
    assert (run / "weights-000001-000000.safetensors").is_dir()


def test_a_hard_link_as_lock_is_not_written(run, outside):
    (run / "lock").unlink()
    os.link(outside, run / "lock")
    with pytest.raises(CheckpointError, match="lock has another name elsewhere"):
        train(run)


def test_hard_links_of_other_files_are_replaced(run, outside):
    """A copy by `cp -al` shares files with the run it was made of; a write gives it its own."""
    os.link(outside, run / "evidence-test.json")
    run_files.write(run, "evidence-test.json", b"new")
    assert (run / "evidence-test.json").read_bytes() == b"new"


def test_the_run_directory_itself_may_be_a_link(tmp_path):
    """`runs -> /big/disk`, and a link to the run itself."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    train(tmp_path / "runs" / "a", epochs=1)
    (tmp_path / "b").symlink_to(tmp_path / "disk" / "a")
    assert load(tmp_path / "b") and main(["sample", str(tmp_path / "b"), "--num", "2"]) == 0
    assert (tmp_path / "disk" / "a" / "pictures").is_dir()


def test_a_file_that_the_user_named_may_be_a_link(tmp_path):
    """`--out latest.png` writes where the link points, whole; and what can't be written is a FileError."""
    (tmp_path / "latest").symlink_to(tmp_path / "target")
    run_files.write_atomic(tmp_path / "latest", b"new")
    assert (tmp_path / "target").read_bytes() == b"new" and (tmp_path / "latest").is_symlink()
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "nowhere/a", ""):
        with pytest.raises(FileError, match=f"can't write {tmp_path / name}: "):
            run_files.write_atomic(tmp_path / name, b"new")
    assert {path.name for path in tmp_path.iterdir()} == {"latest", "target", "fifo"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_leaves_nothing(run, monkeypatch, code):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    before = {path.name for path in run.iterdir()}
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(FileError, match=f"can't write {run}/evidence-test.npz: {os.strerror(code)}") as caught:
        run_files.write(run, "evidence-test.npz", run_files.packed({"a": [1.0]}))
    assert caught.value.exit_code == 7 and {path.name for path in run.iterdir()} == before


def test_what_is_written_can_be_read_by_others_as_the_umask_says(run):
    before = os.umask(0o027)
    try:
        run_files.write(run, "a", b"")
    finally:
        os.umask(before)
    assert (run / "a").stat().st_mode & 0o777 == 0o640


def test_what_killed_processes_left_of_a_file_is_deleted(tmp_path):
    """An hour later, by the next write of the same file; what another process may still write stays, as all else."""
    old, new, other = (f".{name}.tmp" for name in ("x.npz.0123456789ab", "x.npz.ba9876543210", "y.npz.0123456789ab"))
    for name in (old, new, other, ".x.npz.mine.tmp"):
        (tmp_path / name).touch()
    for name in (old, other, ".x.npz.mine.tmp"):
        os.utime(tmp_path / name, (0, 0))
    run_files.write(tmp_path, "x.npz", b"1")
    assert {path.name for path in tmp_path.iterdir()} == {"x.npz", new, other, ".x.npz.mine.tmp"}
    run_files.write_atomic(tmp_path / "y.npz", b"2")
    assert not (tmp_path / other).exists()


def test_a_text_that_is_too_large_is_not_read(run, monkeypatch):
    monkeypatch.setattr(run_files, "LARGEST_TEXT", 10)
    with pytest.raises(CheckpointError, match=r"config\.yaml is damaged: it has \d+ bytes, more than 10"):
        read_config(run)


class TestLock:
    """Who has it, and file systems without it."""

    @pytest.mark.parametrize("content", [b"", b"junk", b"12 host", b"\xff" * 400, b"1 a b\n", b"1 a\n" * 100])
    def test_the_holder_is_told_where_it_is_known(self, run, content):
        with open_run(run, read_config(run)):
            (run / "lock").write_bytes(content)
            with pytest.raises(CheckpointError, match="run is in use by another process: wait for it"):
                Run(run, read_config(run))

    @pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
    def test_a_file_system_without_locks(self, run, monkeypatch, caplog, code):
        def fail(*_):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(fcntl, "flock", fail)
        with caplog.at_level(logging.WARNING, logger="pyro_vae"):
            train(run)
        assert [record.getMessage() for record in caplog.records] == [
            f"the file system of {run} has no locks: see to it that no other process uses the directory"
        ]

    def test_any_other_error_is_told_as_it_is(self, run, monkeypatch):
        def fail(*_):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(fcntl, "flock", fail)
        with pytest.raises(FileError, match=f"can't write {run}/lock: Input/output error"):
            train(run)


class TestLostManifest:
    """A run without its manifest is not begun anew among its own files."""

    @pytest.mark.parametrize(
        "kept", [("weights", "metrics.csv"), ("metrics.csv",), ("weights",), ("best",), ("optimizer",)]
    )
    def test_refused(self, run, kept):
        names = [read_manifest(run)["files"].get(name, {"name": name})["name"] for name in kept]
        for path in run.iterdir():
            if path.name not in (*names, "config.yaml"):
                path.unlink()
        before = {path.name: path.read_bytes() for path in run.iterdir()}
        with pytest.raises(CheckpointError, match=r"holds what a run has left \(.*restore manifest\.json from a copy"):
            train(run)
        assert before.items() <= {path.name: path.read_bytes() for path in run.iterdir()}.items()

    def test_a_run_made_from_another_is_written_again(self, run):
        """`refit` that died in its only save: nothing is lost by the same call, and another one is refused."""
        (run / "manifest.json").unlink()
        Run(run, read_config(run), rewritten=True).close()
        with pytest.raises(CheckpointError, match="holds what a run has left"):
            Run(run, {**read_config(run), "seed": 9}, rewritten=True)

    def test_a_training_that_died_in_its_first_save_begins_anew(self, trained, tmp_path):
        run = tmp_path / "run"
        run.mkdir()
        for kind in ("weights", "optimizer", "best"):
            shutil.copy(
                trained / read_manifest(trained)["files"][kind]["name"], run / f"{kind}-000000-000000.safetensors"
            )
        shutil.copy(trained / "config.yaml", run)
        (run / "metrics.csv").touch()
        assert train(run).best_epoch and read_manifest(run)["progress"]["epoch"] == 2


class TestSeveralFiles:
    def test_all_or_none(self, tmp_path, monkeypatch):
        """A disk that is full at the second file leaves the first as it was, and no temporary file."""
        old, new = tmp_path / "old.bin", tmp_path / "deep" / "new.bin"
        old.write_bytes(b"old")
        fsync, count = os.fsync, []

        def full_at_the_second(descriptor):
            count.append(descriptor)
            if len(count) == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", full_at_the_second)
        with pytest.raises(FileError, match=r"can't write .*new\.bin: No space left"):
            run_files.write_all({old: b"x", new: b"y"})
        assert old.read_bytes() == b"old" and sorted(path.name for path in tmp_path.rglob("*")) == ["deep", "old.bin"]
        monkeypatch.setattr(os, "fsync", fsync)
        run_files.write_all({old: b"x", new: b"y"})
        assert (old.read_bytes(), new.read_bytes()) == (b"x", b"y") and len(list(tmp_path.rglob("*"))) == 3

    def test_of_a_run_no_link_is_followed(self, tmp_path, outside):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "b").symlink_to(outside)
        with pytest.raises(CheckpointError, match="refused to use"):
            run_files.write_all({tmp_path / "run" / "a": b"x", tmp_path / "run" / "b": b"y"}, tmp_path / "run")
        assert not (tmp_path / "run" / "a").exists()
