"""Where a command that makes a picture or arrays saves them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from torch import Tensor

from pyro_vae import plots
from pyro_vae.cli.work.places import Place, wanted
from pyro_vae.cli.work.saved_runs import SavedRun
from pyro_vae.errors import UsageError
from pyro_vae.runs.files import packed


def output_of(saved: SavedRun, options: Namespace, name: str, *further: str) -> Place:
    """The file for the result, checked that it can be written.

    By default it is in the run directory, under a name that no picture of `fit` has.

    Raises:
        UsageError: if the file is neither a picture nor arrays, or the data have no picture.
    """
    data = [] if options.data is None else [Path(options.data).stem]
    name = "-".join([name, *data, *further, f"num{options.num}", f"seed{options.seed}"])
    event = saved.vae.shapes.event
    ending = "png" if plots.drawable(event) else "npz"
    place = wanted(options.out, saved.path, f"pictures/{name}.{ending}")
    if place.path.suffix == ".png" and ending == "npz":
        raise UsageError(
            f"--out {place.path.name}: data of shape {event} have no picture here: give a file ending in .npz"
        )
    if place.path.suffix not in (".png", ".npz"):
        raise UsageError(f"--out must end in .png (a picture) or .npz (arrays), got {place.path.name!r}")
    place.check()
    return place


def save_output(place: Place, arrays: dict[str, Tensor], draw: Callable[[], Any]) -> None:
    """Write the arrays, or the picture that `draw` makes, as the file's name says."""
    as_picture = place.path.suffix == ".png"
    place.write(plots.encoded(draw()) if as_picture else packed({name: v.cpu() for name, v in arrays.items()}))
