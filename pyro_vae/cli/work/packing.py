"""`pyro-vae pack` and `pyro-vae unpack`. It imports no torch."""

from jsonargparse import Namespace

from pyro_vae.cli.work.printing import print_result
from pyro_vae.runs.archives import open_archive
from pyro_vae.runs.packing import pack, unpack


def packed(options: Namespace) -> int:
    """Run `pyro-vae pack` with its options; returns the exit code."""
    path = pack(options.run, options.file, overwrite=options.overwrite)
    with open_archive(path) as archive:
        numbers = {"files": len(archive.files), "bytes": path.stat().st_size}
    print_result({"run": options.run, "file": str(path), **numbers}, as_json=options.json)
    return 0


def unpacked(options: Namespace) -> int:
    """Run `pyro-vae unpack` with its options; returns the exit code."""
    folder = unpack(options.file, options.folder, overwrite=options.overwrite)
    print_result({"file": options.file, "run": str(folder)}, as_json=options.json)
    return 0
