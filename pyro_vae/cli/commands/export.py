"""Write the encoder and the decoder as files for other programs: ONNX, or torch.export's.

Each file takes any number of data at once, names its inputs and outputs, and says in its metadata which model it is and
how the data were prepared. Its numbers are compared with the run's own before it is written.

    pyro-vae export runs/digits                       # runs/digits/exported/encoder.onnx, draw.onnx, decoder.onnx
    pyro-vae export runs/digits --to torch --out served
    pyro-vae export runs/mnist --raw 255 --parts encoder
"""

from typing import Literal

from jsonargparse import Namespace

from pyro_vae.cli.option_groups import add_trust
from pyro_vae.cli.parsing import CommandParser


def add_options(parser: CommandParser) -> None:
    """Add the options of `pyro-vae export`."""
    parser.add_argument("run", type=str, help="the run directory")
    add_trust(parser)
    group, output = parser.add_argument_group("files"), parser.add_argument_group("output")
    help = "onnx (the extra `onnx`), or torch: torch.export's programs, for torch without this package"
    group.add_argument("--to", type=Literal["onnx", "torch"], default="onnx", help=help)
    help = (
        "which files, of encoder (x to q(z|x)), draw (x and noise to z), classifier (x to q(y|x)) and decoder (z to "
        "p(x|z)); all that the model has, if left out"
    )
    group.add_argument("--parts", type=str, nargs="+", default=None, metavar="PART", help=help)
    help = (
        "take numbers as in the data file, and prepare them inside: divide by this (255 for bytes, 1 for no division), "
        "and binarise if the run did by a threshold. Left out: x is as the run prepares it"
    )
    group.add_argument("--raw", type=float | None, default=None, metavar="DIVISOR", help=help)
    help = "the folder for the files; the folder `exported` of the run, if left out"
    output.add_argument("--out", type=str | None, default=None, metavar="FOLDER", help=help)
    output.add_argument("--quiet", action="store_true", help="no progress")
    output.add_argument("--json", action="store_true", help="print the result as JSON")


def run(options: Namespace) -> int:
    """Write the files and print what they take and give; returns the exit code."""
    from pyro_vae.cli.work.export import run

    return run(options)
