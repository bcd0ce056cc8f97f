"""`--tracker`: named on the command line, in YAML and in a file of one's own."""

import json
import sys
from pathlib import Path

import pytest
import torch

from pyro_vae.runs.loading import load
from tests.cli.test_cli import SMALL, call

QUIET = f"{SMALL} --epochs 2 --quiet"
MINE = '''
import json
from dataclasses import dataclass
from pathlib import Path


class ByLines:
    """Writes a line for each call; it derives from nothing."""

    def __init__(self, file: str, fails: str = ""):
        self.file, self.fails = Path(file), fails
        self.write("made")

    def write(self, *told):
        with self.file.open("a") as file:
            file.write(json.dumps(told) + "\\n")
        if told[0] == self.fails:
            raise OSError("the server is gone")

    def settings(self, settings):
        self.write("settings", settings["vae"]["latent_dim"])

    def numbers(self, numbers, step):
        self.write("numbers", numbers["epoch"], step)

    def figure(self, name, figure, step):
        self.write("figure", name, step)

    def close(self):
        self.write("close")


@dataclass(frozen=True)
class AsData:
    """A dataclass is built when its description is resolved."""

    file: str

    def __post_init__(self):
        raise OSError("no such server")

    def settings(self, settings): ...

    def numbers(self, numbers, step): ...

    def figure(self, name, figure, step): ...


class Half:
    """Lacks a method."""

    def settings(self, settings): ...
'''


@pytest.fixture(autouse=True)
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("mine", None)


def told(file="told.txt"):
    return [json.loads(line) for line in Path(file).read_text().splitlines()]


NUMBERS = [["numbers", 1, 14], ["numbers", 2, 28]]


class TestOwnClass:
    def test_all_is_told_in_order_and_once(self):
        words = f"{QUIET} --tracker mine.ByLines --tracker.file told.txt --run run"
        assert call("fit", words).code == 0
        found = told()
        assert found[:4] == [["made"], ["settings", 2], *NUMBERS] and found[-1] == ["close"]
        figures = [name for _, name, step in found[4:-1] if step == 28]
        assert len(figures) == len(found) - 5 and {"curves", "samples", "manifold"} <= set(figures)
        assert call("fit", words).code == 0 and told() == found

    def test_in_yaml_and_its_null(self, tmp_path):
        (tmp_path / "fit.yaml").write_text(
            "tracker: {class_path: mine.ByLines, init_args: {file: told.txt}}\nepochs: 1"
        )
        words = f"{SMALL} --quiet --pictures false --config fit.yaml --run"
        assert call("fit", words, "a").code == 0 and told()[-2:] == [["numbers", 1, 14], ["close"]]
        assert call("fit", words, "b --tracker null").code == 0
        printed = call("fit", f"{SMALL} --print_config")
        assert "tracker: null" in printed.out
        (tmp_path / "null.yaml").write_text("tracker: null\nepochs: 1")
        assert call("fit", f"{SMALL} --quiet --pictures false --config null.yaml --run c").code == 0
        assert len(told()) == 4

    def test_the_run_does_not_depend_on_it(self):
        """It is no setting of the run: another one, or none, may resume it, and the bits are the same."""
        assert call("fit", f"{QUIET} --pictures false --run a").code == 0
        words = "--tracker mine.ByLines --tracker.file told.txt"
        assert call("fit", f"{QUIET} --pictures false --run b {words}").code == 0
        assert Path("a/config.yaml").read_text() == Path("b/config.yaml").read_text()
        a, b = (torch.cat([p.reshape(-1) for p in load(run).parameters()]) for run in "ab")
        assert torch.equal(a, b)
        assert call("fit", f"{QUIET} --pictures false --run b").code == 0
        assert call("fit", f"{QUIET} --pictures false --run a {words}").code == 0
        assert [line for line in told() if line[0] == "numbers"] == 2 * NUMBERS  # a was told when it had ended

    @pytest.mark.parametrize("where", ["made", "settings", "numbers", "figure", "close"])
    def test_where_it_fails_the_training_goes_on(self, where, caplog):
        done = call(
            "fit", f"{QUIET} --json --tracker mine.ByLines --tracker.file told.txt --tracker.fails {where} --run r"
        )
        place = "its construction" if where == "made" else where
        assert done.code == 0 and done.json["epochs"] == 2 and len(done.json["pictures"]) > 3
        (record,) = (record for record in caplog.records if "tracker" in record.getMessage())
        expected = (
            f"the tracker ByLines failed in {place}; the training goes on without it (OSError: the server is gone)"
        )
        assert record.getMessage() == expected

    def test_a_dataclass_that_can_not_be_made(self, caplog):
        done = call("fit", f"{QUIET} --pictures false --tracker mine.AsData --tracker.file x --run r")
        assert done.code == 0 and "AsData failed in its construction" in caplog.text and "no such server" in caplog.text


class TestMistakes:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ("--tracker TensorBord", "unknown class 'TensorBord', did you mean 'TensorBoard'? Known: TensorBoard"),
            ("--tracker mine.Half", "expected a class with the methods figure, numbers, settings, got Half"),
            ("--tracker mine.Nope", "there is no 'Nope' in the module 'mine'"),
            ("--tracker mine.ByLines", "ByLines needs the option 'file'"),
            ("--tracker TensorBoard --tracker.foldr x", "TensorBoard has no option 'foldr'"),
            ("--tracker Guarded", "unknown class 'Guarded'"),
            ("--tracker.folder x", "expected the name of a class"),
        ],
    )
    def test_one_line(self, words, message):
        done = call("fit", f"{QUIET} {words}")
        assert done.code == 2 and message in done.error and "Traceback" not in done.err

    def test_help(self):
        assert "--tracker CLASS" in call("fit", "--help").out
        shown = call("fit", "--tracker.help TensorBoard").out
        assert "--tracker.folder TEXT" in shown and "folder `tensorboard`" in shown
