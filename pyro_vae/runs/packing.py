"""`pack` and `unpack`: a run as one file, and back. The same run gives the same bytes.

The file is a zip that any program opens. Nothing in it is compressed, since weights hardly shrink and other versions of
the compressor would write other bytes; times, owners and rights are left out.
"""

import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import stat
import zipfile
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyro_vae.arguments.remedies import spoken
from pyro_vae.errors import CheckpointError, UsageError, file_errors
from pyro_vae.runs import files as run_files
from pyro_vae.runs.archives import FORMAT, LIST, MOST_FILES, Archive, is_name, open_archive
from pyro_vae.runs.formats import TENSORS
from pyro_vae.runs.locking import lock
from pyro_vae.runs.texts import read_config, read_manifest

ENDING = ".zip"

_LEFT_OUT = ("lock",)
"""Files of a run that are of use on its own machine alone."""

_log = logging.getLogger("pyro_vae")

_TRIES = 3
"""How often a run is packed that a training writes to meanwhile."""

_CHUNK = 1 << 20


def pack(run: str | Path, file: str | Path | None = None, overwrite: bool = False) -> Path:
    """Write a run directory as one file, which `load` reads.

    All regular files of the directory are in it, but hidden ones, the lock, and weights that its manifest does not
    name; so also pictures, evaluations, and what else was put there. Links are left out, with a warning.

    Args:
        run: the run directory. It is only read; a training may go on in it.
        file: the archive; None for the name of the run with `.zip` beside it.
        overwrite: whether it may replace a file.

    Returns:
        The archive.

    Raises:
        CheckpointError: if `run` holds no run, or a damaged one, or a name that an archive can't have.
        UsageError: if the file is there and `overwrite` is False, or lies in the run.
        FileError: if it can't be written; then it is not there.

    Example:
        >>> import tempfile
        >>> from pyro_vae import VAE, fit, load
        >>> folder = Path(tempfile.mkdtemp())
        >>> history = fit(VAE((4,), latent_dim=2), torch.ones(20, 4), epochs=1, run=folder / "run", progress=False)
        >>> load(pack(folder / "run")).shapes.latent
        2
        >>> sorted(path.name for path in unpack(folder / "run.zip", folder / "copy").iterdir())[0]
        'best-000001-000000.safetensors'
    """
    run = Path(run)
    path = _beside(run) if file is None else Path(file)
    _check_file(run, path, overwrite)
    manifest = read_manifest(run)
    for _ in range(_TRIES - 1):
        try:
            _write(run, manifest, path, overwrite)
            return path
        except CheckpointError:
            before, manifest = manifest, read_manifest(run)
            if before == manifest:
                raise
    _write(run, manifest, path, overwrite)
    return path


def unpack(file: str | Path, folder: str | Path | None = None, overwrite: bool = False) -> Path:
    """Write the run of an archive as a run directory, in which training and evaluating go on.

    Everything is checked before anything appears, and nothing is executed.

    Args:
        file: the archive.
        folder: the run directory to make; None for the name of the archive without `.zip`, in the current folder.
        overwrite: whether it may replace a run directory.

    Returns:
        The run directory.

    Raises:
        CheckpointError: if the archive is damaged or is not one; or if `folder` holds something else than a run.
        UsageError: if the folder is there and `overwrite` is False.
        FileError: if it can't be written; then it is not there.
    """
    file = Path(file)
    if folder is None and (file.suffix != ENDING or not file.stem):
        raise UsageError(f"name the folder to unpack {file} to: the archive's own name does not end in {ENDING}")
    named = Path(file.stem if folder is None else folder)
    _check_folder(named, overwrite)
    target = Path(os.path.realpath(named))
    with open_archive(file) as archive:
        _check_run(archive)
        with file_errors(target, "write"), _folder_beside(target) as temporary:
            for name in archive.files:
                _extract(archive, name, temporary / name)
            _put(temporary, target)
    return named


# ---- packing -------------------------------------------------------------------------------------------------------


def _beside(run: Path) -> Path:
    """The archive beside a run, named like it."""
    run = run if run.name not in ("", "..") else run.resolve()
    return run.with_name(run.name + ENDING)


def _check_file(run: Path, path: Path, overwrite: bool) -> None:
    """Refuse a place for the archive, before any work."""
    if run.is_file():
        raise CheckpointError(f"{run} is a file: expected the folder of a run")
    if run.resolve() in path.resolve().parents:
        raise UsageError(f"{path} lies inside the run, and would be packed with it next time: name another place")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} is there already: {spoken('pass overwrite=True', 'add --overwrite')} to replace it")


def _write(run: Path, manifest: dict[str, Any], path: Path, overwrite: bool) -> None:
    """Write the archive; it appears when it is whole and the run is still as it was in the beginning."""
    read_config(run)
    proofs = {entry["name"]: entry["sha256"] for entry in manifest["files"].values()}
    with file_errors(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
    with run_files.appearing(path, overwrite) as file:
        with zipfile.ZipFile(file, "w") as zipped:
            files = [_add(zipped, run, name) for name in _names(run, proofs)]
            text = json.dumps({"format": FORMAT, "files": files}, indent=1)
            zipped.writestr(_entry(LIST, len(text)), text)
        found = {entry["name"]: entry["sha256"] for entry in files}
        for name, sha256 in proofs.items():
            if found.get(name) != sha256:
                raise CheckpointError(
                    f"{run}/{name} is damaged, or not there: its sha256 is not the one in manifest.json"
                )
        if read_manifest(run) != manifest:
            raise CheckpointError(f"a training writes to {run}: wait for its end, or try again")


def _names(run: Path, tensors: Container[str]) -> list[str]:
    """The files to pack, in alphabetical order."""
    found = {name: regular for name, regular in run_files.all_files(run) if not re.search(r"(^|/)\.", name)}
    if odd := [name for name, regular in found.items() if not regular]:
        _log.warning(f"not packed, as these are links or devices: {', '.join(odd)}")
    names = [name for name, regular in found.items() if regular and name not in _LEFT_OUT]
    names = [name for name in names if name in tensors or not re.fullmatch(TENSORS, name)]
    if odd := [name for name in names if not is_name(name)]:
        raise CheckpointError(f"{run}: an archive can't have a file named {odd[0]!r}: rename it, or move it away")
    if len(names) > MOST_FILES:
        raise CheckpointError(f"{run} has {len(names)} files, and an archive at most {MOST_FILES}: move others away")
    return sorted(names)


def _add(zipped: zipfile.ZipFile, run: Path, name: str) -> dict[str, Any]:
    """Copy a file into the archive; returns its entry of the list."""
    digest, size = hashlib.sha256(), 0
    with run_files.opened(run, name) as source:
        entry = _entry(name, os.fstat(source.fileno()).st_size)
        with zipped.open(entry, "w") as file:
            while piece := source.read(_CHUNK):
                digest.update(piece)
                size += len(piece)
                file.write(piece)
    return {"name": name, "size": size, "sha256": digest.hexdigest()}


def _entry(name: str, size: int) -> zipfile.ZipInfo:
    """What the zip says of a file: nothing that differs from one machine or day to another."""
    entry = zipfile.ZipInfo(name)  # of 1980
    entry.create_system, entry.external_attr = 3, (stat.S_IFREG | 0o644) << 16
    entry.file_size = size
    return entry


# ---- unpacking -----------------------------------------------------------------------------------------------------


def _check_folder(target: Path, overwrite: bool) -> None:
    """Refuse a place for the run, before any work; an empty folder is a place."""
    if not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir())):
        return
    if not overwrite:
        raise UsageError(f"{target} is there already: {spoken('pass overwrite=True', 'add --overwrite')} to replace it")
    if not target.is_dir():
        raise CheckpointError(f"{target} is no folder, so it is not replaced: name a folder")
    if not run_files.has(target, "config.yaml"):
        raise CheckpointError(f"{target} is no run directory, so it is not replaced: name another folder")


def _check_run(archive: Archive) -> None:
    """Refuse an archive whose run can't be loaded: its config, its manifest, and the files that this names."""
    read_config(archive.path)
    for entry in read_manifest(archive.path)["files"].values():
        name = entry["name"]
        if name not in archive.files or archive.files[name]["sha256"] != entry["sha256"]:
            raise CheckpointError(f"{archive.path} is damaged: {name} is not the one that manifest.json names")


@contextmanager
def _folder_beside(target: Path) -> Iterator[Path]:
    """A new folder beside another one, which is gone at the end unless it was renamed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _extract(archive: Archive, name: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        for piece in archive.pieces(name):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def _put(temporary: Path, target: Path) -> None:
    """Give a folder its name; what had the name goes once the new one is there."""
    if not (target.is_dir() and any(target.iterdir())):
        temporary.rename(target)
        return
    old = target.with_name(f".{target.name}.{secrets.token_hex(6)}.old")
    with lock(target):
        target.rename(old)
        try:
            temporary.rename(target)
        except BaseException:  # also Ctrl-C: the run that was there has its name again
            old.rename(target)
            raise
    shutil.rmtree(old, ignore_errors=True)
