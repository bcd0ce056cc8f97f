"""Files for results: whether they can be written is checked before the work; results are printed first, then saved."""

from dataclasses import dataclass
from pathlib import Path

from pyro_vae.errors import file_errors
from pyro_vae.runs.files import check_anywhere, check_writable, write, write_atomic


@dataclass(frozen=True)
class Place:
    """A file that a command will write.

    Args:
        path: the file.
        run: the run directory that contains it; None for a file that the user named.
    """

    path: Path
    run: Path | None = None

    def check(self) -> None:
        """Raise before the work what `write` would raise after it.

        Raises:
            CheckpointError: if there is something else than a regular file in its place in a run.
            FileError: if it can't be written.
        """
        if self.run is None:
            check_anywhere(self.path)
        else:
            check_writable(self.run, self._name())

    def write(self, data: bytes) -> None:
        """Write the file; its folder is made if it does not exist."""
        if self.run is None:
            with file_errors(self.path, "write"):
                self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, data)
        else:
            write(self.run, self._name(), data)

    def _name(self) -> str:
        assert self.run is not None
        return self.path.relative_to(self.run).as_posix()


def tried(run: Path, *names: str) -> dict[str, Place]:
    """Files in a run directory, by name, once it is known that all can be written."""
    places = {name: Place(run / name, run) for name in names}
    for place in places.values():
        place.check()
    return places


def wanted(out: str | None, run: Path, name: str) -> Place:
    """The file that the user named, or else one in the run directory; not checked yet."""
    return Place(run / name, run) if out is None else Place(Path(out))
