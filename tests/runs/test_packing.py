"""`pack` and `unpack`: the run and nothing but the run, whole or not at all; hostile files are refused by name."""

import errno
import hashlib
import json
import os
import random
import stat
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import pytest
import torch

from pyro_vae.autoencoders import VAE
from pyro_vae.errors import CheckpointError, FileError, UsageError
from pyro_vae.networks import MLP
from pyro_vae.runs import archives, packing
from pyro_vae.runs.archives import LIST, is_name, open_archive
from pyro_vae.runs.loading import load
from pyro_vae.runs.locking import lock
from pyro_vae.runs.packing import pack, unpack
from pyro_vae.training.fitting import fit
from tests.cli.test_cli import call

SMALL = partial(MLP, hidden=(4,))
HOW = {"epochs": 2, "batch_size": 10, "progress": False}


def make(seed=0):
    torch.manual_seed(seed)
    return VAE((3,), 2, encoder=SMALL, decoder=SMALL)


@pytest.fixture
def run(tmp_path):
    fit(make(), torch.ones(25, 3), run=tmp_path / "run", **HOW)
    (tmp_path / "run" / "pictures").mkdir()
    (tmp_path / "run" / "pictures" / "curves.png").write_bytes(b"a picture")
    (tmp_path / "run" / "my notes (ü): a.txt").write_text("mine")
    return tmp_path / "run"


def content(folder):
    """What a run holds for its owner."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def weights(vae):
    return torch.cat([p.detach().reshape(-1) for p in vae.parameters()])


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


class TestThereAndBack:
    def test_every_file_is_the_same(self, run, tmp_path):
        archive = pack(run)
        assert archive == tmp_path / "run.zip" and leftovers(tmp_path) == []
        assert pack(run, tmp_path / "new" / "folder" / "x.zip").read_bytes() == archive.read_bytes()
        copy = unpack(archive, tmp_path / "deep" / "copy")
        assert content(copy) == content(run) and not (copy / "lock").exists() and leftovers(copy.parent) == []

    def test_load_reads_it(self, run):
        archive = pack(run)
        for which in ("best", "last"):
            assert torch.equal(weights(load(archive, which=which)), weights(load(run, which=which)))
        assert load(str(archive)).training is False

    def test_a_training_begins_from_it(self, run, tmp_path):
        a, b = make(1), make(1)
        fit(a, torch.ones(25, 3), start_from=run, **HOW)
        fit(b, torch.ones(25, 3), start_from=pack(run), **HOW)
        assert torch.equal(weights(a), weights(b))

    def test_what_is_unpacked_goes_on(self, run, tmp_path):
        """Stopped, packed, unpacked and resumed: the bits of a training without a stop."""
        first, other = make(1), make(1)
        fit(first, torch.ones(25, 3), **HOW)
        stopped = tmp_path / "stopped"
        fit(make(1), torch.ones(25, 3), run=stopped, on_epoch=lambda row: True, **HOW)
        copy = unpack(pack(stopped), tmp_path / "copy")
        fit(other, torch.ones(25, 3), run=copy, **HOW)
        assert torch.equal(weights(first), weights(other))

    def test_other_programs_read_it(self, run, tmp_path):
        with zipfile.ZipFile(pack(run)) as found:
            found.extractall(tmp_path / "by-zip")
        assert {name: data for name, data in content(tmp_path / "by-zip").items() if name != LIST} == content(run)

    def test_the_list_is_that_of_the_files(self, run):
        with zipfile.ZipFile(pack(run)) as found:
            listed = json.loads(found.read(LIST))
        assert listed["format"] == 1
        expected = {name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in content(run).items()}
        assert {file["name"]: (file["size"], file["sha256"]) for file in listed["files"]} == expected


class TestSameBytes:
    def test_whenever_and_wherever(self, run, tmp_path):
        """Other times, rights, names of the folder, and order of the entries of the disk."""
        first = pack(run, tmp_path / "a.zip").read_bytes()
        copy = unpack(tmp_path / "a.zip", tmp_path / "elsewhere")
        for path in copy.rglob("*"):
            os.utime(path, (0, 0))
            path.chmod(0o700)
        assert pack(copy, tmp_path / "b.zip").read_bytes() == first
        (copy / "pictures" / "curves.png").write_bytes(b"another")
        assert pack(copy, tmp_path / "c.zip").read_bytes() != first

    def test_known(self, tmp_path):
        """Of files that never change: also another Python, or another zlib, writes these bytes."""
        with (tmp_path / "x.zip").open("wb") as file, zipfile.ZipFile(file, "w") as zipped:
            entry = packing._entry("config.yaml", 3)
            with zipped.open(entry, "w") as inner:
                inner.write(b"a\n\n")
        expected = "2f8a05b235c2e424"
        assert hashlib.sha256((tmp_path / "x.zip").read_bytes()).hexdigest()[:16] == expected


class TestWhatIsLeftOut:
    def test_locks_hidden_files_and_old_weights(self, run, tmp_path):
        for name in (".hidden", "weights-000001-000000.safetensors", ".config.yaml.0123456789ab.tmp"):
            (run / name).write_bytes(b"x")
        with open_archive(pack(run)) as archive:
            names = set(archive.files)
        assert names == set(content(run)) - {
            ".hidden",
            "weights-000001-000000.safetensors",
            ".config.yaml.0123456789ab.tmp",
        }

    def test_links_with_a_warning(self, run, tmp_path, caplog):
        (tmp_path / "secret").write_text("secret")
        (run / "link").symlink_to(tmp_path / "secret")
        (run / "loop").symlink_to(run)
        os.mkfifo(run / "fifo")
        with open_archive(pack(run)) as archive:
            assert not {"link", "fifo"} & set(archive.files) and not any("loop" in name for name in archive.files)
        assert "not packed, as these are links or devices: fifo, link, loop" in caplog.text

    def test_a_link_in_place_of_a_file_of_the_run_is_refused(self, run, tmp_path):
        (run / "config.yaml").rename(tmp_path / "config.yaml")
        (run / "config.yaml").symlink_to(tmp_path / "config.yaml")
        with pytest.raises(CheckpointError, match=r"refused to use .*config\.yaml"):
            pack(run)
        assert not (tmp_path / "run.zip").exists()

    def test_weights_that_are_a_link(self, run, tmp_path):
        path = next(run.glob("weights-*"))
        path.rename(tmp_path / "away")
        path.symlink_to(tmp_path / "away")
        with pytest.raises(CheckpointError, match=f"{path.name} is damaged, or not there"):
            pack(run)
        assert not (tmp_path / "run.zip").exists() and leftovers(tmp_path) == []


class TestPlaces:
    def test_nothing_is_overwritten_without_being_told(self, run, tmp_path):
        (tmp_path / "run.zip").write_bytes(b"mine")
        with pytest.raises(UsageError, match="is there already: pass overwrite=True to replace it"):
            pack(run)
        assert (tmp_path / "run.zip").read_bytes() == b"mine"
        archive = pack(run, overwrite=True)
        other = tmp_path / "other"
        fit(make(3), torch.ones(25, 3), run=other, **HOW)
        before = content(other)
        with pytest.raises(UsageError, match="is there already: pass overwrite=True to replace it"):
            unpack(archive, other)
        assert content(other) == before
        assert content(unpack(archive, other, overwrite=True)) == content(run) and leftovers(tmp_path) == []

    def test_a_file_that_appears_meanwhile_is_left(self, run, tmp_path, monkeypatch):
        write = packing._write

        def late(*args):
            (tmp_path / "run.zip").write_bytes(b"mine")
            write(*args)

        monkeypatch.setattr(packing, "_write", late)
        with pytest.raises(FileError, match="File exists"):
            pack(run)
        assert (tmp_path / "run.zip").read_bytes() == b"mine" and leftovers(tmp_path) == []

    @pytest.mark.parametrize("there", [False, True])
    def test_a_file_system_without_hard_links(self, run, tmp_path, monkeypatch, there):
        def refuse(*args, **keywords):
            if there:
                (tmp_path / "run.zip").write_bytes(b"mine")
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", refuse)
        if there:
            with pytest.raises(FileError, match="File exists"):
                pack(run)
            assert (tmp_path / "run.zip").read_bytes() == b"mine"
        else:
            assert torch.equal(weights(load(pack(run))), weights(load(run)))
        assert leftovers(tmp_path) == []

    def test_only_runs_are_replaced(self, run, tmp_path):
        archive, home = pack(run), tmp_path / "home"
        home.mkdir()
        (home / "thesis.tex").write_text("years of work")
        with pytest.raises(CheckpointError, match="no run directory, so it is not replaced"):
            unpack(archive, home, overwrite=True)
        with pytest.raises(UsageError, match="is there already"):
            unpack(archive, home / "thesis.tex")
        for file in (home / "thesis.tex", archive):
            with pytest.raises(CheckpointError, match="is no folder, so it is not replaced"):
                unpack(archive, file, overwrite=True)
        assert content(home) == {"thesis.tex": b"years of work"}

    def test_a_run_in_use_is_not_replaced(self, run, tmp_path):
        archive, before = pack(run), content(run)
        with lock(run), pytest.raises(CheckpointError, match="is in use by process"):
            unpack(archive, run, overwrite=True)
        assert content(run) == before and leftovers(tmp_path) == []

    def test_a_stop_while_a_run_is_replaced_leaves_it(self, run, tmp_path, monkeypatch):
        archive, before, rename = pack(run), content(run), Path.rename

        def stopped(path, target):
            if path.name.endswith(".tmp"):
                raise KeyboardInterrupt
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", stopped)
        with pytest.raises(KeyboardInterrupt):
            unpack(archive, run, overwrite=True)
        assert content(run) == before and leftovers(tmp_path) == []

    def test_an_empty_folder_is_a_place_and_a_link_leads_to_it(self, run, tmp_path):
        (tmp_path / "disk").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "disk")
        assert unpack(pack(run), tmp_path / "link") == tmp_path / "link" and content(tmp_path / "disk") == content(run)

    def test_names_of_their_own(self, run, tmp_path, monkeypatch):
        monkeypatch.chdir(run)
        assert pack(".") == tmp_path / "run.zip"
        monkeypatch.chdir(tmp_path)
        assert pack("run/", overwrite=True).as_posix() == "run.zip"
        with pytest.raises(UsageError, match="run is there already"):
            unpack("run.zip")
        (tmp_path / "run.zip").rename(tmp_path / "other.zip")
        assert unpack("other.zip").as_posix() == "other" and content(tmp_path / "other") == content(run)
        (tmp_path / "other.zip").rename(tmp_path / "other.run")
        with pytest.raises(UsageError, match="name the folder to unpack"):
            unpack("other.run")

    def test_inside_the_run_it_would_hold_itself(self, run):
        with pytest.raises(UsageError, match="lies inside the run"):
            pack(run, run / "pictures" / "run.zip")

    @pytest.mark.parametrize("value", ["nothing", "run.zip"])
    def test_what_is_no_run(self, run, tmp_path, value):
        pack(run)
        with pytest.raises(CheckpointError):
            pack(tmp_path / value, tmp_path / "x.zip")
        assert not (tmp_path / "x.zip").exists()

    def test_a_full_disk_leaves_nothing(self, run, tmp_path, monkeypatch):
        archive, fsync = pack(run), os.fsync

        def full(descriptor):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        for act in (lambda: pack(run, tmp_path / "b.zip"), lambda: unpack(archive, tmp_path / "b")):
            with pytest.raises(FileError, match="No space left"):
                act()
        monkeypatch.setattr(os, "fsync", fsync)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.zip"]

    def test_a_run_that_changes_meanwhile(self, run, tmp_path, monkeypatch):
        """A checkpoint between two files: it is packed again; and given up if there is always another one."""
        add, times = packing._add, []

        def changing(zipped, folder, name):
            if name == "metrics.csv" and len(times) < most:
                times.append(name)
                manifest = json.loads((run / "manifest.json").read_text())
                manifest["progress"]["seconds"] += 1.0
                (run / "manifest.json").write_text(json.dumps(manifest))
            return add(zipped, folder, name)

        monkeypatch.setattr(packing, "_add", changing)
        most = 2
        assert content(unpack(pack(run), tmp_path / "copy")) == content(run) and len(times) == 2
        most = 100
        with pytest.raises(CheckpointError, match="a training writes to"):
            pack(run, tmp_path / "b.zip")
        assert not (tmp_path / "b.zip").exists() and leftovers(tmp_path) == []


def rebuilt(archive, change):
    """An archive with other entries: `change` gets and returns the entries `(ZipInfo, data)` by name."""
    with zipfile.ZipFile(archive) as found:
        entries = {entry.filename: (entry, found.read(entry)) for entry in found.infolist()}
    entries = change(entries)
    with zipfile.ZipFile(archive, "w") as made:
        for entry, data in entries.values():
            made.writestr(entry, data, compress_type=entry.compress_type)


def relisted(entries):
    """The entries, with a list that is true of them."""
    files = [
        {"name": entry.filename, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, (entry, data) in entries.items()
        if name != LIST
    ]
    text = json.dumps({"format": 1, "files": files}).encode()
    return {**entries, LIST: (packing._entry(LIST, len(text)), text)}


def with_file(name, data=b"x", kind=stat.S_IFREG, listed=True, compressed=False):
    def change(entries):
        entry = zipfile.ZipInfo(name)
        entry.create_system, entry.external_attr = 3, (kind | 0o644) << 16
        entry.compress_type = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
        entries = {**entries, "added": (entry, data)}
        return relisted(entries) if listed else entries

    return change


def without(name, relist=False):
    def change(entries):
        kept = {key: value for key, value in entries.items() if key != name}
        return relisted(kept) if relist else kept

    return change


def changed(name, data, relist=False):
    def change(entries):
        entries = {**entries, name: (packing._entry(name, len(data)), data)}
        return relisted(entries) if relist else entries

    return change


def of_weights(entries):
    """Other weights under the name that the manifest gives, truly listed."""
    name = next(name for name in entries if name.startswith("weights-"))
    data = bytes(reversed(entries[name][1]))
    return relisted({**entries, name: (entries[name][0], data)})


OUTSIDE = [
    "../evil",
    "a/../../evil",
    "/etc/evil",
    "//evil",
    "a//b",
    "./a",
    "a/.",
    "a/..",
    "..",
    ".ssh/authorized_keys",
    "a\\..\\evil",
    "a\nb",
    "a/",
    "x" * 300,
    "/".join("abcdefghi"),
    "",
]

HOSTILE = {
    "a link": (with_file("link", b"/etc/passwd", stat.S_IFLNK), "link is a link, a folder or a device"),
    "a folder": (with_file("folder", b"", stat.S_IFDIR), "a folder or a device"),
    "a bomb": (with_file("zeros", bytes(1 << 20), compressed=True), "zeros is compressed"),
    "a file that is not listed": (with_file("extra", listed=False), "extra is in it, but not in pack.json"),
    "a file less": (without("metrics.csv"), "metrics.csv is not in it, but in pack.json"),
    "no list": (without(LIST), "has no pack.json; make one by pyro-vae pack RUN"),
    "no manifest": (without("manifest.json", relist=True), "it has no manifest.json"),
    "no config": (without("config.yaml", relist=True), "is not a run directory: it has no config.yaml"),
    "another config": (changed("config.yaml", b"epochs: 3\n"), "config.yaml has 10 bytes, not"),
    "a list of another form": (changed(LIST, b'{"format": 1, "files": [{"name": "x"}]}'), "files.0.sha256 is missing"),
    "a list that is no JSON": (changed(LIST, b"{"), "pack.json is damaged"),
    "a list of a later version": (changed(LIST, b'{"format": 2, "files": []}'), "has format 2, this version reads 1"),
    "a list with a name outside": (
        changed(LIST, b'{"format": 1, "files": [{"name": "../x", "size": 1, "sha256": "' + b"0" * 64 + b'"}]}'),
        "expected a relative path of plain names",
    ),
    "a file that is another one's folder": (with_file("config.yaml/x"), "config.yaml/x, and its folder as a file"),
    "a name in two spellings": (with_file("CONFIG.yaml"), "names a file twice, or in two spellings"),
    "other weights": (of_weights, "is not the one that manifest.json names"),
}


class TestHostile:
    @pytest.mark.parametrize("name", HOSTILE)
    def test_refused_whole(self, run, tmp_path, name):
        change, message = HOSTILE[name]
        rebuilt(archive := pack(run), change)
        with pytest.raises(CheckpointError, match=message):
            unpack(archive, tmp_path / "out")
        assert not (tmp_path / "out").exists() and leftovers(tmp_path) == []

    @pytest.mark.parametrize("name", OUTSIDE)
    def test_names_that_leave_the_folder(self, run, tmp_path, name):
        assert not is_name(name)
        rebuilt(archive := pack(run), with_file(name))
        before = sorted(tmp_path.rglob("*"))
        for act in (lambda: unpack(archive, tmp_path / "out"), lambda: load(archive)):
            with pytest.raises(CheckpointError, match=r"no plain name inside a run|neither a run directory nor"):
                act()
        assert sorted(tmp_path.rglob("*")) == before

    def test_twice_the_same_name(self, run, tmp_path):
        archive = pack(run)
        with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(archive, "a") as zipped:
            zipped.writestr(packing._entry("config.yaml", 1), b"x")
        with pytest.raises(CheckpointError, match="has a file twice"):
            load(archive)

    def test_files_that_lie_in_one_another(self, run, tmp_path):
        """A directory that names the same bytes a thousand times: the sum of sizes is that of the file, at most."""
        archive = pack(run)
        with zipfile.ZipFile(archive, "a") as zipped:
            entry = next(entry for entry in zipped.infolist() if entry.filename.startswith("weights-"))
            for i in range(1000):
                again = packing._entry(f"copy{i}", entry.file_size)
                again.CRC, again.compress_size, again.header_offset = entry.CRC, entry.file_size, entry.header_offset
                zipped.filelist.append(again)
                zipped.NameToInfo[again.filename] = again
            zipped._didModify = True
        with pytest.raises(CheckpointError, match="has a file twice, or files that lie in one another"):
            unpack(archive, tmp_path / "out")

    def test_too_many_files(self, run, tmp_path, monkeypatch):
        archive = pack(run)
        monkeypatch.setattr(archives, "MOST_FILES", 3)
        with pytest.raises(CheckpointError, match="it has more than 3 files"):
            load(archive)
        monkeypatch.setattr(packing, "MOST_FILES", 3)
        with pytest.raises(CheckpointError, match="an archive at most 3: move others away"):
            pack(run, tmp_path / "b.zip")

    def test_a_huge_directory_is_not_read(self, run, monkeypatch):
        archive = pack(run)
        monkeypatch.setattr(archives, "_LARGEST_PIECE", 100)
        with pytest.raises(CheckpointError, match=r"its directory has \d+ bytes"):
            load(archive)

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
    def test_cut_off(self, run, tmp_path, share):
        data = (archive := pack(run)).read_bytes()
        archive.write_bytes(data[: int(len(data) * share)])
        for act in (lambda: unpack(archive, tmp_path / "out"), lambda: load(archive)):
            with pytest.raises(CheckpointError, match="is neither a run directory nor a whole archive of one"):
                act()
        assert not (tmp_path / "out").exists()

    def test_any_byte_changed(self, run, tmp_path):
        """100 bytes anywhere, and 150 of the last 2000, where the directories are: refused, or of no effect."""
        data, expected = (archive := pack(run)).read_bytes(), content(run)
        places = {*random.Random(0).sample(range(len(data)), 100), *range(len(data) - 2000, len(data), 13)}
        refused = 0
        for place in places:
            archive.write_bytes(data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1 :])
            try:
                unpack(archive, out := tmp_path / f"out{place}")
                assert content(out) == expected
            except CheckpointError:
                refused += 1
                assert not (tmp_path / f"out{place}").exists()
        assert refused > 0.9 * len(places)

    def test_nothing_is_imported_from_it(self, run, tmp_path):
        """Trust is as for a run directory: a class of another module is refused before its import."""
        config = (run / "config.yaml").read_text().replace("pyro_vae.priors.StandardNormal", "evil.Prior")
        (tmp_path / "evil.py").write_text("raise SystemExit('executed')")
        rebuilt(archive := pack(run), changed("config.yaml", config.encode(), relist=True))
        sys.path.insert(0, str(tmp_path))
        try:
            with pytest.raises(CheckpointError, match=r"refused to import 'evil\.Prior'"):
                load(archive)
        finally:
            sys.path.remove(str(tmp_path))
        unpack(archive, tmp_path / "out")
        assert "evil" not in sys.modules

    @pytest.mark.parametrize("kind", ["folder", "fifo", "text", "empty", "gone"])
    def test_what_is_no_archive(self, tmp_path, kind):
        path = tmp_path / "x.zip"
        {
            "folder": path.mkdir,
            "fifo": partial(os.mkfifo, path),
            "text": partial(path.write_text, "PK but no zip"),
            "empty": path.touch,
            "gone": lambda: None,
        }[kind]()
        with pytest.raises((CheckpointError, FileError)):
            unpack(path, tmp_path / "out")
        assert not (tmp_path / "out").exists()


class TestCommand:
    def test_there_and_back(self, run, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        done = call("pack", "run --json")
        assert done.code == 0
        assert done.json == {
            "run": "run",
            "file": "run.zip",
            "files": 8,
            "bytes": (tmp_path / "run.zip").stat().st_size,
        }
        done = call("unpack", "run.zip copy")
        assert (
            done.code == 0 and done.out == "file  run.zip\nrun   copy\n" and content(tmp_path / "copy") == content(run)
        )
        assert call("unpack", "run.zip copy").error.endswith("copy is there already: add --overwrite to replace it")
        assert call("pack", "run --overwrite").code == call("unpack", "run.zip copy --overwrite").code == 0
        assert "pyro-vae unpack makes one of an archive" in call("info", "run.zip").error

    def test_without_torch(self, run, tmp_path):
        script = (
            f"import sys; from pyro_vae.cli import main; main(['pack', {str(run)!r}]); print('torch' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "False"
