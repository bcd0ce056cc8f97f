"""A run as one file, read: a zip whose files are not compressed, with a list of them that proves them complete.

`pack.json` lists every file with its size and sha256. An archive may come from anyone. It is refused, before anything
of it is used, unless it is what `pack` writes: regular files under plain names, each listed, none compressed (so no
few bytes stand for many), none twice. What is read is compared with the list.
"""

import errno
import hashlib
import io
import re
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Any, TypedDict

from pyro_vae.errors import CheckpointError, FileError, file_errors
from pyro_vae.runs.formats import Format, parse_json
from pyro_vae.runs.schema import Count, Rule

FORMAT = 1

LIST = "pack.json"
"""The file of an archive that lists the others."""

MOST_FILES = 10_000

_PART = r"[^/\\\x00-\x1f\x7f]{1,200}"
_NAME = re.compile(rf"(?!\.|.*/\.){_PART}(?:/{_PART}){{0,7}}")
"""A relative path of at most 8 plain names, none of which begins with a dot."""

_LARGEST_PIECE = 1 << 22
"""Bytes that are read at once while an archive is opened: its directory, of `MOST_FILES` files, is smaller."""

_CHUNK = 1 << 20

_DAMAGES = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    EOFError,
    NotImplementedError,
    ValueError,
    KeyError,
    OverflowError,
)
"""What `zipfile` raises for files that are no whole archive."""


def is_name(name: str) -> bool:
    """Whether an archive may have a file of this name."""
    return bool(_NAME.fullmatch(name)) and len(name) <= 1000 and name != LIST


class Packed(TypedDict):
    """A file of an archive, as it is listed."""

    name: Annotated[str, Rule(is_name, "a relative path of plain names")]
    size: Count
    sha256: Annotated[str, Rule(lambda value: bool(re.fullmatch("[0-9a-f]{64}", value)), "64 hexadecimal digits")]


class Listing(TypedDict):
    """pack.json."""

    format: int
    files: list[Packed]


class _Bounded(io.BufferedReader):
    """A file of which no large piece is read at once: `zipfile` reads a directory of any size that is claimed."""

    bounded = True

    def read(self, size: int | None = -1, /) -> bytes:
        if self.bounded and size is not None and size > _LARGEST_PIECE:
            raise zipfile.BadZipFile(f"its directory has {size} bytes")
        return super().read(size)


class Archive:
    """An archive that is open for reading.

    Args:
        path: the file.
        zipped: the open zip.
        files: what is listed, by name.
    """

    def __init__(self, path: Path, zipped: zipfile.ZipFile, files: dict[str, Packed]) -> None:
        self.path, self._zip, self.files = path, zipped, files

    def pieces(self, name: str) -> Iterator[bytes]:
        """The content of a file, piece by piece; at the end it is compared with the list.

        Raises:
            CheckpointError: if it is damaged.
        """
        digest, size, entry = hashlib.sha256(), 0, self.files[name]
        with _damages(self.path), self._zip.open(name) as file:
            while piece := file.read(_CHUNK):
                digest.update(piece)
                size += len(piece)
                yield piece
        if size != entry["size"] or digest.hexdigest() != entry["sha256"]:
            raise CheckpointError(f"{self.path} is damaged: {name} is not what {LIST} says; get a new copy")

    def read(self, name: str) -> bytes:
        """The content of a file."""
        return b"".join(self.pieces(name))


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open an archive, once it is known to be what `pack` writes.

    Raises:
        CheckpointError: if it is not, with the reason.
        FileError: if the file can't be read.
    """
    with file_errors(path, "read"):
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise CheckpointError(f"{path} is no regular file: expected the archive of a run")
        raw = io.FileIO(path)
    with _Bounded(raw) as file, _zip_of(path, file) as zipped:
        file.bounded = False
        yield Archive(path, zipped, _checked(path, zipped, found.st_size))


@contextmanager
def _zip_of(path: Path, file: IO[bytes]) -> Iterator[zipfile.ZipFile]:
    with _damages(path):
        zipped = zipfile.ZipFile(file)
    with zipped:
        yield zipped


@contextmanager
def _damages(path: Path) -> Iterator[None]:
    """Errors of `zipfile` in one line."""
    try:
        with file_errors(path, "read"):
            yield
    except (FileError, *_DAMAGES) as error:
        if (
            isinstance(error, FileError) and error.errno != errno.EINVAL
        ):  # the place of a file that lies before the first
            raise
        why = str(error).strip("'\"") or type(error).__name__
        raise CheckpointError(f"{path} is neither a run directory nor a whole archive of one: {why}") from error


def _checked(path: Path, zipped: zipfile.ZipFile, size: int) -> dict[str, Packed]:
    """What is listed, if it and the zip's own directory agree."""
    entries = zipped.infolist()
    if len(entries) > MOST_FILES + 1:
        raise CheckpointError(f"refused to read {path}: it has more than {MOST_FILES} files")
    for entry in entries:
        _check_entry(path, entry)
    by_name = {entry.filename: entry for entry in entries}
    if len(by_name) < len(entries) or sum(entry.file_size for entry in entries) > size:
        raise CheckpointError(f"refused to read {path}: it has a file twice, or files that lie in one another")
    listed = _listing(path, zipped, by_name)
    for name in sorted(set(by_name) ^ {*listed, LIST}):
        where = "in it, but not in" if name in by_name else "not in it, but in"
        raise CheckpointError(f"{path} is damaged: {name} is {where} {LIST}")
    for name, file in listed.items():
        if file["size"] != by_name[name].file_size:
            raise CheckpointError(f"{path} is damaged: {name} has {by_name[name].file_size} bytes, not {file['size']}")
    return listed


def _check_entry(path: Path, entry: zipfile.ZipInfo) -> None:
    """Refuse what `pack` does not write."""
    name, kind = entry.filename, entry.external_attr >> 16
    if name != LIST and not is_name(name):
        raise CheckpointError(f"refused to read {path}: {_shown(name)} is no plain name inside a run")
    if stat.S_IFMT(kind) not in (0, stat.S_IFREG):
        raise CheckpointError(f"refused to read {path}: {name} is a link, a folder or a device")
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        raise CheckpointError(f"refused to read {path}: {name} is compressed, which pyro-vae pack never does")
    if entry.flag_bits & 1:
        raise CheckpointError(f"refused to read {path}: {name} is encrypted")


def _listing(path: Path, zipped: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo]) -> dict[str, Packed]:
    if LIST not in entries:
        raise CheckpointError(f"{path} is no archive of a run: it has no {LIST}; make one by pyro-vae pack RUN")
    if entries[LIST].file_size > _LARGEST_PIECE:
        raise CheckpointError(f"refused to read {path}: its {LIST} has {entries[LIST].file_size} bytes")
    with _damages(path):
        data = zipped.read(LIST)
    where = f"{path}: {LIST}"
    if (known := parse_json(data, Format, where)["format"]) != FORMAT:
        raise CheckpointError(f"{path} has format {known}, this version reads {FORMAT}: use the version that wrote it")
    files = parse_json(data, Listing, where)["files"]
    if len({file["name"].casefold() for file in files}) < len(files):
        raise CheckpointError(f"{path} is damaged: {LIST} names a file twice, or in two spellings")
    names = {file["name"]: file for file in files}
    if inside := [name for name in names if any(str(folder) in names for folder in PurePosixPath(name).parents)]:
        raise CheckpointError(f"{path} is damaged: {LIST} names {inside[0]}, and its folder as a file")
    return names


def _shown(name: str) -> Any:
    return repr(name if len(name) <= 80 else f"{name[:77]}...")


def read_packed(path: Path, name: str, largest: int | None) -> bytes:
    """The content of a file of an archive; the errors are those of `files.read`.

    Args:
        path: the archive.
        name: the file's path inside it.
        largest: most bytes that it may have; None for any number.

    Raises:
        CheckpointError: if the archive is damaged, or the file is larger.
        FileError: with `errno.ENOENT`, if it has no such file.
    """
    with open_archive(path) as archive:
        if name not in archive.files:
            raise FileError.of(FileNotFoundError(2, "there is no such file in it"), f"{path}/{name}", "read")
        if largest is not None and archive.files[name]["size"] > largest:
            raise CheckpointError(f"{path}/{name} is damaged: it has more than {largest} bytes")
        return archive.read(name)


def has_packed(path: Path, name: str) -> bool:
    """Whether an archive has a file of this name."""
    with open_archive(path) as archive:
        return name in archive.files
