"""Run directories: descriptions and trust, damage, atomic saves, the lock, and going on after `kill -9` to the bit."""

import hashlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from pyro.infer import Trace_ELBO

from pyro_vae.autoencoders import VAE, HierarchicalVAE
from pyro_vae.data import load_data
from pyro_vae.errors import CheckpointError, UsageError
from pyro_vae.evidence import log_marginal
from pyro_vae.likelihoods import Bernoulli, Normal
from pyro_vae.networks import MLP
from pyro_vae.objectives import ELBO
from pyro_vae.process.seeding import seeded
from pyro_vae.runs.describing import build_vae, describe, describe_vae, resolve
from pyro_vae.runs.directory import Run, open_run
from pyro_vae.runs.loading import load, read_config, read_manifest, read_metrics
from pyro_vae.runs.restoring import optimizer_tensors, restore_optimizer
from pyro_vae.runs.state import State
from pyro_vae.schedules import Cosine, Cyclical, Linear
from pyro_vae.training.fitting import fit

SMALL = partial(MLP, hidden=(8,))
KINDS = ("weights", "optimizer", "best")


def make(seed=0, **parts):
    with seeded(seed, "init"):
        return VAE((8, 8), **{"latent_dim": 3, "encoder": SMALL, "decoder": SMALL, **parts})


def digits():
    return load_data("digits", binarize="dynamic")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def without_time(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def restore(path):
    """What a process that resumes this run finds."""
    with open_run(path, read_config(path)) as run:
        return run.restore()


def save(path, *states):
    with open_run(path, {"epochs": 9}) as run:
        for one in states:
            run.save(one)


class Tied(MLP):
    """Two names for one weight."""

    def __init__(self, in_shape, out_shape):
        super().__init__(in_shape, out_shape, hidden=(8, 8))
        self.again = self.hidden[2]


class Outer:
    class Inner(MLP):
        pass


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run whose best epoch is not its last; never changed, only copied."""
    path = tmp_path_factory.mktemp("trained") / "run"
    adam = partial(torch.optim.Adam, lr=5e-3)
    fit(make(), digits(), epochs=8, optimizer=adam, lr_schedule=Linear(1, 80), run=path, progress=False)
    assert 0 < read_manifest(path)["progress"]["best_epoch"] < 8
    return path


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it, to damage."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def modules():
    """Forget modules that a test imports from its own folder."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


class TestDescriptions:
    """Parts as plain data, and back."""

    @pytest.mark.parametrize(
        "value",
        [
            None,
            True,
            3,
            1e-8,
            "learned",
            (8, 8),
            ((1, 2), ("a", None)),
            MLP,
            torch.optim.AdamW,
            Cosine(start=2.0, epochs=7.5),
            ELBO(),
            ELBO(beta=Linear(0, 1, epochs=5), num_particles=3),
            ELBO(beta=Cyclical(period=4), analytic_kl=True),
        ],
    )
    def test_round_trip(self, value):
        text = yaml.safe_dump(describe(value))
        assert resolve(yaml.safe_load(text), ["pyro_vae", "torch.optim"]) == value

    @pytest.mark.parametrize(
        "part",
        [
            partial(MLP, hidden=(200, 100), activation="relu"),
            partial(Normal, scale="learned", min_scale=0.0),
            partial(partial(MLP, hidden=()), activation="elu"),
            partial(torch.optim.SGD, lr=0.1, momentum=0.9),
            partial(MLP, decoder=partial(MLP, hidden=(2,))),
        ],
    )
    def test_round_trip_of_a_partial(self, part):
        again = resolve(yaml.safe_load(yaml.safe_dump(describe(part))), ["pyro_vae", "torch.optim"])
        assert again.func is part.func and again.keywords.keys() == part.keywords.keys()
        assert describe(again) == describe(part)
        plain = {name: value for name, value in part.keywords.items() if not isinstance(value, partial)}
        assert {name: again.keywords[name] for name in plain} == plain

    def test_a_class_is_named_by_its_public_path(self):
        assert describe(torch.optim.Adam) == {"class_path": "torch.optim.Adam"}
        assert describe(Linear(0, 1))["class_path"] == "pyro_vae.schedules.Linear"

    def test_what_cannot_be_rebuilt_is_refused(self):
        class Local(MLP):
            pass

        main = type("Mine", (MLP,), {"__module__": "__main__"})
        for part in (Local, partial(Local, hidden=(3,)), main, Outer.Inner):
            with pytest.raises(UsageError, match=r"can't save .*: define it in a module that can be imported"):
                describe(part)
        for value in (
            lambda shapes: Bernoulli(shapes),
            partial(MLP, (8, 8)),
            partial(make, 3),
            torch.ones(2),
            object(),
        ):
            with pytest.raises(UsageError, match=r"can't save .*: a run directory holds class paths and keywords"):
                describe(value)

    @pytest.mark.parametrize(
        ("parts", "arguments"),
        [
            ({"likelihood": lambda shapes: Bernoulli(shapes)}, {}),
            ({}, {"objective": Trace_ELBO()}),
            ({}, {"objective": lambda model, guide, x: Trace_ELBO().differentiable_loss(model, guide, x)}),
            ({}, {"optimizer": lambda parameters: torch.optim.Adam(parameters)}),
            ({}, {"lr_schedule": lambda epoch, total: 1.0}),
        ],
    )
    def test_refused_before_training(self, tmp_path, parts, arguments):
        vae = make(**parts)
        before = {name: value.clone() for name, value in vae.state_dict().items()}
        with pytest.raises(UsageError, match="can't save"):
            fit(vae, digits(), epochs=1, run=tmp_path / "run", progress=False, **arguments)
        assert same(before, vae.state_dict())
        assert not (tmp_path / "run").exists()

    def test_a_module_that_is_no_vae_is_refused(self, tmp_path):
        class Pair(torch.nn.Linear):
            def model(self, x):
                raise AssertionError("refused before it is run")

            guide = model

        with pytest.raises(UsageError, match="can't save a Pair to a run directory"):
            fit(Pair(2, 2), torch.ones(4, 2), run=tmp_path / "run", progress=False)


OWN = """\
import pyro_vae.autoencoders.vae
from pyro_vae.autoencoders import Autoencoder
from pyro_vae.autoencoders import HierarchicalVAE


class Mine(HierarchicalVAE):
    def __init__(self, event_shape):
        super().__init__(event_shape, (3, 2))
        self.arguments = {"event_shape": event_shape}


class Unfinished(Autoencoder):
    def model(self, x): ...
"""


class TestAnyAutoencoder:
    """A run holds a `VAE` as its keywords, any other class as class path and keywords."""

    def hierarchical(self, ladder=True):
        with seeded(0, "init"):
            return HierarchicalVAE((8, 8), (4, 2), encoder=SMALL, upper_encoder=SMALL, decoder=SMALL, ladder=ladder)

    def test_round_trip_and_resume(self, tmp_path):
        vae, options = self.hierarchical(), {"run": tmp_path / "run", "progress": False, "batch_size": 200}
        fit(vae, digits(), epochs=1, **options)
        description = read_config(tmp_path / "run")["vae"]
        assert description["class_path"] == "pyro_vae.autoencoders.HierarchicalVAE"
        assert description["init_args"]["latent_dims"] == [4, 2] and description["init_args"]["ladder"] is True
        again = load(tmp_path / "run")
        assert type(again) is HierarchicalVAE and same(again.state_dict(), vae.state_dict())
        resumed = self.hierarchical()
        fit(resumed, digits(), epochs=1, **options)
        assert same(resumed.state_dict(), vae.state_dict())
        with pytest.raises(CheckpointError, match=r"vae\.init_args\.ladder is True there, False here"):
            fit(self.hierarchical(ladder=False), digits(), epochs=1, **options)

    def test_a_vae_is_its_keywords_or_its_class_path(self, run):
        config = read_config(run)
        assert "class_path" not in config["vae"] and config["vae"]["event_shape"] == [8, 8]
        for path in ("pyro_vae.autoencoders.VAE", "pyro_vae.VAE"):
            description = {"class_path": path, "init_args": config["vae"]}
            (run / "config.yaml").write_text(yaml.safe_dump({**config, "vae": description}))
            vae = load(run)
            assert type(vae) is VAE and describe_vae(vae) == config["vae"]

    def test_a_class_of_ones_own(self, tmp_path, monkeypatch, modules):
        (tmp_path / "own.py").write_text(OWN)
        description = {"class_path": "own.Mine", "init_args": {"event_shape": [4]}}
        with pytest.raises(CheckpointError, match=r"refused to import 'own\.Mine'"):
            build_vae(description)
        assert "own" not in sys.modules
        monkeypatch.syspath_prepend(tmp_path)
        vae = build_vae(description, trust=["own"])
        assert type(vae).__name__ == "Mine" and describe_vae(vae) == description
        with pytest.raises(CheckpointError, match=r"vae: 'own\.Unfinished' is no autoencoder"):
            build_vae({"class_path": "own.Unfinished"}, trust=["own"])

    @pytest.mark.parametrize(
        ("description", "message"),
        [
            ({"class_path": "pyro_vae.networks.MLP"}, r"'pyro_vae\.networks\.MLP' is no autoencoder: expected a class"),
            ({"class_path": "pyro_vae.autoencoders.Autoencoder"}, "is no autoencoder"),
            ({"class_path": "os.system"}, "refused to import"),
            ({"class_path": None}, "refused to import"),
            ({"class_path": "pyro_vae.VAE", "init_args": [3]}, "expected a mapping"),
            ({"class_path": "pyro_vae.VAE", "latent_dim": 3}, r"\['latent_dim'\] next to class_path"),
            ({"class_path": "pyro_vae.VAE"}, "can't build the VAE from its description: .*event_shape"),
            ([3], "expected a mapping"),
            (
                {
                    "class_path": "pyro_vae.HierarchicalVAE",
                    "init_args": {"event_shape": [4], "upper_encoder": {"class_path": "pyro_vae.errors.UsageError"}},
                },
                r"vae\.upper_encoder must be a module class",
            ),
        ],
    )
    def test_refused(self, description, message):
        with pytest.raises(CheckpointError, match=message):
            build_vae(description)


class TestTrust:
    """A run directory may come from anyone: nothing outside the trusted modules is even imported."""

    @pytest.fixture
    def foreign(self, run, tmp_path, monkeypatch, modules):
        """A run that names a class of a module whose import leaves a trace."""
        folder = tmp_path / "path"
        folder.mkdir()
        source = (
            "from pathlib import Path\nfrom pyro_vae.networks import MLP\nPath(__file__).with_name('trace').touch()\n"
        )
        (folder / "foreign.py").write_text(source + "class Net(MLP): pass\n")
        monkeypatch.syspath_prepend(folder)
        text = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(text.replace("pyro_vae.networks.MLP", "foreign.Net"))
        return run, folder / "trace"

    def test_refused_before_import(self, foreign):
        run, trace = foreign
        for trust in ([], ["foreig"], ["foreign.Net"], ["foreigner"]):
            with pytest.raises(
                CheckpointError, match=r"refused to import 'foreign\.Net'.*trust=\['foreign'\].*--trust foreign"
            ):
                load(run, trust=trust)
        assert not trace.exists() and "foreign" not in sys.modules

    def test_accepted_with_trust(self, foreign):
        run, trace = foreign
        vae = load(run, trust=["foreign"])
        assert trace.exists() and type(vae.encoder).__name__ == "Net"

    @pytest.mark.parametrize(
        "path", ["os.system", "pyro_vae_.Net", "pyro_vae", "Net", "", ".pyro_vae.Net", None, 3, ["x"]]
    )
    def test_names_that_are_not_ours(self, path):
        with pytest.raises(CheckpointError, match="refused to import"):
            resolve({"class_path": path}, ["pyro_vae"])

    @pytest.mark.parametrize(
        "path", ["pyro_vae.nowhere.Net", "pyro_vae.networks.Nwt", "pyro_vae..Net", "pyro_vae.networks."]
    )
    def test_not_found(self, path):
        with pytest.raises(CheckpointError, match="can't find"):
            resolve({"class_path": path}, ["pyro_vae"])

    def test_not_a_class(self):
        with pytest.raises(CheckpointError, match=r"'pyro_vae\.process\.seeding\.derive_seed' is not a class"):
            resolve({"class_path": "pyro_vae.process.seeding.derive_seed"}, ["pyro_vae"])

    @pytest.mark.parametrize(
        "prior", [{"class_path": "pyro_vae.errors.UsageError"}, {"class_path": "pyro_vae.schedules.Cosine"}, 3]
    )
    def test_not_a_module(self, prior):
        with pytest.raises(CheckpointError, match=r"vae\.prior must be a module class"):
            build_vae({"event_shape": [4], "prior": prior})


def edit(name, change):
    """A damage: the parsed file, changed."""

    def apply(run):
        read, write = (json.loads, json.dumps) if name.endswith("json") else (yaml.safe_load, yaml.safe_dump)
        content = read((run / name).read_text())
        change(content)
        (run / name).write_text(write(content))

    return apply


def overwrite(name, content):
    """A damage: other content."""
    return lambda run: (run / name).write_bytes(content)


def weights_file(run):
    return run / read_manifest(run)["files"]["weights"]["name"]


def flip_a_byte(run):
    data = bytearray(weights_file(run).read_bytes())
    data[len(data) // 2] ^= 1
    weights_file(run).write_bytes(data)


def entry(**values):
    return edit("manifest.json", lambda manifest: manifest["files"]["weights"].update(values))


def forged(run):
    """Not safetensors, but with the right hash."""
    weights_file(run).write_bytes(b"junk")
    entry(sha256=hashlib.sha256(b"junk").hexdigest())(run)


def outside(run):
    """A good file of another folder, by a path that leads out of this one."""
    shutil.move(weights_file(run), run.parent / "outside.safetensors")
    entry(name="../outside.safetensors")(run)


WEIGHTS = {
    "a byte flipped": (flip_a_byte, "is damaged: its sha256 is not the one in manifest.json"),
    "truncated": (lambda run: os.truncate(weights_file(run), 100), "is damaged: its sha256"),
    "empty": (lambda run: os.truncate(weights_file(run), 0), "is damaged: its sha256"),
    "missing": (lambda run: weights_file(run).unlink(), "the weights named by manifest.json can't be read"),
    "not safetensors": (forged, "is damaged"),
    "outside": (outside, "manifest.json is damaged: files.weights.name: expected the name of a .safetensors file"),
}
MANIFEST = {
    "missing": (lambda run: (run / "manifest.json").unlink(), "holds no saved weights"),
    "truncated": (lambda run: os.truncate(run / "manifest.json", 40), "manifest.json is damaged"),
    "not text": (overwrite("manifest.json", b"\xff\xfe\x00"), "manifest.json is damaged"),
    "a list": (overwrite("manifest.json", b"[]"), "manifest.json is damaged"),
    "null": (overwrite("manifest.json", b"null"), "manifest.json is damaged"),
    "too deep": (overwrite("manifest.json", b"[" * 100_000), "manifest.json is damaged"),
    "another format": (edit("manifest.json", lambda m: m.update(format=99)), "has format 99, this version reads 1"),
    "no format": (edit("manifest.json", lambda m: m.pop("format")), "manifest.json is damaged"),
    "no files": (edit("manifest.json", lambda m: m.pop("files")), "manifest.json is damaged"),
    "files a list": (edit("manifest.json", lambda m: m.update(files=[])), "manifest.json is damaged"),
    "no weights": (
        edit("manifest.json", lambda m: m["files"].pop("weights")),
        "manifest.json is damaged: files.weights is missing",
    ),
    "no hash": (
        edit("manifest.json", lambda m: m["files"]["weights"].pop("sha256")),
        "manifest.json is damaged: files.weights.sha256 is missing",
    ),
    "no rows": (edit("manifest.json", lambda m: m.pop("rows")), "manifest.json is damaged"),
    "rows a word": (edit("manifest.json", lambda m: m.update(rows="x")), "manifest.json is damaged"),
    "no progress": (edit("manifest.json", lambda m: m.pop("progress")), "manifest.json is damaged"),
    "name a number": (
        entry(name=3),
        "damaged: files.weights.name: expected the name of a .safetensors file of a run, got 3",
    ),
    "name with NUL": (entry(name="a\0b"), "damaged: files.weights.name: expected the name"),
    "name a folder": (entry(name=".."), "damaged: files.weights.name: expected the name"),
    "name empty": (entry(name=""), "damaged: files.weights.name: expected the name"),
}
CONFIG = {
    "missing": (lambda run: (run / "config.yaml").unlink(), "is not a run directory"),
    "not YAML": (overwrite("config.yaml", b"vae: [1, {"), "config.yaml can't be read"),
    "not text": (overwrite("config.yaml", b"\xff\xfe\x00\x81"), "config.yaml can't be read"),
    "empty": (overwrite("config.yaml", b""), "config.yaml is damaged: the content: expected a mapping"),
    "a list": (overwrite("config.yaml", b"[1]"), "config.yaml is damaged: the content: expected a mapping"),
    "an object": (overwrite("config.yaml", b"!!python/object/apply:os.getcwd []"), "config.yaml can't be read"),
    "no date": (overwrite("config.yaml", b"data: !!timestamp 2001-99-99"), "config.yaml can't be read"),
    "no number": (overwrite("config.yaml", b"data: !!int x"), "config.yaml can't be read"),
    "no truth": (overwrite("config.yaml", b"data: !!bool x"), "config.yaml can't be read"),
    "too deep": (overwrite("config.yaml", b"[" * 5000), "config.yaml can't be read"),
}
VAE_OF_CONFIG = {
    "missing": (lambda config: config.pop("vae"), "can't build the VAE"),
    "a word": (lambda config: config.update(vae="x"), "config.yaml is damaged: vae: expected a mapping, got 'x'"),
    "a list": (lambda config: config.update(vae=[1]), "config.yaml is damaged: vae: expected a mapping"),
    "no size": (lambda config: config["vae"].pop("event_shape"), "can't build the VAE"),
    "size null": (lambda config: config["vae"].update(event_shape=None), "describes no VAE: event_shape: .* got None"),
    "size negative": (lambda config: config["vae"].update(latent_dim=-1), "latent_dim must be at least 1, got -1"),
    "size a word": (
        lambda config: config["vae"].update(latent_dim="x"),
        "latent_dim: expected a whole number, got 'x'",
    ),
    "another size": (lambda config: config["vae"].update(latent_dim=4), "the weights do not fit the VAE"),
    "unknown part": (lambda config: config["vae"].update(nose={}), "describes no VAE: VAE has no argument 'nose'"),
    "unknown option": (lambda config: config["vae"]["decoder"]["init_args"].update(x=1), "MLP has no option 'x'"),
    "wrong option": (lambda config: config["vae"]["decoder"]["init_args"].update(activation="x"), "unknown activation"),
    "options a list": (lambda config: config["vae"]["decoder"].update(init_args=[1]), "init_args"),
    "a value with wrong options": (
        lambda config: config["vae"].update(prior={"class_path": "pyro_vae.schedules.Linear", "init_args": {"x": 1}}),
        "Linear",
    ),
    "a value that refuses": (
        lambda config: config["vae"].update(
            prior={"class_path": "pyro_vae.schedules.Linear", "init_args": {"epochs": -1}}
        ),
        "length",
    ),
}


class TestLoad:
    """What comes back, and what is refused."""

    def test_best_and_last(self, trained):
        manifest = read_manifest(trained)
        for which, kind in (("best", "best"), ("last", "weights")):
            expected = safetensors.torch.load_file(trained / manifest["files"][kind]["name"])
            vae = load(trained, which=which)
            assert same(vae.state_dict(), expected) and not vae.training
        assert not same(load(trained, which="last").state_dict(), load(str(trained)).state_dict())

    def test_which_is_one_of_two(self, trained):
        with pytest.raises(UsageError, match="expected which to be 'best' or 'last', got 'first'"):
            load(trained, which="first")

    def test_best_is_last_without_validation(self, tmp_path):
        vae = make()
        fit(vae, digits().split("test"), epochs=1, run=tmp_path / "run", progress=False)
        assert same(load(tmp_path / "run").state_dict(), vae.state_dict())

    def test_same_evidence(self, tmp_path):
        """A VAE of partials, built in Python, fitted, and loaded from its directory alone."""
        vae = make(
            latent_dim=2,
            likelihood=partial(Normal, scale="learned", bounded=True),
            encoder=partial(MLP, hidden=(16, 8), activation="silu"),
            decoder=partial(MLP, hidden=(8,), activation="elu"),
        )
        data = load_data("digits")
        fit(vae, data, epochs=1, run=tmp_path / "run", progress=False)
        a, b = (
            log_marginal(v.model, v.guide, data.split("test")[:20], num_particles=10)
            for v in (vae, load(tmp_path / "run"))
        )
        assert torch.equal(a.log_p, b.log_p)

    def test_double_precision_comes_back(self, tmp_path):
        vae = make().double()
        fit(vae, digits().split("test").double(), epochs=1, run=tmp_path / "run", progress=False)
        again = load(tmp_path / "run").state_dict()
        assert {value.dtype for value in again.values() if value.is_floating_point()} == {torch.float64}
        assert same(again, vae.state_dict())
        with pytest.raises(CheckpointError, match=r"should be float32 .*, and is float64"):
            fit(make(), digits().split("test").double(), epochs=1, run=tmp_path / "run", progress=False)

    def test_a_sparse_file_of_any_size_is_not_read(self, run):
        os.truncate(weights_file(run), 1 << 40)
        with pytest.raises(CheckpointError, match="is damaged: it has 1099511627776 bytes, more than"):
            load(run, which="last")

    def test_the_checksum_comes_before_the_fit(self, run):
        """Weights that are damaged and of another VAE: the damage is the cause."""
        edit("config.yaml", lambda config: config["vae"].update(latent_dim=4))(run)
        flip_a_byte(run)
        with pytest.raises(CheckpointError, match="is damaged: its sha256"):
            load(run, which="last")

    def test_tied_weights(self, tmp_path):
        vae = make(encoder=Tied)
        fit(vae, digits(), epochs=1, run=tmp_path / "run", progress=False)
        again = load(tmp_path / "run", trust=["tests"])
        assert same(again.state_dict(), vae.state_dict())
        assert again.encoder.again is again.encoder.hidden[2]

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("nowhere", "there is no run directory .*nowhere"),
            ("file", "file is neither a run directory nor a whole archive"),
        ],
    )
    def test_no_directory(self, tmp_path, path, message):
        (tmp_path / "file").touch()
        with pytest.raises(CheckpointError, match=message):
            load(tmp_path / path)

    @pytest.mark.parametrize("damage", WEIGHTS)
    def test_damaged_weights(self, run, damage):
        apply, message = WEIGHTS[damage]
        apply(run)
        with pytest.raises(CheckpointError, match=message):
            load(run, which="last")
        with pytest.raises(CheckpointError, match=message):
            restore(run)

    @pytest.mark.parametrize("damage", MANIFEST)
    def test_damaged_manifest(self, run, damage):
        apply, message = MANIFEST[damage]
        apply(run)
        with pytest.raises(CheckpointError, match=message):
            load(run, which="last")
        if damage != "missing":
            with pytest.raises(CheckpointError, match=message):
                restore(run)

    @pytest.mark.parametrize("damage", CONFIG)
    def test_damaged_config(self, run, damage):
        apply, message = CONFIG[damage]
        apply(run)
        with pytest.raises(CheckpointError, match=message):
            load(run)
        with pytest.raises(CheckpointError, match=message):
            Run(run, {})

    @pytest.mark.parametrize("damage", VAE_OF_CONFIG)
    def test_damaged_description(self, run, damage):
        change, message = VAE_OF_CONFIG[damage]
        edit("config.yaml", change)(run)
        with pytest.raises(CheckpointError, match=message):
            load(run)

    @pytest.mark.parametrize(
        "content", [None, b"epoch,step\n1\n", b"epoch\n1,2\n", b"epoch\nx\n", b"epoch\n1\0\n", b"\xff", b""]
    )
    def test_damaged_metrics(self, run, content):
        (run / "metrics.csv").unlink() if content is None else (run / "metrics.csv").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"metrics\.csv"):
            restore(run)


def state(step, **tensors):
    """A small state, another for each step."""
    values = {kind: {"a": torch.full((3,), float(step)), **tensors} for kind in KINDS}
    progress = {"epoch": step, "step": 0, "best_elbo": -1.5 * step, "best_epoch": 1, "optimizer": {}}
    return State(**values, progress=progress, rows=[{"epoch": i, "loss": 0.1 * i} for i in range(1, step + 1)])


def equal(a, b):
    return all(same(getattr(a, kind), getattr(b, kind)) for kind in KINDS) and (a.progress, a.rows) == (
        b.progress,
        b.rows,
    )


def restored(path):
    """The step of the state that a process which resumes finds, and that it is whole."""
    found = restore(path)
    assert equal(found, state(found.progress["epoch"]))
    return found.progress["epoch"]


class Calls:
    """Do something before each call by which a save reaches the disk."""

    def __init__(self, monkeypatch, before):
        self.before, self.number = before, 0
        for name in ("fsync", "replace", "unlink"):
            monkeypatch.setattr(os, name, self.wrap(getattr(os, name)))

    def wrap(self, function):
        def call(*args, **kwargs):
            self.number += 1
            self.before(self.number - 1)
            return function(*args, **kwargs)

        return call


def fail_at(point, call):
    if call == point:
        raise OSError(28, "No space left on device")


class TestSave:
    """A directory holds the state before or the state after, wherever a save ends."""

    def test_round_trip(self, tmp_path):
        with open_run(tmp_path / "run", {"epochs": 9}) as run:
            assert run.restore() is None
        odd = {
            "scalar": torch.tensor(2.5),
            "long": torch.arange(3),
            "none": torch.zeros(0, 4),
            "half": torch.ones(2).half(),
        }
        save(tmp_path / "run", state(1, **odd, strided=torch.arange(6.0).reshape(2, 3).T))
        assert equal(
            restore(tmp_path / "run"), state(1, **odd, strided=torch.tensor([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]))
        )

    def test_only_the_latest_is_kept(self, tmp_path):
        save(tmp_path, *map(state, range(1, 4)))
        names = {path.name for path in tmp_path.iterdir()}
        current = {f"{kind}-000003-000000.safetensors" for kind in KINDS}
        assert names == current | {"config.yaml", "lock", "manifest.json", "metrics.csv"}

    def test_an_error_at_any_point(self, tmp_path, monkeypatch):
        """As with a full disk: 14 points before the manifest is in its place, and what comes after it."""
        found = []
        for point in range(100):
            path = tmp_path / str(point)
            save(path, state(1))
            try:
                with monkeypatch.context() as patch:
                    Calls(patch, partial(fail_at, point))
                    save(path, state(2))
            except OSError:
                found.append(restored(path))
            else:
                break
        assert found[:14] == [1] * 14 and set(found[14:]) == {2} and 15 <= len(found) < 99

    def test_death_at_any_point(self, tmp_path, monkeypatch):
        """The directory as a process would leave it that dies before one call to the system: nothing cleans up."""
        path, copies = tmp_path / "run", tmp_path / "copies"
        save(path, state(1))
        with monkeypatch.context() as patch:
            calls = Calls(patch, lambda point: shutil.copytree(path, copies / str(point)))
            save(path, state(2))
        found = [restored(copies / str(point)) for point in range(calls.number)]
        assert found[:14] == [1] * 14 and set(found[14:]) == {2}
        for copy in copies.iterdir():  # and it goes on from there
            save(copy, state(3))
            assert restored(copy) == 3
            assert not list(copy.glob(".*")) and len(list(copy.glob("*.safetensors"))) == len(KINDS)

    def test_death_before_the_first_state(self, tmp_path):
        """A config without a manifest is a run that has not begun: any settings may begin it."""
        with open_run(tmp_path, {"epochs": 1}):
            pass
        with open_run(tmp_path, {"epochs": 9}) as run:
            assert run.restore() is None
        assert read_config(tmp_path) == {"epochs": 9}

    def test_rows_that_came_after_the_manifest_are_dropped(self, tmp_path):
        save(tmp_path, state(1))
        (tmp_path / "metrics.csv").write_text("epoch,loss\n1,0.1\n2,0.2\n")
        assert restore(tmp_path).rows == [{"epoch": 1, "loss": 0.1}]

    def test_what_others_put_there_stays(self, run):
        names = [
            *("notes.txt", "evidence-test.npz", "foo.safetensors", "weights.safetensors", "weights-backup.safetensors"),
            *(
                "best-of-all.safetensors",
                "optimizer-1.safetensors",
                ".hidden.tmp",
                ".evidence-test.npz.tmp",
                "pictures/a.png",
            ),
        ]
        (run / "pictures").mkdir()
        for name in names:
            (run / name).write_text("mine")
        with open_run(run, read_config(run)) as again:
            now = again.restore()
            now.progress["epoch"] += 1
            again.save(now)
        assert all((run / name).read_text() == "mine" for name in names)
        assert len(list(run.glob("*.safetensors"))) == 5 + len(KINDS)


class TestSettings:
    """A directory belongs to one training."""

    @pytest.mark.parametrize(
        ("change", "name"),
        [
            ({"epochs": 1}, r"epochs is 2 there, 1 here"),
            ({"epochs": 3, "seed": 1}, r"seed is 0 there, 1 here"),
            ({"seed": 1}, r"seed is 0 there, 1 here"),
            ({"clip_norm": 2.0}, r"clip_norm is None there, 2\.0 here"),
            ({"optimizer": torch.optim.SGD}, r"optimizer\.class_path is 'torch\.optim\.Adam' there"),
            ({"optimizer": partial(torch.optim.Adam, lr=0.1)}, r"optimizer\.init_args is None there"),
            ({"objective": ELBO(beta=0.5)}, r"objective\.init_args\.beta is 1\.0 there, 0\.5 here"),
            ({"lr_schedule": Cosine()}, r"lr_schedule\.class_path"),
            ({"data": load_data("digits", binarize="static")}, r"binarize is 'dynamic' there, 'static' here"),
            ({"data": load_data("digits", binarize="dynamic", seed=1)}, r"data_seed is 0 there, 1 here"),
            ({"vae": make(latent_dim=2)}, r"vae\.latent_dim is 3 there, 2 here"),
            ({"vae": make(encoder=MLP)}, r"vae\.encoder\.init_args"),
        ],
    )
    def test_other_settings_are_refused(self, tmp_path_factory, change, name):
        path = tmp_path_factory.getbasetemp() / "settings"  # one run for all cases, which never change it
        settings = {"epochs": 2, "progress": False, "run": path}
        fit(make(), digits(), **settings)
        before = (path / "config.yaml").read_bytes()
        with pytest.raises(CheckpointError, match=f"other settings: use these .*or another directory.*{name}"):
            fit(change.pop("vae", None) or make(), change.pop("data", None) or digits(), **{**settings, **change})
        assert (path / "config.yaml").read_bytes() == before
        fit(make(), digits(), **settings)  # and the lock is free

    def test_a_longer_training_goes_on_as_if_it_had_been_begun_so(self, tmp_path):
        for epochs in (1, 3):
            lengthened = make()
            history = fit(lengthened, digits(), epochs=epochs, run=tmp_path, progress=False)
        whole = make()
        expected = fit(whole, digits(), epochs=3, progress=False)
        assert same(lengthened.state_dict(), whole.state_dict()) and history.best_epoch == expected.best_epoch
        assert without_time(history.rows) == without_time(expected.rows)
        assert read_config(tmp_path)["epochs"] == 3 and same(load(tmp_path).state_dict(), whole.state_dict())

    @pytest.mark.parametrize("scheduled", [{"lr_schedule": Cosine()}, {"objective": ELBO(beta=Linear(epochs=1))}])
    def test_no_longer_training_where_something_depends_on_the_length(self, tmp_path, scheduled):
        fit(make(), digits(), **scheduled, epochs=1, run=tmp_path, progress=False)
        with pytest.raises(
            CheckpointError, match=r"epochs is 1 there, 2 here\. A run can have more epochs only if its lr_"
        ):
            fit(make(), digits(), **scheduled, epochs=2, run=tmp_path, progress=False)
        assert read_config(tmp_path)["epochs"] == 1

    def test_a_run_that_did_not_know_an_option_yet_is_resumed(self, tmp_path):
        settings = {"epochs": 1, "progress": False, "run": tmp_path}
        network = partial(MLP, hidden=(8,))
        fit(make(encoder=network), digits(), ELBO(), **settings)
        config = yaml.safe_load((tmp_path / "config.yaml").read_text())
        del config["vae"]["standardize"], config["keep"], config["objective"]["init_args"]["analytic_kl"]
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        fit(make(encoder=network), digits(), ELBO(), **settings)
        with pytest.raises(CheckpointError, match=r"vae\.standardize is False there, True here"):
            fit(make(encoder=network, likelihood=Normal, standardize=True), digits(), ELBO(), **settings)
        with pytest.raises(CheckpointError, match=r"analytic_kl is False there, True here"):
            fit(make(encoder=network), digits(), ELBO(analytic_kl=True), **settings)

    def test_other_data_are_refused(self, tmp_path):
        """An array has no name to tell it by."""
        x = digits().split("test")
        fit(make(), x, epochs=1, run=tmp_path, progress=False)
        with pytest.raises(CheckpointError, match="trained on other data"):
            fit(make(), x.flip(0), epochs=1, run=tmp_path, progress=False)

    def test_what_may_differ(self, tmp_path):
        """Where it runs and how often it saves are not what it is."""
        settings = {"epochs": 1, "progress": False, "run": tmp_path / "a"}
        fit(make(), digits(), **settings)
        shutil.move(tmp_path / "a", tmp_path / "b")
        fit(make(), digits(), **{**settings, "run": tmp_path / "b", "device": "cpu", "save_every": 3.0})

    def test_a_file_in_the_way(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(CheckpointError, match="can't make the run directory"):
            Run(tmp_path / "file", {})
        (tmp_path / "run" / "lock").mkdir(parents=True)
        with pytest.raises(CheckpointError, match="lock"):
            Run(tmp_path / "run", {})


class TestOptimizers:
    """A restored optimizer makes the same next step, to the bit."""

    @pytest.mark.parametrize(
        "optimizer",
        [
            torch.optim.Adam,
            partial(torch.optim.Adam, amsgrad=True, fused=True),
            partial(torch.optim.SGD, lr=0.1),
            partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
            partial(torch.optim.RMSprop, momentum=0.5, centered=True),
            torch.optim.Adagrad,
            torch.optim.Adadelta,
            torch.optim.NAdam,
            torch.optim.ASGD,
            torch.optim.Rprop,
        ],
    )
    def test_bit_exact(self, tmp_path, optimizer):
        nets = [torch.nn.Linear(7, 5) for _ in range(2)]
        nets[1].load_state_dict(nets[0].state_dict())
        first, second = (optimizer(net.parameters()) for net in nets)
        for _ in range(3):
            self.step(nets[0], first)
        tensors, plain = optimizer_tensors(first)
        save(tmp_path, State(nets[0].state_dict(), tensors, {}, {**state(1).progress, "optimizer": plain}, []))
        found = restore(tmp_path)
        nets[1].load_state_dict(found.weights)
        restore_optimizer(second, found.optimizer, found.progress["optimizer"])
        for _ in range(3):
            self.step(nets[0], first)
            self.step(nets[1], second)
        assert same(nets[0].state_dict(), nets[1].state_dict())
        (a, plain_a), (b, plain_b) = optimizer_tensors(first), optimizer_tensors(second)
        assert same(a, b) and plain_a == plain_b

    def step(self, net, optimizer):
        optimizer.zero_grad()
        net(torch.linspace(-1, 1, 21).reshape(3, 7)).exp().sum().backward()
        optimizer.step()


# ---- processes that die ----------------------------------------------------------------------------------------------

EPOCHS, STEPS, KILLS = 30, 14, 10


@pytest.fixture(scope="module")
def spawn():
    """Start a process that has all of torch imported already, which makes ten restarts cheap."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pyro_vae.training", "torch._dynamo"])  # the latter is what an optimizer imports
    children = []

    def start(target, *args):
        children.append(context.Process(target=target, args=args, daemon=True))
        children[-1].start()
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.join()


def hold(path):
    """Open a run and keep it."""
    torch.set_num_threads(1)
    run = Run(path, {"epochs": 9})
    (path / "held").touch()
    time.sleep(600)
    run.close()


def train(path, save_every):
    """The training that is killed: what changes over time does, and every part of the state matters."""
    torch.set_num_threads(1)
    objective = ELBO(beta=Linear(0, 1, epochs=EPOCHS / 2))
    settings = {"epochs": EPOCHS, "lr_schedule": Cosine(), "log_every": 3, "seed": 3, "start_at_mean": True}
    fit(make(1), digits(), objective, **settings, run=path, progress=False, save_every=save_every)


def train_and_die(path, goal, delay):
    """The training, killed by a thread of its own process `delay` seconds after `goal` steps are saved."""
    threading.Thread(target=die, args=(path, goal, delay), daemon=True).start()
    train(path, 0.02)


def die(path, goal, delay):
    while steps_done(path) < goal:
        time.sleep(0.003)
    time.sleep(delay)
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for(condition, child):
    while not condition():
        assert child.is_alive(), f"the process ended with {child.exitcode}"
        time.sleep(0.003)


def steps_done(path):
    """How far the saved state is; -1 before the first."""
    if not (path / "manifest.json").exists():
        return -1
    progress = read_manifest(path)["progress"]
    return progress["epoch"] * STEPS + progress["step"]


class TestDeath:
    """`kill -9` is nothing to prepare for, so it may come at any time."""

    def test_the_lock_goes_with_its_process(self, spawn, tmp_path):
        path = tmp_path / "run"
        holder = spawn(hold, path)
        wait_for((path / "held").exists, holder)
        who = rf"process {holder.pid} on {re.escape(socket.gethostname())}"
        with pytest.raises(CheckpointError, match=f"is in use by {who}: wait for it, or use another directory"):
            Run(path, {"epochs": 9})
        holder.kill()
        holder.join()
        assert holder.exitcode == -signal.SIGKILL
        Run(path, {"epochs": 9}).close()

    def test_killed_ten_times(self, spawn, tmp_path):
        """Killed and resumed ten times, the run ends with the bits of one that never was: all tensors, all rows."""
        whole, broken = tmp_path / "whole", tmp_path / "broken"
        rng, stopped_at = random.Random(0), []
        for _ in range(KILLS):
            child = spawn(train_and_die, broken, steps_done(broken) + rng.randint(1, 20), rng.uniform(0, 0.02))
            child.join()
            assert child.exitcode == -signal.SIGKILL
            stopped_at.append(steps_done(broken))
            assert stopped_at[-1] < EPOCHS * STEPS
        assert stopped_at == sorted(set(stopped_at)) and any(step % STEPS for step in stopped_at)
        for path in (broken, whole):
            child = spawn(train, path, 10.0)
            child.join()
            assert child.exitcode == 0
        self.compare(whole, broken)

    def compare(self, whole, broken):
        for which in ("last", "best"):
            assert same(load(whole, which=which).state_dict(), load(broken, which=which).state_dict())
        rows = read_metrics(broken)
        assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))
        assert without_time(rows) == without_time(read_metrics(whole))
        a, b = read_manifest(whole), read_manifest(broken)
        assert a["files"] == b["files"]  # the names and the sha256 of weights, optimizer and best
        a["progress"].pop("seconds"), b["progress"].pop("seconds")
        assert a == b
