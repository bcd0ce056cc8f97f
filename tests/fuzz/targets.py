"""A run stopped in the middle of an epoch, a refitted one and a search; mutated copies of them, and their readers."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import struct
from functools import partial
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import yaml

from pyro_vae.autoencoders import VAE
from pyro_vae.cli import main
from pyro_vae.data import load_data
from pyro_vae.errors import PyroVaeError, Stopped
from pyro_vae.networks import MLP
from pyro_vae.objectives import ELBO
from pyro_vae.process.seeding import seeded
from pyro_vae.runs.loading import load, read_manifest
from pyro_vae.runs.packing import pack, unpack
from pyro_vae.schedules import Linear
from pyro_vae.training import fit
from pyro_vae.training import trainer as training
from tests.fuzz import mutations

KINDS = (
    *("config", "manifest", "optimizer", "weights", "metrics", "evidence", "tracked", "archive"),
    *("derived", "search", "options", "space"),
)
TRAINING = ("options", "space")
"""Kinds whose unchanged files would start a training."""
TENSORS = {"optimizer": ("optimizer",), "weights": ("weights", "best")}
SMALL = partial(MLP, hidden=(4,))
SPLIT = "--num_particles 2 --num_data 3 --quiet"
SPACE = {
    "vae.latent_dim": [1, 2],
    "objective": ["ELBO", {"class_path": "IWAE", "init_args": {"num_particles": 3}}],
    "optimizer.lr": {"log": [1e-4, 1e-2]},
    "seed": {"uniform": [0, 5]},
}
NOTHING = "--skip evidence bracket gaps latents calibration regions hmc predictive likeness --num_data 2"
"""Options of `diagnose` that leave all measuring out."""


class Silent:
    """A tracker that keeps nothing."""

    def settings(self, settings): ...

    def numbers(self, numbers, step): ...

    def figure(self, name, figure, step): ...


def resume(run, tracker=None):
    """The training of `make`, from where its directory says that it is."""
    with seeded(0, "init"):
        vae = VAE((8, 8), 2, encoder=SMALL, decoder=SMALL)
    data, objective = load_data("digits", binarize="dynamic"), ELBO(beta=Linear(0, 1))
    fit(vae, data, objective, epochs=2, batch_size=500, run=run, progress=False, tracker=tracker)


def make(folder):
    """The run, after five of its six steps, and another one for `compare`, with evidence of both; what came of them."""
    step, done = training.Trainer.step, []

    def stopping(trainer, *args):
        step(trainer, *args)
        done.append(0)
        if len(done) == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    training.Trainer.step = stopping
    try:
        with contextlib.suppress(Stopped):
            resume(folder / "run")
    finally:
        training.Trainer.step = step
    assert read_manifest(folder / "run")["progress"]["step"] == 2
    shutil.copytree(folder / "run", folder / "other")
    resume(folder / "other", Silent())
    shutil.copy(folder / "other" / "tracked.json", folder / "run" / "tracked.json")
    for name in ("run", "other"):
        call(f"evaluate {folder / name} {SPLIT}")
    call(f"refit {folder / 'other'} --prior LearnedNormal --epochs 1 --quiet --out {folder / 'derived'}")
    assert searched(folder / "run") == 0
    pack(folder / "run")
    return folder / "run"


def searched(run):
    """A search of two candidates from the config of `other`, in `search`, begun or gone on with."""
    (run.parent / "two.yaml").write_text("vae.latent_dim: [1, 2]\n")
    words = f"search {run.parent}/other/config.yaml --space {run.parent}/two.yaml --budget 2"
    return call(f"{words} --run {run.parent}/search {SPLIT}")


def call(text, fit=None):
    """A command: its exit code, which stands for an error of ours; a fault (1) raises what it printed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            code = main(text.split())
        except SystemExit as end:
            code = end.code
    if code not in (0, 2, 3, 4, 5, 7):
        raise AssertionError(f"exit code {code}: {out.getvalue()[-3000:]}")
    return code


def outcome(function, *args):
    """0, or the exit code of the error of ours; any other error is raised."""
    try:
        return function(*args) or 0
    except PyroVaeError as error:
        return error.exit_code


def readers(kind, run):
    """What reads a file of this kind, in the copy `run`."""
    info = partial(call, f"info {run} --json")
    if kind == "options":
        return [partial(call, f"fit --config {run}/options.yaml --epochs 1 --run {run.parent}/new")]
    listed = partial(listed_in_lines, run)
    if kind == "evidence":
        return [listed, partial(call, f"compare {run} {run.parent}/other {SPLIT}")]
    if kind == "tracked":
        return [partial(resume, run, Silent())]
    if kind == "archive":
        archive = run.with_suffix(".zip")
        unpacked = partial(lambda: unpack(archive, run.parent / "unpacked") and 0)
        return [partial(lambda: load(archive) and 0), unpacked]
    if kind == "space":
        words = f"search {run.parent}/other/config.yaml --space {run}/space.yaml --num_candidates 3 --budget 100"
        return [partial(call, f"{words} --run {run.parent}/new {SPLIT}")]
    if kind == "search":
        return [listed, partial(searched, run)]
    if kind == "derived":
        derived = f"{run.parent}/derived"
        diagnosed = f"diagnose {derived} {NOTHING} --quiet --out {run.parent}/out.html"
        return [listed, partial(call, f"info {derived} --json"), partial(call, diagnosed)]
    loads = [partial(lambda which: load(run, which=which) and 0, which) for which in ("best", "last")]
    shown = partial(call, f"reconstruct {run} --num 2 --out {run.parent}/out.npz")
    return [*loads, info, listed, *([shown] if kind in ("config", "weights") else []), partial(resume, run)]


def listed_in_lines(run):
    """The list of runs, which has a line for each whatever is in it."""
    assert call(f"list {run.parent}") == 0


# ---- mutated copies --------------------------------------------------------------------------------------------------


def mutate(rng, kind, run):
    """Change a file of the run."""
    if kind in TENSORS:
        mutate_tensors(rng, run, rng.choice(TENSORS[kind]))
    elif kind == "metrics":
        mutate_text(rng, run / "metrics.csv", mutations.mutated_csv)
    elif kind == "evidence":
        mutate_evidence(rng, run)
    elif kind == "archive":
        path = run.with_suffix(".zip")
        path.write_bytes(mutations.mutated_bytes(rng, path.read_bytes()))
    elif kind == "search":
        mutate_search(rng, run.parent / "search")
    else:
        names = {"config": "config.yaml", "manifest": "manifest.json", "options": "options.yaml"}
        names |= {"tracked": "tracked.json", "space": "space.yaml", "derived": "../derived/config.yaml"}
        mutate_tree(rng, run / names[kind])


def mutate_tree(rng, path):
    """As data, or as text."""
    load_text, dump = (json.loads, json.dumps) if path.suffix == ".json" else (yaml.safe_load, yaml.safe_dump)
    if rng.random() < 0.25:
        path.write_bytes(mutations.mutated_bytes(rng, path.read_bytes()))
    else:
        text = dump(mutations.mutated_tree(rng, load_text(path.read_text())))
        path.write_bytes(text.encode(errors="surrogatepass"))


def mutate_text(rng, path, change):
    if rng.random() < 0.3:
        path.write_bytes(mutations.mutated_bytes(rng, path.read_bytes()))
    else:
        path.write_bytes(change(rng, path.read_text()).encode(errors="surrogatepass"))


def mutate_tensors(rng, run, kind):
    """Mostly with the sha256, and mostly with the names, that are then true."""
    manifest = read_manifest(run)
    path = run / manifest["files"][kind]["name"]
    tensors = mutations.mutated_tensors(rng, safetensors.torch.load_file(path))
    data = path.read_bytes()
    draw = rng.random()
    if draw < 0.7:
        data = safetensors.torch.save({name: tensor.clone() for name, tensor in tensors.items()})
    elif draw < 0.85:
        data = with_header(data, partial(mutations.mutated_tree, rng))
    else:
        data = mutations.mutated_bytes(rng, data)
    path.write_bytes(data)
    entry = manifest["files"][kind]
    if rng.random() < 0.9:
        entry["sha256"] = hashlib.sha256(data).hexdigest()
    if rng.random() < 0.9:
        entry["size"] = len(data)
    if rng.random() < 0.8:
        entry["tensors"] = sorted(tensors)
    (run / "manifest.json").write_text(json.dumps(manifest))


def with_header(data, change):
    """A safetensors file with its header changed."""
    size = struct.unpack("<Q", data[:8])[0]
    header = json.dumps(change(json.loads(data[8 : 8 + size]))).encode(errors="surrogatepass")
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def mutate_evidence(rng, run):
    path = run / "evidence-test.json"
    draw = rng.random()
    if draw < 0.5:
        mutate_tree(rng, path)
        return
    arrays = run / "evidence-test.npz"
    data = mutated_npz(rng, arrays, 0.3)
    arrays.write_bytes(data)
    if rng.random() < 0.9:
        told = json.loads(path.read_text())
        path.write_text(json.dumps({**told, "arrays_sha256": hashlib.sha256(data).hexdigest()}))


def mutate_search(rng, search):
    """What it was begun with, or a score of a candidate."""
    if rng.random() < 0.5:
        mutate_tree(rng, search / "search.json")
    else:
        file = rng.choice(sorted((search / "scores").glob("*.npz")))
        file.write_bytes(mutated_npz(rng, file, 0.5))


def mutated_npz(rng, file, as_bytes):
    """The bytes of an archive, mutated as they are, or by its arrays."""
    if rng.random() < as_bytes:
        return mutations.mutated_bytes(rng, file.read_bytes())
    with np.load(file) as stored:
        return npz(mutations.mutated_tensors(rng, {name: torch.from_numpy(stored[name]) for name in stored.files}))


def npz(tensors):
    buffer = io.BytesIO()
    with contextlib.suppress(ValueError, TypeError):  # names that a zip file can't have
        np.savez(buffer, **{name.replace("\0", "") or "x": as_array(tensor) for name, tensor in tensors.items()})
    return buffer.getvalue()


def as_array(tensor):
    return tensor.float().numpy() if tensor.dtype in (torch.bfloat16, torch.float8_e4m3fn) else tensor.numpy()


def copied(run, folder):
    """The run and the other, to be changed."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run.parent, folder)
    shutil.copy(folder / "run" / "config.yaml", folder / "run" / "options.yaml")
    (folder / "run" / "space.yaml").write_text(yaml.safe_dump(SPACE))
    return Path(folder / "run")
