"""Completion at the tab key, by bash itself; it imports no torch, and its absence is told."""

import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pyro_vae.autoencoders import Autoencoder
from pyro_vae.cli import main
from pyro_vae.cli.completing import whole_parser
from pyro_vae.cli.finding import command_names
from pyro_vae.cli.library import Axis, Imported, names_of
from pyro_vae.cli.parsing import parser_of
from pyro_vae.data.sources import NAMES
from tests.cli.test_cli import ROOT, call

has_argcomplete = importlib.util.find_spec("argcomplete") is not None
needs_argcomplete = pytest.mark.skipif(not has_argcomplete, reason="the extra completion is not installed")

BASH = """
eval "$(pyro-vae completion bash)"
while IFS= read -r line; do
    COMP_LINE=$line COMP_POINT=${#line} COMP_TYPE=9 COMPREPLY=()
    _python_argcomplete pyro-vae
    printf '%s\\t' "${COMPREPLY[@]}"
    echo
done
"""

LINES = {
    "pyro-vae ev": ["evaluate "],
    "pyro-vae fit --ep": ["--epochs "],
    "pyro-vae fit --binarize d": ["dynamic "],
    "pyro-vae fit --binarize=th": ["threshold "],
    "pyro-vae fit --pictures ": ["true", "false"],
    "pyro-vae fit --vae H": ["HierarchicalVAE "],
    "pyro-vae fit --vae.prior Vamp": ["VampPrior "],
    "pyro-vae fit --vae.prior VampPrior --vae.prior.com": ["--vae.prior.components "],
    "pyro-vae fit --vae.prior.com": [],
    "pyro-vae fit --vae VQVAE --vae.codebook": ["--vae.codebook_size "],
    "pyro-vae fit --vae.encoder.activation lea": ["leaky_relu "],
    "pyro-vae fit --vae.encoder GatedMLP --vae.encoder.hid": ["--vae.encoder.hidden "],
    "pyro-vae fit --objective.beta Li": ["Linear "],
    "pyro-vae fit --objective.beta Linear --objective.beta.st": ["--objective.beta.start "],
    "pyro-vae fit --objective Denoising --objective.objective IW": ["IWAE "],
    "pyro-vae fit --optimizer Adamax --optimizer.wei": ["--optimizer.weight_decay "],
    "pyro-vae fit --optimizer LB": [],
    "pyro-vae fit --vae.help VQ": ["VQVAE "],
    "pyro-vae fit --tracker T": ["TensorBoard "],
    "pyro-vae fit --data dig": ["digits "],
    "pyro-vae fit --data tab": ["table.csv "],
    "pyro-vae fit --config fi": ["fit.yaml "],
    "pyro-vae fit --start_from ru": ["runs/"],
    "pyro-vae fit --epochs ": [],
    "pyro-vae fit --run 'a b' --see": ["--seed "],
    "pyro-vae fit --vae mine.Own --vae.size 3 --see": ["--seed "],
    "pyro-vae fit --vae.prior Nope --vae.latent_d": ["--vae.latent_dim "],
    "pyro-vae evaluate ru": ["runs/"],
    "pyro-vae evaluate runs/": ["runs/a/", "runs/b\\ c/"],
    "pyro-vae evaluate runs/a --method app": ["appendix_d "],
    "pyro-vae evaluate --num_particles 10 runs/a --js": ["--json "],
    "pyro-vae compare runs/a ru": ["runs/"],
    "pyro-vae diagnose runs/a --skip evidence br": ["bracket "],
    "pyro-vae restore runs/a --channel.pattern low": ["lower_half "],
    "pyro-vae unpack a": ["a.zip "],
    "pyro-vae list --sort lo": ["log_p "],
    "pyro-vae completion ba": ["bash "],
    "pyro-vae nope --": ["--help", "--version"],
    "pyro-vae evaluate 'runs/a": ["runs/a/"],
}


@pytest.fixture(scope="module")
def replies(tmp_path_factory):
    """What bash gets for each line, in a folder with runs and files, from one shell."""
    here = tmp_path_factory.mktemp("completing")
    for folder in ("bin", "runs/a", "runs/b c"):
        (here / folder).mkdir(parents=True)
    for file in ("table.csv", "fit.yaml", "a.zip"):
        (here / file).touch()
    program = here / "bin" / "pyro-vae"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m pyro_vae "$@"\n')
    program.chmod(0o755)
    paths = {"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    command = ["bash", "--norc", "-c", BASH]
    text = "".join(f"{line}\n" for line in LINES)
    done = subprocess.run(command, input=text, env={**os.environ, **paths}, cwd=here, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    found = [[word for word in line.split("\t") if word] for line in done.stdout.splitlines()]
    return dict(zip(LINES, found, strict=True))


@needs_argcomplete
class TestBash:
    @pytest.mark.parametrize("line", LINES)
    def test_what_can_follow(self, replies, line):
        assert sorted(replies[line]) == sorted(LINES[line])


@needs_argcomplete
class TestParser:
    @pytest.mark.parametrize("command", command_names())
    def test_it_has_every_option_of_every_command(self, command):
        made = whole_parser([command], "")._subparsers._group_actions[0].choices[command]  # pyright: ignore
        ours = {word for action in parser_of(command)._actions for word in action.option_strings}
        assert ours == {word for action in made._actions for word in action.option_strings}

    def test_options_of_classes_are_those_of_help(self):
        """Each class by its name: with its own options, as the imported package has them."""
        library = Imported()
        for name in names_of(library, Axis((Autoencoder,))):
            made = whole_parser(["fit", "--vae", name], "--vae")._subparsers._group_actions[0].choices["fit"]  # pyright: ignore
            options = library.options(library.below(Autoencoder)[name], 0)
            hidden = {"event_shape", "context"}
            found = {word for action in made._actions for word in action.option_strings}
            assert {f"--vae.{option}" for option in options if option not in hidden} <= found
            assert not {f"--vae.{option}" for option in hidden} & found

    def test_data_sets(self):
        made = whole_parser(["fit"], "")._subparsers._group_actions[0].choices["fit"]  # pyright: ignore
        completer = next(action for action in made._actions if action.dest == "data").completer
        assert completer.words == list(NAMES)

    def test_without_torch(self):
        script = (
            "import sys; from pyro_vae.cli.completing import whole_parser; "
            "whole_parser(['fit', '--vae', 'VQVAE'], '--vae.'); print({'torch', 'numpy'} & set(sys.modules))"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout == "set()\n"

    def test_shells(self):
        for shell in ("bash", "zsh", "fish", "tcsh", "powershell"):
            done = call("completion", shell)
            assert done.code == 0 and "pyro-vae" in done.out
        done = call("completion", "csh")
        assert done.code == 2 and "bash" in done.err


class TestWithoutThePackage:
    @pytest.fixture(autouse=True)
    def absent(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "argcomplete", None)

    def test_it_names_the_extra(self):
        done = call("completion", "bash")
        assert done.code == 2 and "pip install 'pyro-vae[completion]'" in done.error and not done.out

    def test_the_shell_gets_nothing(self, monkeypatch, capsys):
        monkeypatch.setenv("_ARGCOMPLETE", "1")
        monkeypatch.setattr(sys, "argv", ["pyro-vae", "fit"])
        assert main() == 1
        assert capsys.readouterr() == ("", "")


def test_the_page_of_the_command_has_the_line_that_installs_it():
    assert "pyro-vae completion bash >> ~/.bashrc" in (Path(ROOT) / "docs" / "command.md").read_text()
