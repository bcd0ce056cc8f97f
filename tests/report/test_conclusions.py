"""Which part of a VAE costs most: planted weaknesses are found, proposed a change, and gain by it."""

import shlex
from functools import partial
from math import nan

import numpy as np
import pytest
import torch

from pyro_vae.autoencoders import VAE
from pyro_vae.data import Dataset, load_data
from pyro_vae.guides import DiagonalNormal, FullNormal, InverseAutoregressiveFlow, LowRankNormal
from pyro_vae.guides import MixtureOfNormals as MixtureGuide
from pyro_vae.likelihoods import Normal
from pyro_vae.networks import MLP, Bayesian, ConvNet
from pyro_vae.priors import FlowPrior, MixtureOfNormals, StandardNormal, VampPrior
from pyro_vae.process.seeding import seeded
from pyro_vae.report.conclusions import conclusions
from pyro_vae.report.costs import Cost, costs
from pyro_vae.report.proposals import Refit, Retrain
from pyro_vae.report.retraining import Training, retrained
from pyro_vae.report.sections import diagnose
from pyro_vae.report.subject import Given, Sizes, Subject
from pyro_vae.report.trials import trials
from pyro_vae.runs.describing import describe
from pyro_vae.runs.loading import load, read_config
from pyro_vae.training import fit, refit_guide
from pyro_vae.training.refit import with_held_out
from tests.cli.test_cli import call

FAST = partial(torch.optim.Adam, lr=0.01)


def subject_of(vae, data, held_out, num_gaps=60):
    return Subject(vae, Given(held_out), Given(data.train), Sizes(num_particles=500, num_gaps=num_gaps))


def found_costs(subject, training=None):
    found = diagnose(subject, ["gaps", "latents"])
    return costs(subject.vae, {name: finding.numbers for name, finding in found.items()}, training)


def trained_on(data, **config):
    """How a run was trained whose config has only some entries."""

    def load(valid_size):
        held_out = with_held_out(data)
        assert valid_size in (None, len(held_out.valid))
        return held_out

    config = {"epochs": 1000, "objective": None, "seed": 0, **config}
    return Training(config, load, data.valid is not None, len(data.train))


def curved(n, seed):
    """Data on a curve: their codes are no linear function of them."""
    generator = torch.Generator().manual_seed(seed)
    t = 3 * torch.rand(n, 1, generator=generator) - 1.5
    mean = torch.cat([2 * torch.sin(2 * t), 2 * torch.cos(2 * t), t], 1)
    return mean + 0.2 * torch.randn(n, 3, generator=generator)


@pytest.mark.slow
class TestPlanted:
    """Each weakness comes first of all costs, and its proposal gains beyond 2 standard errors."""

    def test_a_tiny_encoder(self):
        train, valid, test = (curved(n, seed) for n, seed in ((600, 0), (200, 1), (200, 2)))
        data = Dataset("curve", train, valid)
        network = partial(MLP, hidden=(64,), activation="tanh")
        vae = VAE((3,), 1, likelihood=partial(Normal, scale=0.2), encoder=network, decoder=network)
        fit(vae, data, epochs=60, optimizer=FAST, progress=False)
        tiny = refit_guide(vae, data, encoder=partial(MLP, hidden=(1,), activation="tanh"), epochs=20, progress=False)
        subject = subject_of(tiny, data, test)
        known = found_costs(subject)
        assert known[0].what == "encoder" and known[0].is_certain and known[0].nats > 0.5
        assert known[0].proposal.parts["encoder"].keywords == {"hidden": (200,), "activation": "tanh"}
        first = trials(subject, known, 20, trained_on(data), progress=False)[0]
        assert first.cost is known[0] and first.gain.verdict == "better" and first.gain.gain > 0.3

    def test_one_normal_for_codes_in_clusters(self):
        generator = torch.Generator().manual_seed(0)
        centres = 12 * torch.randn(8, 2, generator=generator)
        x = centres[torch.arange(1000) % 8] + torch.randn(1000, 2, generator=generator)
        data, test = Dataset("clusters", x[:600], x[600:800]), x[800:]
        affine = partial(MLP, hidden=())
        prior = partial(MixtureOfNormals, components=1)
        vae = VAE((2,), 2, likelihood=Normal, guide=FullNormal, prior=prior, encoder=affine, decoder=affine)
        fit(vae, data, epochs=100, optimizer=partial(torch.optim.Adam, lr=0.05), progress=False)
        subject = subject_of(vae, data, test)
        known = found_costs(subject)
        assert known[0].what == "prior" and known[0].nats > 0.3
        assert known[0].proposal.parts["prior"].keywords == {"components": 50}
        first = trials(subject, known, 100, trained_on(data), progress=False)[0]
        assert first.gain.verdict == "better" and first.gain.gain > 0.3

    def test_an_encoder_that_knows_its_training_data_by_heart(self):
        few, train, valid, test = (curved(n, seed) for n, seed in ((15, 0), (600, 0), (200, 1), (600, 2)))
        network = partial(MLP, hidden=(64,), activation="tanh")
        vae = VAE((3,), 1, likelihood=partial(Normal, scale=0.2), encoder=network, decoder=network)
        fit(vae, Dataset("curve", train, valid), epochs=60, optimizer=FAST, progress=False)
        large = {"encoder": partial(MLP, hidden=(200, 200)), "optimizer": FAST, "progress": False}
        over = refit_guide(vae, Dataset("curve", few, few), epochs=1500, **large)
        data = Dataset("curve", few, valid)
        subject = subject_of(over, data, test, num_gaps=400)
        known = found_costs(subject)
        assert known[0].what == "encoder (over-fitting)" and known[0].is_certain
        assert known[0].proposal.parts["encoder"].keywords == {"hidden": (200, 200), "dropout": 0.2}
        first = trials(subject, known, 1500, trained_on(data, epochs=1500), progress=False)[0]
        assert first.gain.verdict == "better"


def digits(n):
    data = load_data("digits", binarize="threshold")
    return Dataset("digits", data.split("train")[:n], data.split("valid")), data.split("test")


@pytest.mark.slow
class TestPlantedInTheModel:
    """Of log p(x): what is trained again gains beyond 2 standard errors."""

    def test_a_model_that_knows_its_training_data_by_heart(self):
        """A wide decoder, 200 training data, 500 epochs, the last weights: stopping early gains most."""
        data, test = digits(200)
        wide = {"encoder": partial(MLP, hidden=(64,)), "decoder": partial(MLP, hidden=(400,))}
        how = {"batch_size": 50, "optimizer": partial(torch.optim.Adam, lr=2e-3), "keep": "last"}
        with seeded(0, "init"):
            vae = VAE((8, 8), 4, **wide)
        fit(vae, data, epochs=500, progress=False, **how)
        config = {name: describe(value) for name, value in how.items()}
        training, subject = trained_on(data, epochs=500, **config), subject_of(vae, data, test)
        known = found_costs(subject, training)
        assert known[0].what == "over-fitting of the model" and known[0].nats > 2
        first = trials(subject, known, 200, training, progress=False)[0]
        assert first.cost is known[0] and first.measure == "log p(x)" and first.over == "this run of 500 epochs"
        assert first.verdict == "better" and first.gain.gain > 0.3
        assert "Of what was tried, the change of the over-fitting" in conclusions(known, "r", [first]).section.text

    def test_a_decoder_that_is_too_narrow(self):
        """Compared with the same model trained as long: 40 epochs say nothing of the run of 100."""
        data, test = digits(1397)
        narrow = {"encoder": partial(MLP, hidden=(64,)), "decoder": partial(MLP, hidden=(2,))}
        how = {"optimizer": partial(torch.optim.Adam, lr=2e-3)}
        with seeded(0, "init"):
            vae = VAE((8, 8), 4, **narrow)
        fit(vae, data, epochs=100, progress=False, **how)
        training = trained_on(data, epochs=100, **{name: describe(value) for name, value in how.items()})
        subject = subject_of(vae, data, test)
        known = found_costs(subject, training)
        decoder = [cost for cost in known if cost.what == "decoder"]
        assert decoder == known[1:2] and decoder[0].is_open
        found = trials(subject, decoder, 40, training, progress=False)[0]
        assert found.over == "the same model trained for 40 epochs"
        assert found.verdict == "better" and found.gain.gain > 1


class TestProposals:
    def numbers(self, **costs):
        parts = {"mean": 0.1, "standard_error_data": 0.01}
        gaps = {name: {**parts, "mean": value} for name, value in costs.items() if name != "prior"}
        return {"gaps": {"held-out": {"approximation": parts, "amortisation": parts, **gaps}}}

    @pytest.mark.parametrize(
        ("guide", "latent", "wider"),
        [
            (DiagonalNormal, 20, FullNormal),
            (DiagonalNormal, 60, LowRankNormal),
            (FullNormal, 4, InverseAutoregressiveFlow),
            (InverseAutoregressiveFlow, 4, None),
            (MixtureGuide, 4, None),
        ],
    )
    def test_the_next_family(self, guide, latent, wider):
        first = costs(VAE((4,), latent, guide=guide), self.numbers(approximation=1.0))[0]
        assert first.what == "family of the guide"
        assert (None if first.proposal is None else first.proposal.parts["guide"]) is wider

    @pytest.mark.parametrize(
        ("encoder", "wider"),
        [
            (MLP, {"hidden": (1000,)}),
            (partial(MLP, hidden=(7, 300)), {"hidden": (200, 600)}),
            (partial(ConvNet, channels=(4, 8), hidden=(16,)), {"channels": (8, 16), "hidden": (200,)}),
        ],
    )
    def test_a_wider_encoder(self, encoder, wider):
        first = costs(VAE((8, 8), 2, encoder=encoder), self.numbers(amortisation=1.0))[0]
        made = first.proposal.parts["encoder"]
        assert first.what == "encoder" and {name: made.keywords[name] for name in wider} == wider

    @pytest.mark.parametrize(
        ("prior", "richer"),
        [
            (StandardNormal, MixtureOfNormals),
            (partial(MixtureOfNormals, components=50), FlowPrior),
            (FlowPrior, None),
            (partial(VampPrior, components=3), None),
        ],
    )
    def test_a_richer_prior(self, prior, richer):
        term = {"mean": 3.0, "standard_error_data": 0.1}
        surgery = {"marginal_kl": term, "kl": term, "information_upper": term, "saturated": False}
        (first,) = costs(VAE((4,), 2, prior=prior), {"latents": {"surgery": surgery}})
        found = None if first.proposal is None else first.proposal.parts["prior"]
        assert first.what == "prior" and getattr(found, "func", found) is richer

    def test_few_data_say_little_of_the_prior(self):
        """If the information is at its maximum log N, what counts is what is certain."""
        kl, high = ({"mean": value, "standard_error_data": 0.1} for value in (20.0, 19.5))
        surgery = {"marginal_kl": {**kl, "mean": 14.0}, "kl": kl, "information_upper": high, "saturated": True}
        (first,) = costs(VAE((4,), 2), {"latents": {"surgery": surgery}})
        assert first.nats == 0.5 and "between 0.500 and 14.000" in first.meaning

    def test_order(self):
        """The largest first; those within their errors last."""
        vae, numbers = VAE((4,), 2), self.numbers(approximation=0.3, amortisation=0.5)
        numbers["gaps"]["held_out_less_train"] = {
            "amortisation": {"mean": 0.0, "standard_error": 0.1},
            "log_p": {"mean": -9.0, "standard_error": 8.0},
        }
        found = costs(vae, numbers)
        names = ["encoder", "decoder", "family of the guide", "over-fitting of the model"]
        assert [cost.what for cost in found] == names and [cost.is_open for cost in found] == [0, 1, 0, 0]
        assert [cost.is_certain for cost in found] == [True, False, True, False]
        numbers["gaps"]["held_out_less_train"]["log_p"]["standard_error"] = 1.0
        assert [cost.what for cost in costs(vae, numbers)] == [names[3], names[0], names[2]]

    def test_commands_are_those_of_refit(self):
        vae = VAE((8, 8), 2, encoder=partial(MLP, hidden=(7,), activation="tanh"))
        finding = conclusions(costs(vae, self.numbers(amortisation=1.0)), "runs/a")
        first = finding.numbers["costs"][0]["command"]
        assert first == (
            "pyro-vae refit runs/a --encoder MLP --encoder.hidden '[200]' --encoder.activation tanh "
            "--optimizer.lr 0.002 --out runs/a-encoder"
        )
        assert call(*shlex.split(first)[1:]).code == 4  # understood; and there is no such run

    @pytest.mark.parametrize(
        ("vae", "what"),
        [
            (VAE((4,), 2, prior=partial(VampPrior, components=3)), ("family of the guide", "encoder")),
            (VAE((4,), 2, context=(3,)), ("prior",)),
        ],
        ids=["a prior made of the encoder", "codes that depend on a context"],
    )
    def test_nothing_is_proposed_that_refit_would_refuse(self, vae, what):
        term = {"mean": 3.0, "standard_error_data": 0.1}
        numbers = {"latents": {"surgery": dict.fromkeys(("marginal_kl", "kl", "information_upper"), term)}}
        numbers["latents"]["surgery"]["saturated"] = False
        found = {cost.what: cost for cost in costs(vae, {**numbers, **self.numbers()})}
        assert {"family of the guide", "encoder", "prior"} <= set(found)
        assert all(found[name].proposal is None and found[name].advice for name in what)

    @pytest.mark.parametrize(("nats", "said"), [(0.3, "encoder costs most: 0.30 nats"), (0.04, "as much as 0.1 nats")])
    def test_a_small_cost_is_no_alarm(self, nats, said):
        """A gap of some hundredths of a nat is certain in any trained VAE, and not worth another training."""
        text = conclusions(costs(VAE((4,), 2), self.numbers(approximation=0.02, amortisation=nats)), "r").section.text
        assert said in text and ("wider" in text) == (nats > 0.1)

    @pytest.mark.parametrize("nats", [0.3, 0.04])
    def test_what_may_cost_more_is_named(self, nats):
        """A large cost within its error is neither denied nor ranked."""
        numbers = self.numbers(approximation=0.02, amortisation=nats)
        numbers["gaps"]["held_out_less_train"] = {"log_p": {"mean": -1.8, "standard_error": 1.6}}
        text = conclusions(costs(VAE((4,), 2), numbers), "r").section.text
        assert text.endswith("would tell of the over-fitting of the model, 1.800 (se 1.600).")
        assert "No part is known to cost as much as 0.1 nats" in text or nats == 0.3

    def test_nothing_measured(self):
        finding = conclusions(costs(VAE((4,), 2), {}), "run")
        assert "Nothing was measured" in finding.section.text and finding.numbers == {"costs": [], "tried": []}


# ---- the whole model trained again -----------------------------------------------------------------------------------

SMALL = {"encoder": partial(MLP, hidden=(8,)), "decoder": partial(MLP, hidden=(8,))}
OVER = {"log_p": {"mean": -2.0, "standard_error": 0.1}}


def measured(**differences):
    term = {"mean": 0.1, "standard_error_data": 0.01}
    return {"gaps": {"held-out": {"approximation": term, "amortisation": term}, "held_out_less_train": differences}}


class TestWhole:
    @pytest.mark.parametrize(
        ("config", "valid", "settings", "valid_size"),
        [
            ({"keep": "last"}, True, {"keep": "best"}, None),
            ({"keep": "best"}, False, {"keep": "best"}, 6),
            ({"keep": "best"}, True, {"weight_prior": 1.0}, None),
            ({"keep": "best", "weight_prior": 1.0}, True, None, None),
            ({"keep": "last", "refit": {}}, True, None, None),
            ({"keep": "last", "start_from": "a"}, True, None, None),
        ],
    )
    def test_less_fit(self, config, valid, settings, valid_size):
        """Early stopping if the run did not stop early; nothing if its config alone does not say how it was made."""
        x = torch.zeros(60, 4)
        training = trained_on(Dataset("x", x, x if valid else None), **config)
        first = costs(VAE((4,), 2), measured(**OVER), training)[0]
        assert first.what == "over-fitting of the model" and first.advice
        made = first.proposal
        assert (made and made.settings) == settings and (made and made.valid_size) == valid_size

    def test_no_prior_is_proposed_for_weights_that_have_one(self):
        x = torch.zeros(60, 4)
        vae = VAE((4,), 2, decoder=Bayesian)
        assert costs(vae, measured(**OVER), trained_on(Dataset("x", x, x), keep="best"))[0].proposal is None

    def test_a_wider_decoder_if_the_model_does_not_over_fit(self):
        x = torch.zeros(60, 4)
        numbers = measured(log_p={"mean": -2.0, "standard_error": 1.5})
        found = costs(VAE((4,), 2, **SMALL), numbers, trained_on(Dataset("x", x, x)))
        assert [cost.what for cost in found][1] == "decoder" and found[1].proposal.options == {
            "decoder": {"hidden": (200,)}
        }
        finding = conclusions(found, "r")
        assert finding.numbers["costs"][1]["command"] == (
            "pyro-vae fit --config r/config.yaml --vae.decoder.hidden '[200]' --run r-decoder"
        )
        assert "unknown" in str(finding.section.tables)
        assert costs(VAE((4,), 2, **SMALL), numbers)[1].proposal is None  # nobody knows how it was trained

    @pytest.mark.parametrize("valid", [True, False])
    def test_the_command_trains_what_was_tried(self, tmp_path, valid):
        """To the bit: the same data, weights and noise."""
        x = torch.rand(90, 4, generator=torch.Generator().manual_seed(0)).round()
        given = {"train": x[:60], "test": x[60:], **({"valid": x[60:80]} if valid else {})}
        np.savez(tmp_path / "x.npz", **{name: value.numpy() for name, value in given.items()})
        words = ("--vae.latent_dim 2 --vae.encoder.hidden [8] --vae.decoder.hidden [8] --objective ELBO --keep last",)
        run = tmp_path / "r"
        assert (
            call("fit --data", tmp_path / "x.npz", *words, "--epochs 3 --quiet --pictures false --run", run).code == 0
        )
        config = read_config(run)

        def load_again(valid_size):
            return load_data(config["data"], valid_size=valid_size or 0)

        training = Training(config, load_again, valid, 60)
        for change in (
            costs(load(run), measured(**OVER), training)[0].proposal,
            Retrain("wide", {"decoder": {"hidden": (20,)}}),
        ):
            command = shlex.split(change.command(str(run), epochs=2))
            assert call(*command[1:], "--quiet --pictures false").code == 0
            tried, made = retrained(load(run), training, change, 2, progress=False), load(command[-1])
            assert all(torch.equal(value, made.state_dict()[name]) for name, value in tried.state_dict().items())

    def test_a_trial_that_fails_says_why(self):
        x = torch.zeros(60, 4)
        subject = Subject(VAE((4,), 2, **SMALL), Given(x), sizes=Sizes(num_particles=20))
        refused = Cost("prior", 1.0, 0.1, "", "", Refit({"prior": partial(MixtureOfNormals, components=-1)}))
        diverged = Cost(
            "decoder", nan, nan, "", "", Retrain("wide", settings={"optimizer": partial(torch.optim.SGD, lr=1e30)})
        )
        told = []
        tried = trials(
            subject, [refused, diverged], 2, trained_on(Dataset("x", x, x)), progress=False, tell=told.append
        )
        assert told == tried
        assert [trial.verdict for trial in tried] == ["failed"] * 2 and "components" in tried[0].failed
        assert "finite" in tried[1].failed and tried[1].summary()["failed"] == tried[1].failed
        finding = conclusions([refused, diverged], "r", tried)
        assert "nothing gains" in finding.section.text and not any("command" in c for c in finding.numbers["costs"])
