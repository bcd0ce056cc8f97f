"""Where the commands that work with codes save: a picture and arrays in the run, or the one file that was named."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from torch import Tensor

from pyro_vae import plots
from pyro_vae.cli.work.places import Place
from pyro_vae.cli.work.saved_runs import SavedRun
from pyro_vae.errors import UsageError
from pyro_vae.runs.files import packed

Drawn = Callable[[], Any]


def outputs_of(saved: SavedRun, options: Namespace, name: str, *, picture: bool, netcdf: bool = False) -> list[Place]:
    """The files for a result, checked that they can be written.

    Args:
        saved: the run.
        options: with `out`, `data` and `seed`.
        name: of the files in the run, without the ending.
        picture: whether the result has a picture.
        netcdf: whether it can be written as NetCDF.

    Raises:
        UsageError: if the file that was named has another ending.
    """
    endings = [*([".png"] if picture else []), ".npz", *([".nc"] if netcdf else [])]
    if options.out is None:
        data = "" if options.data is None else f"-{Path(options.data).stem}"
        places = [Place(saved.path / f"pictures/{name}{data}{ending}", saved.path) for ending in endings[: 1 + picture]]
    else:
        places = [Place(Path(options.out))]
        if places[0].path.suffix not in endings:
            hint = "" if picture else f", as data of shape {saved.vae.shapes.event} have no picture here"
            raise UsageError(f"--out must end in {' or '.join(endings)}{hint}, got {places[0].path.name!r}")
    for place in places:
        place.check()
    return places


def save_all(places: list[Place], arrays: Mapping[str, Tensor], draw: Drawn, netcdf: Drawn | None = None) -> None:
    """Write each file as its name says.

    Args:
        places: the files.
        arrays: by name, for `.npz`.
        draw: makes the picture.
        netcdf: makes what has `to_netcdf`.
    """
    for place in places:
        if place.path.suffix == ".png":
            place.write(plots.encoded(draw()))
        elif place.path.suffix == ".nc" and netcdf is not None:
            place.write(_netcdf(netcdf()))
        else:
            place.write(packed({name: value.detach().cpu() for name, value in arrays.items()}))


def saved_as(places: list[Place]) -> str:
    """The files, for the printed result."""
    return ", ".join(str(place.path) for place in places)


def _netcdf(data: Any) -> bytes:
    """The content of the file, by a temporary one: ArviZ writes to a path."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "codes.nc"
        data.to_netcdf(str(path))
        return path.read_bytes()
