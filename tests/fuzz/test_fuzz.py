"""Files that once ended badly, each refused with its reason; and a quick sample of the mutations."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml

from pyro_vae.cli import main
from pyro_vae.errors import CheckpointError
from pyro_vae.runs.loading import load, read_manifest
from tests.fuzz import targets

SEEDS = Path(__file__).with_name("seeds")
TENSORS = ("optimizer", "weights")


def seeds(*kinds):
    for kind in kinds:
        for line in (SEEDS / f"{kind}.jsonl").read_text().splitlines():
            yield pytest.param(kind, json.loads(line), id=f"{kind} {line}"[:100])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return targets.make(tmp_path_factory.mktemp("fuzz") / "whole")


@pytest.fixture
def run(whole, tmp_path):
    return targets.copied(whole, tmp_path / "copy")


@pytest.mark.parametrize("kind", [kind for kind in targets.KINDS if kind not in targets.TRAINING])
def test_unchanged_files_are_read(run, kind):
    assert [reader() or 0 for reader in targets.readers(kind, run)] == [0] * len(targets.readers(kind, run))


def test_of_each_kind_there_are_seeds():
    assert {path.stem for path in SEEDS.iterdir()} >= {"config", "manifest", "metrics", "optimizer", "weights"}


# ---- text ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "seed"), [*seeds("config", "manifest", "metrics")])
def test_text(run, capsys, kind, seed):
    damage_text(run / {"config": "config.yaml", "manifest": "manifest.json", "metrics": "metrics.csv"}[kind], seed)
    capsys.readouterr()
    if seed["reader"] == "info":
        assert main(["info", str(run)]) == 4
        message = capsys.readouterr().err
        assert message.count("\n") == 1
    else:
        with pytest.raises(CheckpointError) as caught:
            targets.resume(run) if seed["reader"] == "resume" else load(run, which=seed.get("which", "best"))
        message = str(caught.value)
    assert seed["says"] in message


def damage_text(path, seed):
    if "text" in seed:
        path.write_text(seed["text"])
    elif "column" in seed:
        rows = [line.split(",") for line in path.read_text().splitlines()]
        at = rows[0].index(seed["column"])
        path.write_text("".join(",".join(row[:at] + row[at + 1 :]) + "\n" for row in rows))
    else:
        parse, dump = (json.loads, json.dumps) if path.suffix == ".json" else (yaml.safe_load, yaml.safe_dump)
        tree = parse(path.read_text())
        damage_tree(tree, seed)
        path.write_text(dump(tree))


def damage_tree(tree, seed):
    *above, last = (seed.get("set") or seed["drop"]).split(".")
    for name in above:
        tree = tree[name]
    if "set" in seed:
        tree[last] = seed["value"]
    else:
        del tree[last]


# ---- tensors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "seed"), [*seeds(*TENSORS)])
def test_tensors(run, kind, seed):
    """With a sha256 that is true, as somebody would write it who made the file."""
    path = damage_tensors(run, kind, seed)
    readers = [lambda: targets.resume(run)] + [lambda: load(run, which="last")] * (
        kind == "weights" and "float64" not in str(seed)
    )
    for reader in readers:
        with pytest.raises(CheckpointError) as caught:
            reader()
        assert str(caught.value).startswith(str(path)) and seed["says"] in str(caught.value)


def damage_tensors(run, kind, seed):
    manifest = read_manifest(run)
    entry = manifest["files"][kind]
    path = run / entry["name"]
    tensors = changed(safetensors.torch.load_file(path), seed)
    path.write_bytes(safetensors.torch.save(tensors))
    entry["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    entry["size"] = path.stat().st_size
    if seed.get("names", True):
        entry["tensors"] = sorted(tensors)
    (run / "manifest.json").write_text(json.dumps(manifest))
    return path


def changed(tensors, seed):
    first = sorted(tensors)[0]
    if "tensor" in seed:
        name = first if seed["tensor"] == "*" else seed["tensor"]
        tensors[name] = another(tensors[name], seed)
    elif "all" in seed:
        tensors = {name: tensor.to(getattr(torch, seed["all"])) for name, tensor in tensors.items()}
    elif "drop" in seed:
        prefix = first if seed["drop"] == "*" else seed["drop"]
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
    elif "rename" in seed:
        tensors[seed["to"]] = tensors.pop(seed["rename"])
    else:
        tensors[seed["add"]] = torch.ones(3)
    return {name: tensor.clone() for name, tensor in tensors.items()}


def another(tensor, seed):
    if "shape" in seed:
        return torch.zeros(seed["shape"])
    if "value" in seed:
        return torch.full_like(tensor, float(seed["value"]))
    return tensor.to(getattr(torch, seed["dtype"]))


def test_a_parameter_without_gradients_has_no_state(run):
    """Forging names and sha256, one gets the state of a training in which a parameter never had a gradient."""
    damage_tensors(run, "optimizer", {"drop": "0/"})
    targets.resume(run)
    with safetensors.safe_open(run / read_manifest(run)["files"]["optimizer"]["name"], "pt") as file:
        assert file.get_tensor("0/step").item() == 1 and file.get_tensor("1/step").item() == 6


# ---- mutations -------------------------------------------------------------------------------------------------------


def fuzzed(tmp_path, count, seed):
    """In a process of its own, since what it looks for may end the process."""
    command = [
        sys.executable,
        "-m",
        "tests.fuzz",
        "--count",
        str(count),
        "--seed",
        str(seed),
        "--folder",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["kind"] for one in found] == list(targets.KINDS)
    bad = [one for one in found if {"traceback", "hang"} & set(one["outcomes"])]
    assert not bad, f"{bad}\n{done.stderr[-3000:]}"
    refused = {one["kind"]: one["outcomes"].get("4", 0) + one["outcomes"].get("2", 0) for one in found}
    assert refused.pop("tracked") == 0  # it stops the tracker, with a warning, never the training
    assert all(number > count / 4 for number in refused.values())


def test_a_sample_of_mutations(tmp_path):
    fuzzed(tmp_path, 15, 0)


@pytest.mark.slow
def test_mutations(tmp_path):
    fuzzed(tmp_path, 2000, 1_000_000)
