"""Conditional VAEs: what the data are conditioned on, where it goes, and log p(x|c) against its exact value."""

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pyro import poutine

from pyro_vae.autoencoders import VAE
from pyro_vae.cli.parsing import parser_of
from pyro_vae.cli.work.fit import load_from_options
from pyro_vae.cli.work.saved_runs import load_data_of
from pyro_vae.data import Dataset, load_data
from pyro_vae.data.inputs import conditioned_on_elements, conditioned_on_labels, quadrants
from pyro_vae.diagnostics import latent_statistics
from pyro_vae.errors import DataError, UsageError
from pyro_vae.evidence import bound, log_marginal
from pyro_vae.guides import FullNormal
from pyro_vae.likelihoods import Normal
from pyro_vae.networks import MLP
from pyro_vae.process.seeding import seeded
from pyro_vae.runs.loading import load, read_config
from pyro_vae.tasks.generation import manifold, reconstruct, sample
from pyro_vae.training.fitting import fit
from tests.cli.test_cli import FAST, call

AFFINE, SCALED = partial(MLP, hidden=()), partial(Normal, scale=0.6)
SMALL = partial(MLP, hidden=(16,))


def make(**options):
    with seeded(0, "init"):
        return VAE((8, 8), 2, **{"encoder": SMALL, "decoder": SMALL, "context": (10,), **options})


def digits(n=200):
    data = conditioned_on_labels(load_data("digits", binarize="threshold"))
    labels = {split: data.labels[split][:n] for split in ("train", "valid")}
    contexts = {split: data.inputs["c"][split][:n] for split in ("train", "valid")}
    return Dataset("digits", data.train[:n], data.valid[:n], labels=labels, inputs={"c": contexts})


class TestData:
    def test_labels_are_one_hot(self):
        data = conditioned_on_labels(load_data("digits"))
        for split in ("train", "valid", "test"):
            context = data.inputs["c"][split]
            assert context.dtype == torch.uint8 and context.shape == (len(data.split(split)), 10)
            assert torch.equal(context.argmax(-1), data.labels[split]) and (context.sum(-1) == 1).all()
        assert data.protocol.endswith("shape 8x8, c 10")

    def test_labels_that_are_missing_or_not_in_train(self):
        x = torch.rand(4, 3)
        with pytest.raises(DataError, match="no labels for train"):
            conditioned_on_labels(Dataset("x", x))
        labels = {"train": torch.tensor([0, 1, 1, 0]), "test": torch.tensor([0, 2, 1, 0])}
        with pytest.raises(DataError, match="labels of test run from 0 to 2, expected 0 to 1"):
            conditioned_on_labels(Dataset("x", x, test=x, labels=labels))

    @pytest.mark.parametrize("number", [1, 2, 3])
    def test_quadrants(self, number):
        """The two parts are together the image; the lower left is always given, the lower right never."""
        data, given = load_data("digits", binarize="threshold"), quadrants((8, 8), number)
        assert given.sum() == 16 * number and given[4:, :4].all() and not given[4:, 4:].any()
        assert bool(given[:4, :4].all()) is (number > 1) and bool(given[:4, 4:].all()) is (number > 2)
        parted = load_data("digits", binarize="threshold", context=f"quadrants-{number}")
        whole = torch.empty(200, 8, 8)
        whole[:, given] = parted.widen_inputs(parted.given("test"))["c"]
        whole[:, ~given] = parted.split("test")
        assert torch.equal(whole, data.split("test"))
        assert parted.inputs["c"]["train"].dtype == parted.train.dtype == torch.uint8

    def test_elements_of_grey_data(self):
        data, given = load_data("digits"), quadrants((8, 8), 2)
        parted = conditioned_on_elements(data, given)
        assert torch.equal(parted.split("valid"), data.split("valid")[:, ~given])
        assert torch.equal(parted.inputs["c"]["valid"], data.split("valid")[:, given])
        assert "32 of 64 elements given" in parted.protocol

    def test_elements_that_make_no_sense(self):
        data = load_data("digits")
        for given in (torch.ones(8, 8, dtype=torch.bool), torch.zeros(8, 8, dtype=torch.bool), torch.ones(4).bool()):
            with pytest.raises(UsageError, match="some but not all"):
                conditioned_on_elements(data, given)
        with pytest.raises(UsageError, match="draws the data anew at each visit"):
            load_data("digits", binarize="dynamic", context="quadrants-1")
        with pytest.raises(UsageError, match="a number from 1 to 3"):
            quadrants((8, 8), 4)
        with pytest.raises(UsageError, match="linear_gaussian takes no context"):
            load_data("linear_gaussian", context="labels")

    def test_arrays_of_a_file(self, tmp_path):
        x, c = np.random.rand(6, 3).astype("f4"), np.arange(12.0).reshape(6, 2)
        np.savez(tmp_path / "x.npz", train=x, train_context=c)
        data = load_data(tmp_path / "x.npz", context="array", valid_size=2)
        assert data.inputs["c"]["train"].tolist() == c[:4].tolist()
        assert data.inputs["c"]["valid"].tolist() == c[4:].tolist()
        assert load_data(tmp_path / "x.npz").inputs == {}
        np.savez(tmp_path / "y.npz", train=x)
        with pytest.raises(DataError, match="has no array 'train_context'"):
            load_data(tmp_path / "y.npz", context="array")

    def test_inputs_must_fit_their_split(self):
        x = torch.rand(4, 3)
        for tensors, message in (
            ({"train": torch.rand(3, 2)}, r"'c' of train has shape \[3, 2\], expected \[4, 2\]"),
            ({}, "given for no split, expected train"),
            ({"train": torch.full((4, 2), torch.nan)}, "not finite"),
        ):
            with pytest.raises(DataError, match=message):
                Dataset("x", x, inputs={"c": tensors})

    def test_inputs_are_part_of_the_fingerprint(self):
        x = torch.rand(4, 3)
        prints = [Dataset("x", x, inputs={"c": {"train": c}}).fingerprint() for c in (x, x + 1)]
        assert len({*prints, Dataset("x", x).fingerprint()}) == 3


class TestVAE:
    def test_shapes_with_particles(self):
        vae, x, c = make(), torch.rand(5, 8, 8).round(), torch.eye(10)[:5]
        assert vae.encode(x, c=c).batch_shape == (5,)
        assert vae.decode(torch.randn(3, 5, 2), c).log_prob(x).shape == (3, 5)
        evidence = log_marginal(vae.model, vae.guide, x, num_particles=20, c=c)
        assert evidence.log_p.shape == (5,)

    @pytest.mark.parametrize("conditions", [(), ("decoder",), ("guide",), ("decoder", "guide")])
    def test_each_part_is_switched_by_itself(self, conditions):
        vae, x = make(conditions=conditions), torch.rand(2, 8, 8).round()
        one, other = torch.eye(10)[[0, 1]], torch.eye(10)[[2, 3]]
        z = torch.randn(2, 2)
        guides = [vae.encode(x, c=c).mean for c in (one, other)]
        decoded = [vae.decode(z, c).mean for c in (one, other)]
        assert torch.equal(*guides) == ("guide" not in conditions)
        assert torch.equal(*decoded) == ("decoder" not in conditions)

    def test_refusals(self):
        x, c = torch.zeros(2, 8, 8), torch.eye(10)[:2]
        with pytest.raises(UsageError, match="the guide is conditioned on a context of shape"):
            make().guide(x)
        with pytest.raises(UsageError, match="the decoder is conditioned"):
            make(conditions=("decoder",)).decode(torch.zeros(2, 2))
        with pytest.raises(UsageError, match=r"expected shape \[\.\.\., 10\], got \[2, 3\]"):
            make().guide(x, c=c[:, :3])
        with pytest.raises(UsageError, match="takes no context"):
            make(context=None).guide(x, c=c)
        with pytest.raises(UsageError, match="some of 'decoder' and 'guide'"):
            make(conditions=("encoder",))
        with pytest.raises(UsageError, match="context: expected a tuple of positive whole numbers"):
            make(context=(0,))

    def test_the_model_s_trace(self):
        vae, x, c = make(), torch.zeros(4, 8, 8), torch.eye(10)[:4]
        trace = poutine.trace(vae.model).get_trace(x, c=c)
        expected = vae.decode(trace.nodes["z"]["value"], c).log_prob(x)
        torch.testing.assert_close(trace.nodes["x"]["fn"].log_prob(x), expected)


class TestExact:
    """p(x|z, c) = N(Wz + Vc + b, s^2 I): p(x|c) and the posterior are normal, with mean of x shifted by Vc."""

    def pair(self):
        torch.manual_seed(0)
        vae = VAE((5,), 2, likelihood=SCALED, guide=FullNormal, encoder=AFFINE, decoder=AFFINE, context=(3,)).double()
        joint = vae.decoder.network.output.weight.detach()
        w, v, b = joint[:, :2], joint[:, 2:], vae.decoder.network.output.bias.detach()
        return vae, w, v, b

    def make_exact(self, vae, w, v, b):
        covariance = torch.linalg.inv(torch.eye(2, dtype=torch.float64) + w.T @ w / 0.36)
        gain, scale = covariance @ w.T / 0.36, torch.linalg.cholesky(covariance)
        with torch.no_grad():
            layer = vae.encoder.network.output
            layer.weight.zero_()
            layer.weight[:2] = torch.cat([gain, -gain @ v], -1)
            layer.bias.copy_(torch.cat([-gain @ b, scale.diagonal().log(), scale[1, :1]]))

    def test_evidence(self):
        vae, w, v, b = self.pair()
        c = torch.randn(40, 3, dtype=torch.float64)
        noise = torch.distributions.MultivariateNormal(
            torch.zeros(5, dtype=torch.float64), w @ w.T + 0.36 * torch.eye(5, dtype=torch.float64)
        )
        x = c @ v.T + b + noise.sample((40,))
        self.make_exact(vae, w, v, b)
        evidence = log_marginal(vae.model, vae.guide, x, num_particles=10, c=c)
        torch.testing.assert_close(evidence.log_p, noise.log_prob(x - c @ v.T - b), atol=1e-9, rtol=0)
        elbo = bound(vae.model, vae.guide, x, c=c, batch=7).elbo
        torch.testing.assert_close(elbo, evidence.log_p, atol=1e-9, rtol=0)


class TestTraining:
    @pytest.mark.parametrize("compile", [False, True])
    def test_a_context_helps(self, compile):
        """With the label given, the digits are easier to code; eager and compiled alike."""
        data, bounds = digits(1397), {}
        for context in (None, (10,)):
            vae, inputs = make(context=context), data.inputs if context else {}
            told = Dataset("digits", data.train, data.valid, inputs=inputs)
            adam = partial(torch.optim.Adam, lr=5e-3)
            history = fit(vae, told, epochs=10, batch_size=50, optimizer=adam, compile=compile, progress=False)
            bounds[context] = history.rows[-1]["valid_elbo"]
        assert history.mode.startswith("compiled" if compile else "eager")
        assert bounds[(10,)] > bounds[None] + 2

    def test_resumes_to_the_bit(self, tmp_path):
        def run(path, epochs):
            vae = make()
            return vae, fit(vae, digits(), epochs=epochs, batch_size=30, compile=False, progress=False, run=path)

        vae, history = run(tmp_path / "a", 3)
        (tmp_path / "b").mkdir()
        again, other = run(tmp_path / "b", 3)
        assert [r["valid_elbo"] for r in history.rows] == [r["valid_elbo"] for r in other.rows]
        third, _ = run(tmp_path / "a", 3)
        for a, b, c in zip(vae.parameters(), again.parameters(), third.parameters(), strict=True):
            assert torch.equal(a, b) and torch.equal(a, c)

    def test_other_contexts_are_other_data(self, tmp_path):
        from pyro_vae.errors import CheckpointError

        data = digits()
        fit(make(), data, epochs=1, progress=False, run=tmp_path)
        flipped = {split: c.flip(-1) for split, c in data.inputs["c"].items()}
        changed = Dataset("digits", data.train, data.valid, labels=data.labels, inputs={"c": flipped})
        with pytest.raises(CheckpointError, match="other data"):
            fit(make(), changed, epochs=1, progress=False, run=tmp_path)


class TestTasks:
    def test_sample(self):
        vae = make()
        one = sample(vae, 3, c=torch.eye(10)[4])
        each = sample(vae, 3, c=torch.eye(10)[4].expand(3, 10))
        assert torch.equal(one.x, each.x) and one.x.shape == (3, 8, 8)
        other = sample(vae, 3, c=torch.eye(10)[5])
        assert torch.equal(one.z, other.z) and not torch.equal(one.mean, other.mean)
        with pytest.raises(UsageError, match=r"expected shape \[10\] or \[3, 10\]"):
            sample(vae, 3, c=torch.eye(10))
        with pytest.raises(UsageError, match="takes no context"):
            sample(make(context=None), 3, c=torch.eye(10)[0])

    def test_reconstruct_and_measure(self):
        vae, data = make(), digits(30)
        x, c = data.split("train"), data.widen_inputs(data.given("train"))["c"]
        whole = reconstruct(vae, x, c=c)
        torch.testing.assert_close(reconstruct(vae, x[:7], c=c[:7]), whole[:7])
        assert latent_statistics(vae, x, c=c, batch=11).kl.shape == (2,)
        assert manifold(vae, side=3, c=c[0]).shape == (3, 3, 8, 8)


class TestCommand:
    def test_fit_evaluate_sample_reconstruct(self, tmp_path):
        run = tmp_path / "run"
        conditional = f"--data digits --context labels --binarize threshold --epochs 1 {FAST} --run {run}"
        assert call("fit", conditional).code == 0
        result = call("evaluate", run, "--num_particles 20 --num_data 30 --json --quiet").json
        assert result["num_data"] == 30 and "c 10" in result["data"]
        for context in ("each", "3", "data"):
            out = tmp_path / f"{context}.npz"
            assert call("sample", run, f"--num 20 --context {context} --out {out}").code == 0
            drawn = np.load(out)
            assert drawn["x"].shape == (20, 8, 8) and drawn["context"].shape == (20, 10)
        assert (np.load(tmp_path / "3.npz")["context"].argmax(-1) == 3).all()
        assert "expected a class from 0 to 9" in call("sample", run, "--context 11").error
        assert call("reconstruct", run, f"--num 5 --out {tmp_path / 'r.npz'}").code == 0
        assert json.loads((run / "evidence-test.json").read_text())["num_data"] == 30

    def test_layers(self, tmp_path):
        """`--vae HierarchicalVAE` takes it as `VAE` does."""
        layers = "--vae HierarchicalVAE --vae.latent_dims [3,2] --vae.prior ConditionalNormal --vae.encoder.hidden [8]"
        conditional = f"--data digits --context labels --epochs 1 --quiet {layers} --run {tmp_path / 'run'}"
        assert call("fit", conditional).code == 0
        assert call("evaluate", tmp_path / "run", "--num_particles 20 --num_data 30 --json --quiet").json["log_p"] < 0
        assert call("sample", tmp_path / "run", f"--num 20 --context each --out {tmp_path / 's.npz'}").code == 0
        assert np.load(tmp_path / "s.npz")["z2"].shape == (20, 2)

    def test_quadrants(self, tmp_path):
        conditional = f"--data digits --context quadrants-2 --binarize threshold --epochs 1 {FAST} --run {tmp_path}"
        assert call("fit", conditional).code == 0
        assert call("sample", tmp_path, f"--num 4 --context data --out {tmp_path / 's.npz'}").code == 0
        assert np.load(tmp_path / "s.npz")["x"].shape == (4, 32)
        assert "pass --context data" in call("sample", tmp_path, "--num 4").error

    @pytest.mark.parametrize("inputs", ["", "--context labels", "--context quadrants-1"])
    def test_a_run_finds_its_data_again(self, inputs, tmp_path):
        """What `--binarize auto` decides is saved with the run: the other commands load the same data."""
        words = f"--data digits --epochs 1 {inputs} {FAST} --run {tmp_path}"
        assert call("fit", words).code == 0
        trained = load_from_options(parser_of("fit").parse_args(words.split()))
        again = load_data_of(SimpleNamespace(path=tmp_path, config=read_config(tmp_path), vae=load(tmp_path)))
        decided = "static" if "quadrants" in inputs else "dynamic"
        assert trained.origin["binarize"] == decided and trained.protocol == again.protocol
        assert trained.fingerprint() == again.fingerprint() and torch.equal(trained.split("test"), again.split("test"))
        assert call("evaluate", tmp_path, "--num_particles 5 --num_data 3 --quiet").code == 0

    def test_a_run_without_a_context(self, tmp_path):
        assert call("fit", f"--data digits --binarize threshold --epochs 1 {FAST} --run {tmp_path}").code == 0
        assert "neither classes nor another context, so leave it out" in call("sample", tmp_path, "--context 0").error
