"""Names of other projects that the reference links to, in short lists: the build needs no network.

The lists are in `docs/_inventories`. A line is a name, its kind and its page. Add a line where a link is missing.
"""

import zlib
from pathlib import Path

ADDRESSES = {
    "python": "https://docs.python.org/3/",
    "torch": "https://docs.pytorch.org/docs/stable/",
    "pyro": "https://docs.pyro.ai/en/stable/",
    "numpy": "https://numpy.org/doc/stable/",
    "matplotlib": "https://matplotlib.org/stable/",
}


def mapping(lists: Path, out: Path) -> dict[str, tuple[str, str]]:
    """What `intersphinx_mapping` takes: the address and the inventory of each project; `out` is where these go."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ADDRESSES:
        (out / f"{name}.inv").write_bytes(_inventory(name, (lists / f"{name}.txt").read_text()))
    return {name: (address, str(out / f"{name}.inv")) for name, address in ADDRESSES.items()}


def _inventory(project: str, text: str) -> bytes:
    head = f"# Sphinx inventory version 2\n# Project: {project}\n# Version: \n"
    head += "# The remainder of this file is compressed using zlib.\n"
    rows = (line.split() for line in text.splitlines())
    body = "".join(f"{name} {kind} 1 {page} -\n" for name, kind, page in rows)
    return head.encode() + zlib.compress(body.encode())
