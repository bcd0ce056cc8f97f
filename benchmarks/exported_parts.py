"""How far exported files are from the package, for every class of likelihood and network.

`python benchmarks/exported_parts.py` writes docs/results/exported_parts.json, in some minutes. Each class is in a small
VAE with its defaults. The differences are those of `export` itself: encoder and decoder on data that the model draws,
in batches of 1, 2 and 5, relative to max(1, |number|).
"""

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import machine
import torch

from pyro_vae.likelihoods import Likelihood
from pyro_vae.networks import Network
from pyro_vae.process.seeding import seeded
from pyro_vae.sharing.exporting import exported
from pyro_vae.sharing.source import source_of
from pyro_vae.testing import axis_of
from pyro_vae.testing.inside_a_vae import case_of
from pyro_vae.testing.parts import Part

FILE = Path(__file__).parents[1] / "docs" / "results" / "exported_parts.json"
AXES = {"likelihood": Likelihood, "network": Network}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FILE)
    args = parser.parse_args()
    torch.set_num_threads(1)
    about = {
        "command": "python benchmarks/exported_parts.py",
        "machine": machine.cpu_model(),
        "torch": torch.__version__,
        "onnxruntime": version("onnxruntime"),
        "commit": machine.commit(),
    }
    parts = [_row(axis, part) for axis, base in AXES.items() for part in axis_of(base).parts() if not part.options]
    args.out.write_text(json.dumps({"name": "exported_parts", "about": about, "parts": parts}, indent=1) + "\n")
    print(f"saved {args.out}")


def _row(axis: str, part: Part) -> dict[str, Any]:
    """The largest differences of one class, by format."""
    with seeded(0, "exported parts"):
        source = source_of(case_of(part).vae().eval())
    found: dict[str, Any] = {"axis": axis, "class": part.cls.__name__}
    for to in ("onnx", "torch"):
        files = exported(source, to, ["encoder", "decoder"]).files
        found[to] = {name: file.largest_difference for name, file in files.items()}
    print(json.dumps(found), flush=True)
    return found


if __name__ == "__main__":
    main()
