"""Rows of a table: models that `pyro-vae fit` trains and `pyro-vae evaluate` scores on all test images.

A row may begin with the weights of another one, which is then trained first. Nothing is done twice: a training that was
stopped is resumed, a finished one is left alone, and so is an evaluation.
"""

import argparse
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))

import numpy as np
import record
from torch import Tensor

from pyro_vae import load, load_data, reconstruct
from pyro_vae.cli import main as pyro_vae
from pyro_vae.data import Dataset
from pyro_vae.errors import CheckpointError
from pyro_vae.runs.files import appearing
from pyro_vae.runs.loading import read_manifest, read_metrics

DATA: dict[str, tuple[str, ...]] = {
    "static": ("static_mnist.npz",),
    "dynamic": ("mnist.npz", "--binarize", "dynamic", "--valid_size", "400"),
    "dynamic-5000": ("mnist.npz", "--binarize", "dynamic", "--valid_size", "5000"),
}
"""File and options. Static: binarised once, 50,000 / 10,000 / 10,000 (Larochelle & Murray 2011). Dynamic: drawn afresh
from the grey values at each visit, the last 400 (Burda et al. 2016) or 5,000 of 60,000 images held out; the 10,000 for
testing drawn once."""
AFRESH = ("--binarize", "dynamic")
SHIFTS = tuple((down, right) for down in (-1, 0, 1) for right in (-1, 0, 1))
"""Of training images that are shifted, in pixels."""
QUICK_PASSES, QUICK_DRAWS, DRAWS, VALID_DRAWS = 2, 20, 5000, 500


@dataclass(frozen=True)
class Row:
    """A model of a table.

    Args:
        data: a key of `DATA`.
        model: options of `pyro-vae fit` that make the model.
        epochs: passes of this training.
        training: further options of `pyro-vae fit`.
        after: the row with whose weights it begins.
        published: what the paper has in this place: `nll`, `active_units`, `passes`.
        teacher: the row whose reconstructions soften the training images (`save_softened`); None leaves them.
        shifted: whether each training image is there nine times, moved by at most one pixel (`save_shifted`); an epoch
            is then nine passes. Not of a row with a teacher.
    """

    data: str
    model: tuple[str, ...]
    epochs: int
    training: tuple[str, ...] = ()
    after: str | None = None
    published: Mapping[str, Any] = field(default_factory=dict)
    teacher: str | None = None
    shifted: bool = False


@dataclass(frozen=True)
class Table:
    """Rows by name, with the options of the script.

    Args:
        rows: the rows.
        options: as parsed.
        small: from a row's options those of a small model, for `--quick`.
        chosen: whether rows are compared, so that they need an NLL on validation images too (K = 500).
    """

    rows: Mapping[str, Row]
    options: argparse.Namespace
    small: Mapping[str, str]
    chosen: bool = False

    def epochs(self, name: str) -> int:
        """Passes of a row's own training."""
        quick = QUICK_PASSES if self.options.quick else None
        return self.options.epochs or quick or self.rows[name].epochs

    def before(self, name: str) -> str | None:
        """The row that is trained first."""
        return self.rows[name].after or self.rows[name].teacher

    def passes(self, name: str) -> int:
        """Passes of a row's training and of those before it."""
        before, own = self.before(name), self.epochs(name) * (len(SHIFTS) if self.rows[name].shifted else 1)
        return own + (self.passes(before) if before else 0)

    def run(self, name: str) -> Path:
        """The run directory of a row."""
        return self.options.runs / name / "run"

    def data(self, name: str) -> list[str]:
        """The data of rows, as `--data` and its options."""
        file, *prepared = DATA[name]
        return ["digits"] if self.options.quick else [str(self.options.data_root / file), *prepared]

    def made(self, name: str) -> Path | None:
        """The file with the data of a row that has a teacher, or shifted images; None for the data as they are."""
        row = self.rows[name]
        file = "softened.npz" if row.teacher else "shifted.npz" if row.shifted else None
        return None if file is None else self.options.runs / name / file

    def words(self, name: str) -> list[str]:
        """The options of `pyro-vae fit` for a row."""
        row, options = self.rows[name], self.options
        made = self.made(name)
        binary = row.data == "static" and not row.teacher
        data = self.data(row.data) if made is None else [str(made), *(() if binary else AFRESH)]
        model = [self.small.get(word, word) if options.quick else word for word in row.model]
        start = ["--start_from", str(self.run(row.after))] if row.after else []
        own = ["--epochs", str(self.epochs(name)), "--seed", str(options.seed), "--pictures", "false"]
        own += ["--precision", options.precision] if options.precision else []
        return ["--data", *data, *model, *row.training, *start, *own]

    def shown(self, words: list[str]) -> str:
        """These options without folders of this machine."""
        folders = {str(self.options.data_root): "FOLDER", str(self.options.runs): "RUNS"}
        text = shlex.join(words)
        for folder, word in folders.items():
            text = text.replace(f"{folder}/", f"{word}/")
        return text

    def state(self, name: str) -> str:
        """How far a row is, in words."""
        made = record.read(self.options.runs / name / "part.json")
        if values := made.get("values"):
            valid = f", on valid {values['valid_nll']['value']:.2f}" if "valid_nll" in values else ""
            return f"NLL {values['nll']['value']:.2f} ± {values['nll']['error']:.2f}{valid}"
        try:
            done = read_manifest(self.run(name))["progress"]["epoch"]
        except CheckpointError:
            return "not begun"
        return "trained" if done == self.epochs(name) else f"epoch {done} of {self.epochs(name)}"

    def line(self, name: str) -> str:
        """A row in words: its passes, what is published, and how far it is."""
        published = self.rows[name].published
        beside = f", published {published['nll']:.2f} after {published['passes']}" if published else ""
        return f"{name:32} {self.passes(name):5} passes{beside}: {self.state(name)}"

    def train(self, name: str) -> None:
        """Train a row, and before it the one it needs; ends the script if its folder holds another training."""
        if before := self.before(name):
            self.train(before)
        file, words = self.options.runs / name / "part.json", self.words(name)
        part = record.read(file) or {"fit": self.shown(words), "seed": self.options.seed}
        if part["fit"] != self.shown(words):
            raise SystemExit(f"{file.parent} holds a training with other options: delete it, or take another --runs")
        if self.state(name).startswith(("trained", "NLL")):
            return
        try:
            with record.timed(part):
                self.make(name)
                call("fit", *words, "--run", str(self.run(name)), *(["--quiet"] if self.options.quick else []))
        finally:
            record.save(file, part)

    def make(self, name: str) -> None:
        """Write the data of a row with a teacher or shifted images, unless they are there."""
        row, file = self.rows[name], self.made(name)
        if file is None or file.exists():
            return
        how: dict[str, Any] = {}  # dynamic: grey values, with the row's own split
        if self.options.quick and row.data == "static":
            how = {"binarize": "threshold"}  # the digits are grey
        elif not self.options.quick and row.data != "static":
            how = {"valid_size": int(DATA[row.data][-1])}
        data = load_data(self.data(row.data)[0], **how)
        if row.teacher:
            save_softened(load(self.run(row.teacher)), data, file)
        else:
            save_shifted(data, file)

    def compute(self, name: str, folder: Path) -> None:
        """Train and evaluate a row; its `part.json` has the result."""
        self.train(name)
        part = record.read(folder / "part.json")
        with record.timed(part.setdefault("evaluation", {})):
            evidence = self.evaluate(name, "test", DRAWS)
            valid = self.evaluate(name, "valid", VALID_DRAWS) if self.chosen else {}
        result = self.result(name, evidence)
        found = {"valid_nll": _values(valid)["nll"]} if valid else {}
        result["values"] = {
            **part.get("values", {}),
            **result["values"],
            **found,
        }  # another script may add some
        if result["values"] != part.get("values"):  # else nothing was computed, and the file says when it was
            record.save(folder / "part.json", {**part, **result})

    def evaluate(self, name: str, split: str, draws: int) -> dict[str, Any]:
        """The estimate of log p(x) on a split, as `pyro-vae evaluate` saves it; made unless it is there."""
        file, draws = self.run(name) / f"evidence-{split}.json", QUICK_DRAWS if self.options.quick else draws
        if record.read(file).get("num_particles") != draws:
            options = {"split": split, "num_particles": draws, "seed": self.options.seed}
            call("evaluate", str(self.run(name)), *(f"--{key}={value}" for key, value in options.items()))
        return record.read(file)

    def result(self, name: str, evidence: Mapping[str, Any]) -> dict[str, Any]:
        """What a row's `part.json` says of a finished run."""
        row, progress = self.rows[name], read_manifest(self.run(name))["progress"]
        kept = read_metrics(self.run(name))[progress["best_epoch"] - 1]
        return {
            **record.provenance(),
            "data": evidence["data"],
            "protocol": f"importance sampling, K = {evidence['num_particles']}, {evidence['num_data']} test images",
            "passes": self.passes(name),
            "passes_published": row.published.get("passes"),
            "after": row.after,
            **({"teacher": row.teacher} if row.teacher else {}),
            **({"shifted": True} if row.shifted else {}),
            "best_epoch": progress["best_epoch"],
            "seconds": round(progress["seconds"]),
            "valid": {"loss": kept["valid_loss"], "elbo": kept["valid_elbo"]},
            "active_units": evidence["active_units"],
            "published": dict(row.published),
            "values": _values(evidence),
        }


def save_softened(vae: Any, data: Dataset, file: Path) -> None:
    """Save images to be binarised afresh at each visit: for training, means of each image and its reconstruction.

    The reconstruction is the mean of E[x|z] over 10 codes. The images of the other splits stay as they are.

    Args:
        vae: a model trained on the data.
        data: binary images.
        file: where they are saved, as uint8.
    """
    x = data.split("train")
    _save(_levels((x + reconstruct(vae, x, num_particles=10)) / 2), data, file)


def save_shifted(data: Dataset, file: Path) -> None:
    """Save images of which those for training are there nine times: at their place, and moved by a pixel.

    What leaves an image on one side comes back on the other. The images of the other splits stay as they are.

    Args:
        data: images in [0, 1].
        file: where they are saved, as uint8.
    """
    x = _levels(data.split("train"))
    _save(np.concatenate([np.roll(x, shift, (-2, -1)) for shift in SHIFTS]), data, file)


def _levels(images: Tensor) -> np.ndarray:
    return (255 * images).round().numpy().astype(np.uint8)


def _save(train: np.ndarray, data: Dataset, file: Path) -> None:
    splits = {"train": train, **{split: _levels(data.split(split)) for split in ("valid", "test")}}
    file.parent.mkdir(parents=True, exist_ok=True)
    with appearing(file, overwrite=True) as whole:
        np.savez(whole, **splits)


def _values(evidence: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """NLL, its two errors, ELBO and the share of unhealthy data."""
    share, n = evidence["unreliable"], evidence["num_data"]
    errors = {"error": evidence["standard_error_data"], "monte_carlo_error": evidence["standard_error_monte_carlo"]}
    return {
        "nll": {"value": evidence["nll"], **errors},
        "elbo": {"value": evidence["elbo"]},
        "unhealthy": {"value": share, "error": (share * (1 - share) / n) ** 0.5},
    }


def part(name: str, cls: str, **options: str) -> tuple[str, ...]:
    """The options of `pyro-vae fit` for a part of the model.

    Args:
        name: of the part, e.g. `"encoder"`.
        cls: its class.
        options: of the class.
    """
    own = (word for key, value in options.items() for word in (f"--vae.{name}.{key}", value))
    return (f"--vae.{name}", cls, *own)


def call(*words: str) -> None:
    """A command of `pyro-vae`; ends the script where it fails or is stopped, with its exit code."""
    if (code := pyro_vae(list(words))) != 0:
        raise SystemExit(code)


def parser(description: str | None, name: str) -> argparse.ArgumentParser:
    """The options of a script. All scripts share a folder of trainings, so rows of the same name are trained once."""
    parser = record.options(description, name)
    parser.set_defaults(runs=Path("runs/reproduce/fitted"))
    parser.add_argument("--epochs", type=int, help="passes of each training, in place of the row's own number")
    parser.add_argument("--precision", choices=("float32", "bf16"), help="of the products in training")
    parser.add_argument("--list", action="store_true", help="print the rows, their passes and their state; do nothing")
    return parser


def main(options: argparse.Namespace, name: str, title: str, table: Table) -> dict[str, Any]:
    """Compute the rows that were asked for, or list all; returns the result."""
    if options.list:
        print("\n".join(map(table.line, table.rows)))
        return {}
    result = record.run(options, name, title, {row: partial(table.compute, row) for row in table.rows})
    print("\n".join(map(table.line, result["parts"])))
    return result
