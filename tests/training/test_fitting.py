"""`fit`: equal to SVI step by step, resumable to the bit, and never applying what is not finite."""

import math
import signal
from contextlib import nullcontext
from functools import partial

import pyro
import pytest
import torch
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO

from pyro_vae.autoencoders import VAE
from pyro_vae.compiling.backends import choose_device
from pyro_vae.data import Dataset, load_data
from pyro_vae.errors import CheckpointError, DataError, NumericalError, Stopped, UsageError
from pyro_vae.guides import DiagonalNormal
from pyro_vae.likelihoods import Normal
from pyro_vae.networks import MLP
from pyro_vae.objectives import ELBO, as_loss
from pyro_vae.process.seeding import seeded
from pyro_vae.schedules import Constant, Cosine, Linear
from pyro_vae.training.fitting import fit
from tests.support.stopping import signals_at

SMALL = partial(MLP, hidden=(16,))


def make(seed=0, **parts):
    with seeded(seed, "init"):
        return VAE((8, 8), 3, **{"encoder": SMALL, "decoder": SMALL, **parts})


def binary(n=60):
    return load_data("digits", binarize="dynamic").split("test")[:n]


def weights(vae):
    return torch.cat([p.detach().reshape(-1) for p in vae.parameters()])


def steps_of_fit(x, epochs, batch, seed=0):
    """The batches and the noise of `fit`, for a loop of one's own."""
    for epoch in range(epochs):
        with seeded(seed, "order", epoch):
            order = torch.randperm(len(x))
        for step, start in enumerate(range(0, len(x), batch)):
            with seeded(seed, "step", epoch, step):
                yield x[order[start : start + batch]]


class TestSVI:
    """Pyro's own SVI on the same programs."""

    @pytest.mark.parametrize(
        ("ours", "theirs"), [(ELBO(), Trace_ELBO()), (ELBO(analytic_kl=True), TraceMeanField_ELBO())]
    )
    def test_same_parameters_after_20_steps(self, ours, theirs):
        x, a, b = binary(), make(), make()
        fit(a, x, ours, epochs=10, batch_size=30, progress=False)
        svi = SVI(b.model, b.guide, pyro.optim.Adam({"lr": 1e-3}), theirs)
        for batch in steps_of_fit(x, epochs=10, batch=30):
            svi.step(batch)
        torch.testing.assert_close(weights(a), weights(b), rtol=0, atol=1e-6)
        assert not torch.equal(weights(a), weights(make()))

    def test_our_objective_is_a_loss_for_svi(self):
        x, a, b = binary(), make(), make()
        fit(a, x, ELBO(beta=0.5), epochs=2, batch_size=30, progress=False)
        svi = SVI(b.model, b.guide, pyro.optim.Adam({"lr": 1e-3}), ELBO(beta=0.5))
        for batch in steps_of_fit(x, epochs=2, batch=30):
            svi.step(batch)
        torch.testing.assert_close(weights(a), weights(b), rtol=0, atol=1e-6)

    def test_two_vaes_in_one_process_both_train(self):
        first, second = make(), make()
        for vae in (first, second):
            before = weights(vae).clone()
            svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
            for batch in steps_of_fit(binary(), epochs=2, batch=30):
                svi.step(batch)
            assert not torch.equal(weights(vae), before)
        torch.testing.assert_close(weights(first), weights(second))

    def test_fit_leaves_the_parameter_store_alone(self):
        pyro.clear_param_store()
        fit(make(), binary(), epochs=1, progress=False)
        assert len(pyro.get_param_store()) == 0

    def test_one_name_for_two_modules_would_not_train(self):
        """What Pyro does with one name, and why ours are unique: the second module is given the first one's weights."""
        pyro.clear_param_store()
        first, second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        pyro.module("same", first)
        assert not torch.equal(first.weight, second.weight)
        assert torch.equal(pyro.module("same", second, update_module_params=True).weight, first.weight)
        pyro.clear_param_store()


class TestFit:
    """What training does and reports."""

    def test_history(self):
        data = load_data("digits", binarize="dynamic")
        history = fit(make(), data, epochs=3, progress=False, log_every=5)
        assert [row["epoch"] for row in history.rows] == [1, 2, 3]
        assert [row["step"] for row in history.rows] == [14, 28, 42]
        for row in history.rows:
            for split in ("train", "valid"):
                assert row[f"{split}_elbo"] == pytest.approx(row[f"{split}_reconstruction"] - row[f"{split}_kl"])
        assert history.column("loss")[-1] < history.column("loss")[0]
        assert -history.column("loss")[-1] == pytest.approx(history.column("train_elbo")[-1], rel=0.1)

    def test_trains_what_a_longer_training_improves(self):
        """The main job in small: log p(x) of the held-out digits rises by far more than its noise."""
        vae, data = make(), load_data("digits", binarize="dynamic")
        rows = fit(vae, data, epochs=15, optimizer=partial(torch.optim.Adam, lr=5e-3), progress=False).rows
        assert rows[-1]["valid_elbo"] > rows[0]["valid_elbo"] + 5

    def test_same_seed_same_weights_and_another_seed_others(self):
        runs = []
        for seed in (0, 0, 1):
            vae = make()
            fit(vae, binary(), epochs=2, seed=seed, progress=False)
            runs.append(weights(vae))
        assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])

    def test_leaves_the_callers_generator_alone(self):
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        fit(make(), binary(), epochs=1, progress=False)
        assert torch.equal(torch.rand(3), expected)

    def test_leaves_global_switches_alone(self):
        before = torch.distributions.Distribution._validate_args, pyro.settings.get()
        fit(make(), binary(), epochs=1, progress=False)
        assert (torch.distributions.Distribution._validate_args, pyro.settings.get()) == before

    def test_keeps_the_best_weights(self):
        """With a learning rate that ruins the fit later, the weights of the best validation epoch come back."""
        data = load_data("digits", binarize="dynamic")
        vae = make()
        history = fit(
            vae,
            data,
            epochs=12,
            optimizer=partial(torch.optim.Adam, lr=5e-3),
            lr_schedule=Linear(1, 40),
            progress=False,
        )
        best = max(history.rows, key=lambda row: row["valid_elbo"])
        assert history.best_epoch == best["epoch"] < 12
        from pyro_vae.evidence import bound

        got = bound(vae.model, vae.guide, data.split("valid"), seed=0).elbo.mean().item()
        assert got == pytest.approx(best["valid_elbo"])

    def test_patience_waits_for_the_warm_up(self):
        data = load_data("digits", binarize="dynamic")
        frozen = partial(torch.optim.SGD, lr=0.0)
        stopped = fit(make(), data, epochs=9, optimizer=frozen, patience=2, progress=False)
        assert stopped.stopped_early and len(stopped.rows) < 9
        warm = ELBO(beta=Linear(0, 1, epochs=6))
        later = fit(make(), data, warm, epochs=9, optimizer=frozen, patience=2, progress=False)
        assert later.stopped_early and len(later.rows) >= 6 + 1

    def test_learning_rate_schedule(self):
        history = fit(make(), binary(), epochs=4, batch_size=60, lr_schedule=Cosine(), progress=False)
        assert history.column("lr") == pytest.approx([1e-3 * (1 + math.cos(math.pi * t / 4)) / 2 for t in range(4)])

    def test_clip_norm_bounds_a_step(self):
        """Plain SGD with rate 1 moves by exactly the clipped norm, B times the limit per datum."""
        vae = make()
        before = weights(vae).clone()
        fit(
            vae,
            binary(30),
            epochs=1,
            batch_size=30,
            optimizer=partial(torch.optim.SGD, lr=1.0),
            clip_norm=1e-3,
            progress=False,
        )
        assert (weights(vae) - before).norm().item() == pytest.approx(0.03, rel=1e-4)

    def test_weight_prior_is_the_map_penalty(self):
        """One SGD step: the difference made by a N(0, s^2) prior is -lr theta B / (N s^2), on the decoder alone."""
        ends = []
        for prior in (None, 0.5):
            vae = make()
            sgd = partial(torch.optim.SGD, lr=1e-3)
            fit(vae, binary(40), epochs=1, batch_size=40, optimizer=sgd, weight_prior=prior, progress=False)
            ends.append(vae)
        start = make()
        for name, p in start.decoder.named_parameters():
            moved = ends[1].decoder.get_parameter(name) - ends[0].decoder.get_parameter(name)
            torch.testing.assert_close(moved, -1e-3 * p / 0.25, rtol=1e-3, atol=1e-6)
        assert torch.equal(*[torch.cat([p.reshape(-1) for p in vae.encoder.parameters()]) for vae in ends])

    def test_start_at_mean(self):
        vae, data = make(), load_data("digits", binarize="dynamic")
        vae.start_at(data.mean(), data.std())
        with torch.no_grad():
            vae.decoder.output.weight.zero_()
        torch.testing.assert_close(vae.decode(torch.zeros(1, 3)).mean[0], data.mean().clamp(1e-3, 1 - 1e-3))

    @pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adagrad", "AdamW", "NAdam"])
    def test_any_optimizer(self, name):
        vae = make()
        before = weights(vae).clone()
        fit(vae, binary(), epochs=1, optimizer=partial(getattr(torch.optim, name), lr=1e-4), progress=False)
        assert not torch.equal(weights(vae), before)

    def test_pyros_own_elbo_is_taken_as_it_is(self):
        a, b = make(), make()
        fit(a, binary(), Trace_ELBO(), epochs=2, progress=False)
        fit(b, binary(), ELBO(), epochs=2, progress=False)
        assert torch.equal(weights(a), weights(b))

    def test_partial_last_batch_is_trained_on(self):
        seen = []

        def loss(model, guide, x):
            seen.append(len(x))
            return ELBO()(model, guide, x)

        fit(make(), binary(50), loss, epochs=1, batch_size=20, progress=False)
        assert seen[1:] == [20, 20, 10]  # the first is the validated rehearsal

    def test_progress_lines(self, capsys):
        fit(make(), binary(), epochs=2)
        lines = capsys.readouterr().err.splitlines()
        assert lines[0].startswith("epoch 1/2  elbo -") and "reconstruction" in lines[-1] and "kl" in lines[-1]


class TestRefusals:
    """Bad input: one clear error."""

    def test_arguments(self):
        for name, value in {
            "epochs": 0,
            "batch_size": -1,
            "clip_norm": 0.0,
            "patience": 0,
            "weight_prior": -1.0,
        }.items():
            with pytest.raises(UsageError, match=f"{name} must be (positive|at least 1)"):
                fit(make(), binary(), progress=False, **{name: value})
        with pytest.raises(UsageError, match=r"epochs: expected a whole number, got 1\.5"):
            fit(make(), binary(), epochs=1.5, progress=False)
        with pytest.raises(UsageError, match="LBFGS evaluates"):
            fit(make(), binary(), optimizer=torch.optim.LBFGS, progress=False)
        with pytest.raises(UsageError, match="can't make the optimizer SGD"):
            fit(make(), binary(), optimizer=partial(torch.optim.SGD, lr=-1), progress=False)
        with pytest.raises(UsageError, match="no device 'nope'"):
            choose_device("nope")

    def test_objectives(self):
        with pytest.raises(UsageError, match="differentiable_loss"):
            as_loss(RenyiELBO(num_particles=2))
        with pytest.raises(UsageError, match="beta >= 0"):
            ELBO(beta=-1)
        with pytest.raises(UsageError, match="num_particles >= 1"):
            ELBO(num_particles=0)
        with pytest.raises(UsageError, match="schedule"):
            ELBO(beta=Constant())(make().model, make().guide, binary())

    def test_data_outside_the_support(self):
        with pytest.raises(DataError, match=r"train data: .* outside the support of Bernoulli .* binarise"):
            fit(make(), torch.rand(10, 8, 8), progress=False)
        with pytest.raises(DataError, match="valid data"):
            fit(make(), Dataset("x", torch.ones(10, 8, 8), valid=torch.rand(10, 8, 8)), progress=False)

    def test_a_wrong_program_fails_the_rehearsal(self):
        """A likelihood that is not elementwise is told before training, by Pyro's validation."""

        class Wrong(Normal):
            def distribution(self, *params):
                return super().distribution(*params).to_event(1)

        with pytest.raises(UsageError, match=r"Wrong.distribution must be elementwise"):
            fit(make(likelihood=Wrong), torch.rand(10, 8, 8), progress=False)

    def test_non_finite_loss_is_not_applied(self):
        """An exploding scale: the error names step, site and last finite loss, and the weights stay finite."""
        vae = make(likelihood=partial(Normal, scale="per_element", min_scale=0.0))
        message = r"not finite at epoch \d+, step \d+ of 1 \(.*\); it was not applied. The last finite loss was -?\d"
        with pytest.raises(NumericalError, match=message):
            fit(vae, torch.rand(10, 8, 8), epochs=500, optimizer=partial(torch.optim.SGD, lr=10.0), progress=False)
        assert weights(vae).isfinite().all()

    def test_culprit_is_named(self):
        class Broken(DiagonalNormal):
            def distribution(self, params):
                return super().distribution(params * math.nan)

        with pytest.raises((NumericalError, UsageError), match=r"'z' of the guide|first batch fails"):
            fit(make(guide=Broken), binary(), epochs=1, progress=False)


class TestResume:
    """Runs that stop and go on."""

    def settings(self):
        return {
            "epochs": 6,
            "batch_size": 200,
            "progress": False,
            "save_every": 0.0,
            "start_at_mean": True,
            "log_every": 2,
        }

    def reference(self):
        vae, data = make(), load_data("digits", binarize="dynamic")
        history = fit(vae, data, ELBO(beta=Linear(0, 1, epochs=3)), lr_schedule=Cosine(), **self.settings())
        return weights(vae), history

    def test_stopped_by_a_signal_and_resumed_is_bit_identical(self, tmp_path):
        expected, reference = self.reference()
        data = load_data("digits", binarize="dynamic")
        for seed, end in enumerate((signal.SIGTERM, signal.SIGINT, signal.SIGTERM, None)):
            vae = make(seed)  # other first weights each time: the run's own must win
            parts = ELBO(beta=Linear(0, 1, epochs=3)), {"lr_schedule": Cosine(), "run": tmp_path / "run"}
            with signals_at({11: end}), pytest.raises(Stopped) if end else nullcontext() as stop:
                history = fit(vae, data, parts[0], **parts[1], **self.settings())
            assert end is None or stop.value.exit_code == 128 + end
        assert torch.equal(weights(vae), expected)
        without_time = [{k: v for k, v in row.items() if k != "seconds"} for row in history.rows]
        assert without_time == [{k: v for k, v in row.items() if k != "seconds"} for row in reference.rows]

    def test_other_data_are_refused(self, tmp_path):
        fit(make(), binary(40), epochs=1, run=tmp_path / "run", progress=False)
        with pytest.raises(CheckpointError, match="trained on other data"):
            fit(make(), binary(41), epochs=1, run=tmp_path / "run", progress=False)

    def test_a_finished_run_is_not_trained_again(self, tmp_path):
        vae, data = make(), load_data("digits", binarize="dynamic")
        first = fit(vae, data, run=tmp_path / "run", **self.settings())
        twin = make(5)
        again = fit(twin, data, run=tmp_path / "run", **self.settings())
        assert torch.equal(weights(vae), weights(twin)) and len(again.rows) == len(first.rows)
        assert again.best_epoch == first.best_epoch
