"""The epoch that is kept: the best by what was minimised, on validation data."""

import json
import re
import shutil
from dataclasses import dataclass
from functools import partial
from math import log
from pathlib import Path

import pytest
import torch
import yaml
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

from pyro_vae.autoencoders import VAE, VQVAE, SemiSupervisedVAE
from pyro_vae.cli import main
from pyro_vae.data import Dataset, load_data
from pyro_vae.distributed import World
from pyro_vae.errors import CheckpointError, UsageError
from pyro_vae.evidence import bound, has_elbo
from pyro_vae.guides import Delta
from pyro_vae.networks import MLP
from pyro_vae.objectives import (
    ELBO,
    IWAE,
    BetaTC,
    CapacityELBO,
    Denoising,
    DReG,
    FreeBits,
    MonteCarloEM,
    Renyi,
    ReweightedWakeSleep,
    ScoreFunction,
    SemiSupervisedELBO,
    StickingTheLanding,
    VQBound,
    WakeSleep,
)
from pyro_vae.plots import curves
from pyro_vae.process.seeding import seeded
from pyro_vae.runs.loading import load, read_manifest, read_metrics
from pyro_vae.schedules import Cyclical, Linear
from pyro_vae.training.fitting import fit
from pyro_vae.training.pyro_loss import as_objective
from pyro_vae.training.validation import Validation
from tests.support.networks import Dropping

SMALL = partial(MLP, hidden=(8,))


def make(seed=0, **parts):
    with seeded(seed, "init"):
        return VAE((8, 8), 3, **{"encoder": SMALL, "decoder": SMALL, **parts})


def digits(n=120, valid=70):
    data = load_data("digits", binarize="static")
    return Dataset("digits", data.split("train")[:n], data.split("valid")[:valid])


def validation(vae, objective, data=None, epochs=10, batch_size=30):
    data = digits() if data is None else data
    told = as_objective(objective).for_data(len(data.train), data.given("train"))
    return Validation(vae, data, told, epochs, batch_size, 0, World())


def weights(vae):
    return torch.cat([p.detach().reshape(-1) for p in vae.parameters()])


def by_batches(loss, x, size=24):
    """Of 70 data in batches of at most 30: 24, 23 and 23, each with noise of its own."""
    total = 0.0
    for start, rows in ((0, 24), (24, 23), (47, 23)):
        with seeded(0, "validation", start):
            total += torch.as_tensor(loss(x[start : start + rows])).item()
    return total / len(x)


OBJECTIVES = [
    IWAE(3),
    Renyi(),
    DReG(3),
    StickingTheLanding(),
    ScoreFunction(3),
    FreeBits(),
    FreeBits(over="datum", per="total"),
    CapacityELBO(gamma=2.0, capacity=Linear(0, 3)),
    BetaTC(beta=Linear(0, 2)),
    WakeSleep(),
    ReweightedWakeSleep(3, insomnia=Linear(0, 1)),
    Denoising(IWAE(2), amount=Linear(0, 0.4)),
    Denoising(ELBO(beta=Linear(0, 2)), noise="normal"),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_the_value_is_the_objectives_own_at_the_end_of_its_schedules(objective):
    vae = make()
    told = validation(vae, objective)
    final = told.objective.at(10, 10)
    vae.eval()
    x = told.data.split("valid")
    expected = by_batches(lambda rows: final(vae.model, vae.guide, rows), x)
    assert told.measure()["loss"] == pytest.approx(expected, rel=1e-6) == told.measure()["loss"]


def test_every_objective_is_thought_of():
    from pyro_vae import objectives

    named = {getattr(objectives, name) for name in objectives.__all__}
    concrete = {c for c in named if isinstance(c, type) and issubclass(c, objectives.Objective)} - {
        objectives.Objective
    }
    assert concrete == {type(o) for o in OBJECTIVES} | {ELBO, VQBound, SemiSupervisedELBO, MonteCarloEM}


def test_monte_carlo_em_is_judged_by_the_elbo_of_its_guide():
    """Its own value is an upper bound, which a guide that is far from the posterior makes larger."""
    vae = make()
    told = validation(vae, MonteCarloEM())
    vae.eval()
    expected = by_batches(lambda rows: ELBO()(vae.model, vae.guide, rows), told.data.split("valid"))
    assert told.measure()["loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0, Linear(0, 3, epochs=2), Cyclical()])
def test_an_elbo_is_the_sum_of_its_terms(beta):
    vae = make()
    measured = validation(vae, ELBO(beta=beta)).measure()
    final = beta if isinstance(beta, float) else beta(10, 10)
    assert measured["loss"] == pytest.approx(final * measured["kl"] - measured["reconstruction"])


def test_the_weights_of_a_users_subclass_count():
    @dataclass(frozen=True)
    class Doubled(ELBO):
        def __call__(self, model, guide, *args, **kwargs):
            return 2 * super().__call__(model, guide, *args, **kwargs)

    vae = make()
    measured = validation(vae, Doubled()).measure()
    assert measured["loss"] == pytest.approx(-2 * measured["elbo"], rel=0.05)


def test_delta_guides_are_judged_by_what_they_minimise():
    vae = make(guide=Delta)
    x = digits().split("valid")
    with torch.no_grad():
        code = vae.encode(x).mean
        reconstruction, prior = vae.decode(code).log_prob(x).mean(), vae.prior(vae.encode).log_prob(code).mean()
    for beta in (0.0, 1.0, 3.0):
        expected = (-reconstruction - beta * prior).item()
        assert validation(vae, ELBO(beta=beta)).measure()["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_vqvae_is_judged_by_its_bound_and_its_codebook_stays():
    with seeded(0, "init"):
        vae = VQVAE((8, 8), codes=(2,), codebook_size=4, encoder=SMALL, decoder=SMALL)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    told = validation(vae, VQBound())
    assert told.measure()["loss"] == pytest.approx(-told.measure()["elbo"], rel=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())


def test_labels_of_validation_data_count_as_in_training():
    x, y = digits().split("train"), torch.arange(120) % 2
    with seeded(0, "init"):
        vae = SemiSupervisedVAE((8, 8), classes=2, latent_dim=2, encoder=SMALL, decoder=SMALL).eval()
    few = torch.where(torch.arange(120) < 12, y, -1)

    def told(valid_labels):
        inputs = {"y": {"train": few, "valid": valid_labels}}
        return validation(vae, SemiSupervisedELBO(), Dataset("d", x, x[:60], inputs=inputs), batch_size=60)

    hidden, known = told(torch.full((60,), -1)), told(y[:60])
    assert known.objective.alpha == pytest.approx(1.0)  # 0.1 N / N_labelled
    with torch.no_grad():
        classification = -vae.classify(x[:60]).log_prob(y[:60]).mean().item()
    finals = {}
    for name, data in (("hidden", hidden), ("known", known)):
        with seeded(0, "validation", 0), torch.no_grad():
            finals[name] = (
                float(SemiSupervisedELBO(alpha=0.0)(vae.model, vae.guide, x[:60], **data.data.given("valid"))) / 60
            )
    assert hidden.measure()["loss"] == pytest.approx(finals["hidden"], rel=1e-6)
    assert known.measure()["loss"] == pytest.approx(finals["known"] + 0.1 * classification, rel=1e-6)


@pytest.mark.parametrize("loss", [Trace_ELBO(), Trace_ELBO(5), TraceMeanField_ELBO()])
def test_pyros_elbos(loss):
    measured = validation(make(), loss).measure()
    assert measured["loss"] == pytest.approx(-measured["elbo"], rel=0.05)


def test_a_function_is_called_as_it_is_and_its_counters_do_not_move():
    class Annealed:
        calls = 0

        def __call__(self, model, guide, x):
            self.calls += 1
            return 3 * ELBO()(model, guide, x)

    loss = Annealed()
    measured = validation(make(), loss).measure()
    assert measured["loss"] == pytest.approx(-3 * measured["elbo"], rel=0.05) and loss.calls == 0
    assert validation(make(), lambda *args: ELBO()(*args).item()).measure()["loss"] > 0


def test_dropout_is_off_and_the_mode_comes_back():
    vae = make(encoder=Dropping)
    vae.train()
    told = validation(vae, IWAE(2))
    assert told.measure() == told.measure() and vae.training


class TestFit:
    """Which weights a training ends with."""

    def histories(self, objective=None, **others):
        vae = make(guide=Delta) if others.pop("delta", False) else make()
        data = digits()
        rate = partial(torch.optim.Adam, lr=3e-2)
        return vae, data, fit(vae, data, objective, batch_size=30, optimizer=rate, progress=False, **others)

    @pytest.mark.parametrize("objective", [ELBO(), ELBO(beta=6.0), Denoising(ELBO(beta=0)), IWAE(2), Trace_ELBO()])
    def test_the_least_validation_loss_is_kept(self, objective):
        vae, data, history = self.histories(objective, epochs=12, lr_schedule=Linear(1, 20))
        row = min(history.rows, key=lambda row: row["valid_loss"])
        assert history.best_epoch == row["epoch"]
        assert history.kept.startswith(
            f"best: epoch {row['epoch']} by the validation value of {type(objective).__name__}"
        )
        again = validation(vae, objective, data, 12).measure()
        assert again["loss"] == pytest.approx(row["valid_loss"]) and again["elbo"] == pytest.approx(row["valid_elbo"])
        assert bound(vae.model, vae.guide, data.split("valid")).means()["elbo"] == pytest.approx(row["valid_elbo"])

    @pytest.mark.parametrize("delta", [False, True])
    def test_an_autoencoder_is_not_judged_by_an_elbo(self, delta):
        """Without a prior its codes run off: an ELBO falls from early on while the reconstructions rise."""
        _, _, history = self.histories(ELBO(beta=0), epochs=15, delta=delta)
        reconstructions = history.column("valid_reconstruction")
        assert history.best_epoch == 1 + reconstructions.index(max(reconstructions)) > 10
        assert ("valid_elbo" in history.rows[0]) == (not delta)
        if not delta:
            elbos = history.column("valid_elbo")
            assert 1 + elbos.index(max(elbos)) < 10

    def test_last(self):
        kwargs = {"epochs": 6, "lr_schedule": Linear(1, 60)}
        last, _, history = self.histories(keep="last", **kwargs)
        best, _, chosen = self.histories(**kwargs)
        assert history.best_epoch == 6 and history.kept == "last: epoch 6"
        assert chosen.best_epoch < 6 and not torch.equal(weights(last), weights(best))
        assert history.column("valid_loss") == chosen.column("valid_loss")

    def test_best_without_validation_data_is_said_to_be_last(self):
        history = fit(make(), digits().split("train"), epochs=2, progress=False)
        assert history.kept == "last: epoch 2, no validation data to choose by"
        assert "valid_loss" not in history.rows[0]

    def test_patience_goes_by_the_same_value(self):
        _, _, history = self.histories(ELBO(beta=6.0), epochs=60, patience=3, lr_schedule=Linear(1, 100), keep="last")
        losses = history.column("valid_loss")
        assert history.stopped_early and len(losses) - losses.index(min(losses)) == 1 + 3

    def test_patience_needs_validation_data(self):
        with pytest.raises(UsageError, match=r"no validation data: pass a Dataset with valid=.*leave patience out"):
            fit(make(), digits().split("train"), patience=3, progress=False)

    def test_an_unknown_choice(self):
        with pytest.raises(UsageError, match="keep must be 'best' or 'last', got 'first'"):
            fit(make(), digits(), keep="first", progress=False)


class TestRuns:
    """What a run directory keeps, and old ones."""

    def train(self, path, vae=None, **others):
        vae = vae or make()
        options = {"epochs": 6, "batch_size": 30, "lr_schedule": Linear(1, 40), "progress": False, **others}
        return vae, fit(vae, digits(), Denoising(ELBO(beta=2.0)), run=path, **options)

    def test_the_column_and_the_weights(self, tmp_path):
        vae, history = self.train(tmp_path)
        assert [row["valid_loss"] for row in read_metrics(tmp_path)] == history.column("valid_loss")
        assert torch.equal(weights(load(tmp_path)), weights(vae))
        assert read_manifest(tmp_path)["progress"]["best_loss"] == min(history.column("valid_loss"))

    def test_last_is_what_load_gives(self, tmp_path):
        vae, _ = self.train(tmp_path, keep="last")
        assert torch.equal(weights(load(tmp_path)), weights(vae)) and torch.equal(
            weights(load(tmp_path, which="last")), weights(vae)
        )
        with pytest.raises(CheckpointError, match="keep is 'last' there, 'best' here"):
            self.train(tmp_path)

    def make_old(self, path):
        """As versions before `keep` wrote it."""
        config = yaml.safe_load((path / "config.yaml").read_text())
        del config["keep"]
        (path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        rows = (path / "metrics.csv").read_text().splitlines()
        column = rows[0].split(",").index("valid_loss")
        cut = [",".join(word for i, word in enumerate(row.split(",")) if i != column) for row in rows]
        (path / "metrics.csv").write_text("\n".join(cut) + "\n")
        manifest = json.loads((path / "manifest.json").read_text())
        del manifest["progress"]["best_loss"], manifest["progress"]["precision"]
        manifest["progress"]["best_elbo"] = -1e9
        (path / "manifest.json").write_text(json.dumps(manifest))

    def test_an_old_run_goes_on(self, tmp_path, monkeypatch):
        from pyro_vae.errors import Stopped
        from pyro_vae.training import trainer as training

        tick, ticks = training.Trainer.tick, []

        def stopping(trainer):
            ticks.append(0)
            if len(ticks) == 14:  # in the fourth epoch of four steps
                trainer.signals.pending.append(2)
            tick(trainer)

        expected, reference = self.train(None)
        monkeypatch.setattr(training.Trainer, "tick", stopping)
        with pytest.raises(Stopped):
            self.train(tmp_path)
        self.make_old(tmp_path)
        assert torch.isfinite(weights(load(tmp_path))).all()
        vae, history = self.train(tmp_path, make(5))
        assert history.best_epoch == reference.best_epoch and torch.equal(weights(vae), weights(expected))
        assert history.column("valid_loss")[3:] == reference.column("valid_loss")[3:]
        assert all(loss != loss for loss in history.column("valid_loss")[:3])

    def test_an_old_run_whose_patience_was_of_no_effect_goes_on(self, tmp_path):
        """Without validation data patience counted nothing; now it is refused, and the run is resumed without it."""
        options = {"epochs": 3, "batch_size": 50, "progress": False, "run": tmp_path}
        x = (torch.rand(50, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.3).float()
        vae = make()
        fit(vae, x, **options)
        config = yaml.safe_load((tmp_path / "config.yaml").read_text())
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, "patience": 5}, sort_keys=False))
        again = make(5)
        assert fit(again, x, **options).best_epoch == 3 and torch.equal(weights(again), weights(vae))
        with pytest.raises(CheckpointError, match="batch_size is 50 there, 25 here"):
            fit(make(), x, **{**options, "batch_size": 25})


class TestCommand:
    """The same by the command line."""

    def fit(self, capsys, tmp_path, *words):
        code = main(
            ["fit", "--data", "digits", "--pictures", "false", "--quiet", "--run", str(tmp_path / "run"), *words]
        )
        return code, capsys.readouterr()

    SMALL = ("--vae.latent_dim", "2", "--vae.encoder.hidden", "[8]", "--vae.decoder.hidden", "[8]", "--epochs", "3")

    def test_summary_and_keep(self, capsys, tmp_path):
        code, out = self.fit(capsys, tmp_path, *self.SMALL, "--keep", "last", "--json")
        assert code == 0 and json.loads(out.out)["kept"] == "last: epoch 3" and "valid_loss" in json.loads(out.out)
        assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["keep"] == "last"

    def test_patience_in_the_words_of_the_command(self, capsys, tmp_path):
        array = tmp_path / "x.npz"
        import numpy as np

        np.savez(array, train=np.zeros((20, 4), np.float32))
        code, out = self.fit(capsys, tmp_path, *self.SMALL, "--data", str(array), "--patience", "3")
        assert code == 2 and "--patience 3 counts epochs" in out.err and "--valid_size n" in out.err

    @pytest.mark.slow
    def test_the_denoising_recipe_keeps_its_last_epoch(self, capsys, tmp_path):
        recipe = Path(__file__).parents[2] / "examples" / "recipes" / "dae.yaml"
        code, out = self.fit(capsys, tmp_path, "--config", str(recipe), "--epochs", "25", "--json")
        result = json.loads(out.out)
        assert code == 0 and result["best_epoch"] == 25
        assert result["kept"] == "best: epoch 25 by the validation value of Denoising"
        assert result["valid_reconstruction"] > -11


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An autoencoder, its history and its run."""
    run = tmp_path_factory.mktemp("runs") / "delta"
    vae = make(guide=Delta)
    return vae, fit(vae, digits(), epochs=2, run=run, progress=False), run


class TestGuidesWithoutWidth:
    """Their KL is infinite: of the terms of the bound there is the reconstruction alone, everywhere."""

    def test_the_rows_have_no_bound(self, trained):
        _, history, run = trained
        for row in (*history.rows, *read_metrics(run)):
            of_terms = {name for name in row if name.startswith(("train_", "valid_"))}
            assert of_terms == {"train_reconstruction", "valid_reconstruction", "valid_loss"}

    def test_what_is_told(self, trained, capsys):
        fit(make(guide=Delta), digits(), epochs=1)
        told = capsys.readouterr().err
        assert "reconstruction" in told and not re.search(r"elbo|kl", told)

    def test_the_curves_are_of_the_reconstruction(self, trained):
        panels = curves(trained[1].rows).axes
        assert [axes.get_title().split(",")[0] for axes in panels] == ["E[log p(x|z)]"]
        labels = panels[0].get_legend_handles_labels()[1]
        assert any(label.startswith("best ") for label in labels)

    def test_a_run_with_the_columns_of_earlier_versions_goes_on_without(self, trained, tmp_path):
        _, history, run = trained
        shutil.copytree(run, tmp_path / "run")
        add_columns(tmp_path / "run" / "metrics.csv", ("train_elbo", "train_kl", "valid_elbo", "valid_kl"))
        again = fit(make(guide=Delta), digits(), epochs=2, run=tmp_path / "run", progress=False)
        assert again.rows == history.rows

    def test_bounds_of_points(self, trained):
        vae, x = trained[0], digits().split("valid")
        found = bound(vae.model, vae.guide, x)
        assert not found.is_bound and found.means().keys() == {"reconstruction"} and (found.kl == torch.inf).all()
        assert (found.elbo == -torch.inf).all() and not has_elbo(vae.guide, x)
        torch.testing.assert_close(found.reconstruction, vae.decode(vae.encode(x).mean).log_prob(x).double())

    def test_discrete_points_have_one(self):
        vae = VQVAE((8, 8), codes=(2,), codebook_size=4, encoder=SMALL, decoder=SMALL)
        found = bound(vae.model, vae.guide, digits().split("valid"))
        assert found.is_bound and has_elbo(vae.guide, digits().split("valid"))
        torch.testing.assert_close(found.kl, torch.full_like(found.kl, 2 * log(4)))


def add_columns(path, names):
    first, *rows = path.read_text().splitlines()
    lines = [",".join([first, *names]), *(",".join([row, *["0.5"] * len(names)]) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
