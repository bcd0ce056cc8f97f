"""A new command and new parts: one new file each, and no other edit. The package is copied, the files are added."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pyro_vae

COMMAND = '''\
"""Count the data of a split.

A datum counts as often as --times says.
"""

from pyro_vae.cli.option_groups import add_common, add_run, add_split


def add_options(parser):
    add_run(parser)
    add_split(parser)
    parser.add_argument("--times", type=int, default=1, help="how often a datum counts")
    add_common(parser)


def run(options):
    from pyro_vae.cli.work.printing import print_result
    from pyro_vae.cli.work.saved_runs import load_split, open_saved

    print_result({"counted": options.times * len(load_split(open_saved(options), options, None))}, options.json)
    return 0
'''
PRIOR = '''\
"""A prior away from zero."""

import pyro.distributions as dist
import torch

from pyro_vae.priors import Prior


class Shifted(Prior):
    """A normal around `shift`."""

    def __init__(self, shapes, shift: float = 2.0) -> None:
        super().__init__(shapes)
        self.shift = shift
        self.register_buffer("loc", torch.full((shapes.latent,), shift))

    def forward(self, encode=None, context=None):
        return dist.Normal(self.loc, 1.0).to_event(1)
'''
NETWORK = '''\
"""One linear map."""

import torch

from pyro_vae.networks import Network


class Straight(Network):
    """A linear map of the flattened input."""

    def __init__(self, in_shape, out_shape, bias: bool = True) -> None:
        super().__init__(in_shape, out_shape)
        size = torch.Size(out_shape).numel()
        self.map = torch.nn.Linear(torch.Size(in_shape).numel(), size, bias=bias)

    def forward(self, x):
        flat = x.flatten(x.dim() - len(self.in_shape))
        return self.map(flat).unflatten(-1, self.out_shape)
'''
LIKELIHOOD = '''\
"""Reals with heavy tails."""

import pyro.distributions as dist

from pyro_vae.likelihoods import Likelihood


class Heavy(Likelihood):
    """Cauchy of a fixed scale."""

    def __init__(self, shapes, scale: float = 0.5) -> None:
        super().__init__(shapes)
        self.scale = scale

    def distribution(self, *params):
        return dist.Cauchy(params[0], self.scale)
'''
FILES = {
    "cli/commands/census.py": COMMAND,
    "priors/shifted.py": PRIOR,
    "networks/straight.py": NETWORK,
    "likelihoods/heavy.py": LIKELIHOOD,
}
LIGHT = [
    ["--help"],
    ["censu"],
    ["census", "--help"],
    ["census", "r", "--tims", "3"],
    ["fit", "--help"],
    ["fit", "--vae.prior", "Shfted"],
    ["fit", "--vae.prior", "Shifted", "--vae.prior.shft", "1"],
    ["fit", "--vae.encoder", "Straigt"],
    ["fit", "--vae.likelihood", "Heavi"],
]
SMALL = "--vae.latent_dim 2 --epochs 1 --quiet --pictures false --json"
WORDS = "--vae.prior Shifted --vae.prior.shift 3 --vae.encoder Straight --vae.likelihood Heavy"
YAML = "{vae: {prior: {class_path: Shifted, init_args: {shift: 3}}, encoder: Straight, likelihood: Heavy}}"
FULL = [
    ["fit", *SMALL.split(), *WORDS.split(), "--run", "words"],
    ["fit", *SMALL.split(), "--config", YAML, "--run", "yaml"],
    ["census", "words", "--times", "3", "--json"],
    ["info", "yaml", "--json"],
]
SCRIPT = """
import contextlib, io, json, sys
import pyro_vae
from pyro_vae.cli import main
results = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as end:
            code = end.code
    results.append([code, out.getvalue(), err.getvalue(), "torch" in sys.modules])
print(json.dumps([pyro_vae.__file__, results]))
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What the copied package with the new files answers to each command line: code, output, errors, torch or not."""
    folder = tmp_path_factory.mktemp("copy")
    package = Path(pyro_vae.__file__).parent
    shutil.copytree(package, folder / "pyro_vae", ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in FILES.items():
        (folder / "pyro_vae" / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(LIGHT + FULL)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    file, found = json.loads(done.stdout.splitlines()[-1])
    assert file.startswith(str(folder))
    return {" ".join(words): result for words, result in zip(LIGHT + FULL, found, strict=True)}


def test_names_and_help_without_torch(results):
    texts = {name: result[1] + result[2] for name, result in results.items()}
    assert not any(results[" ".join(words)][3] for words in LIGHT)
    assert "\n  census       Count the data of a split\n  completion   " in texts["--help"]
    assert "unknown command 'censu', did you mean 'census'?" in texts["censu"]
    shown = texts["census --help"]
    assert "Count the data of a split. A datum counts as often as --times says." in shown and "--times N" in shown
    assert "unknown option '--tims', did you mean '--times'?" in texts["census r --tims 3"]
    assert "unknown class 'Shfted', did you mean 'Shifted'?" in texts["fit --vae.prior Shfted"]
    slip = texts["fit --vae.prior Shifted --vae.prior.shft 1"]
    assert "Shifted has no option 'shft', did you mean 'shift'?" in slip
    assert "unknown class 'Straigt', did you mean 'Straight'?" in texts["fit --vae.encoder Straigt"]
    assert "unknown class 'Heavi', did you mean 'Heavy'?" in texts["fit --vae.likelihood Heavi"]


def test_new_parts_train_from_words_and_yaml(results):
    words, yaml = (results[" ".join(line)] for line in FULL[:2])
    assert words[0] == yaml[0] == 0, words[2] + yaml[2]
    assert {k: v for k, v in json.loads(words[1]).items() if k.startswith("valid")} == {
        k: v for k, v in json.loads(yaml[1]).items() if k.startswith("valid")
    }
    told = json.loads(results["info yaml --json"][1])
    assert told["prior"] == "Shifted(shift=3.0)" and told["likelihood"].startswith("Heavy(")
    assert told["config"]["vae"]["prior"]["class_path"] == "pyro_vae.priors.Shifted"
    assert told["config"]["vae"]["encoder"]["class_path"] == "pyro_vae.networks.Straight"


def test_a_new_command_runs(results):
    code, out, err, _ = results["census words --times 3 --json"]
    assert code == 0 and json.loads(out) == {"counted": 600}, err
