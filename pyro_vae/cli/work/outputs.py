"""Where a command that makes a picture, arrays or a table saves them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from torch import Tensor

from pyro_vae import plots
from pyro_vae.cli.work.places import Place, wanted
from pyro_vae.cli.work.saved_runs import SavedRun
from pyro_vae.data import Table
from pyro_vae.errors import UsageError
from pyro_vae.runs.files import packed


def output_of(saved: SavedRun, options: Namespace, name: str, *further: str) -> Place:
    """The file for the result, checked that it can be written.

    By default it is in the run directory, under a name that no picture of `fit` has.

    Raises:
        UsageError: if the file is neither a picture, arrays nor a table, or the data have no picture or no table.
    """
    data = [] if options.data is None else [Path(options.data).stem]
    name = "-".join([name, *data, *further, f"num{options.num}", f"seed{options.seed}"])
    event = saved.vae.shapes.event
    drawable = plots.drawable(event)
    ending = "csv" if saved.table is not None else "png" if drawable else "npz"
    place = wanted(options.out, saved.path, f"pictures/{name}.{ending}")
    if place.path.suffix == ".csv" and saved.table is None:
        raise UsageError(
            f"--out {place.path.name}: this run was not trained on a table with names: give a file ending in .npz"
        )
    if place.path.suffix == ".png" and not drawable:
        raise UsageError(
            f"--out {place.path.name}: data of shape {event} have no picture here: give a file ending in .npz"
        )
    if place.path.suffix not in (".png", ".npz", ".csv"):
        raise UsageError(
            f"--out must end in .png (a picture), .npz (arrays) or .csv (a table), got {place.path.name!r}"
        )
    place.check()
    return place


def save_output(
    place: Place, arrays: dict[str, Tensor], draw: Callable[[], Any], table: Table | None, x: Tensor
) -> None:
    """Write what the file's name says.

    Args:
        place: the file.
        arrays: for an .npz.
        draw: makes the picture for a .png.
        table: the columns for a .csv.
        x: its rows.
    """
    if place.path.suffix == ".csv" and table is not None:
        place.write(as_csv(table, x))
    elif place.path.suffix == ".png":
        place.write(plots.encoded(draw()))
    else:
        place.write(packed({name: v.cpu() for name, v in arrays.items()}))


def as_csv(table: Table, x: Tensor) -> bytes:
    """Rows `[N, columns]` as the text of a CSV, with names and levels."""
    return table.frame(x).to_csv(index=False, lineterminator="\n").encode()
