"""`pyro-vae export`: a run's encoder and decoder as files for other programs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from pyro_vae.cli.work.places import Place
from pyro_vae.cli.work.printing import print_result
from pyro_vae.cli.work.saved_runs import check_folder
from pyro_vae.messages import remark
from pyro_vae.runs.files import write_all
from pyro_vae.sharing.about import words
from pyro_vae.sharing.exporting import Exported, exported
from pyro_vae.sharing.formats import FORMATS
from pyro_vae.sharing.source import source_of

_FOLDER = "exported"
"""Of a run, where files are written by default."""


def run(options: Namespace) -> int:
    """Run the command with its options; returns the exit code."""
    FORMATS[options.to].check()
    run = Path(options.run)
    check_folder(run)
    source = source_of(run, options.trust)
    tried = _place(options, f"encoder{FORMATS[options.to].ending}")
    tried.check()
    found = exported(source, options.to, options.parts, options.raw, progress=_shown(options))
    write_all({_place(options, file.name).path: file.data for file in found.files.values()}, tried.run)
    print_result(_result(options, found) if options.json else _readable(options, found), as_json=options.json)
    return 0


def _shown(options: Namespace) -> Callable[[int, int, str], object]:
    """A line for each part, which takes seconds."""
    if options.quiet:
        return lambda done, total, name: None
    return lambda done, total, name: remark(f"{name}: file {done + 1} of {total}, by {options.to}")


def _place(options: Namespace, name: str) -> Place:
    if options.out is not None:
        return Place(Path(options.out) / name)
    return Place(Path(options.run) / _FOLDER / name, Path(options.run))


def _result(options: Namespace, found: Exported) -> dict[str, Any]:
    files = {
        part: {
            "file": str(_place(options, file.name).path),
            "bytes": len(file.data),
            "largest_difference": file.largest_difference,
            **file.about,
        }
        for part, file in found.files.items()
    }
    return {"run": options.run, "to": options.to, "files": files, "left_out": dict(found.left_out)}


def _readable(options: Namespace, found: Exported) -> dict[str, Any]:
    lines: dict[str, Any] = {"run": options.run}
    for part, file in found.files.items():
        said = file.about
        lines[part] = f"{_place(options, file.name).path}   {len(file.data):,} bytes"
        lines[f"{part}: takes"] = words(said["inputs"])
        lines[f"{part}: gives"] = f"{words(said['outputs'])}   ({said['computes']})"
    first = next(iter(found.files.values())).about
    difference = max(file.largest_difference for file in found.files.values())
    preparation = first["preparation"]
    options_of_data = ", ".join(f"{name} {value}" for name, value in preparation.get("options", {}).items())
    return {
        **lines,
        "data": preparation["in_this_file"] + (f": {options_of_data}" if options_of_data else ""),
        "gaps": first["gaps"],
        "largest difference": f"{difference:.1e} of max(1, |number|), between the files' numbers and the run's",
        **{f"no {part}": reason for part, reason in found.left_out.items()},
    }
