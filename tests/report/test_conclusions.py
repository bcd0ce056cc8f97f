"""Which part of a VAE costs most: planted weaknesses are found, proposed a change, and gain by it."""

import shlex
from functools import partial

import pytest
import torch

from pyro_vae.autoencoders import VAE
from pyro_vae.data import Dataset
from pyro_vae.guides import DiagonalNormal, FullNormal, InverseAutoregressiveFlow, LowRankNormal
from pyro_vae.guides import MixtureOfNormals as MixtureGuide
from pyro_vae.likelihoods import Normal
from pyro_vae.networks import MLP, ConvNet
from pyro_vae.priors import FlowPrior, MixtureOfNormals, StandardNormal, VampPrior
from pyro_vae.report.conclusions import conclusions, costs
from pyro_vae.report.sections import diagnose
from pyro_vae.report.subject import Given, Sizes, Subject
from pyro_vae.report.trials import trials
from pyro_vae.training import fit, refit_guide
from tests.cli.test_cli import call

FAST = partial(torch.optim.Adam, lr=0.01)


def found_costs(vae, data, held_out, num_gaps=60):
    subject = Subject(vae, Given(held_out), Given(data.train), Sizes(num_particles=500, num_gaps=num_gaps))
    found = diagnose(subject, ["gaps", "latents"])
    return costs(vae, {name: finding.numbers for name, finding in found.items()})


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
        known = found_costs(tiny, data, test)
        assert known[0].what == "encoder" and known[0].is_certain and known[0].nats > 0.5
        assert known[0].proposal.parts["encoder"].keywords == {"hidden": (200,), "activation": "tanh"}
        first = trials(tiny, data, Given(test), known, epochs=20, progress=False)[0]
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
        known = found_costs(vae, data, test)
        assert known[0].what == "prior" and known[0].nats > 0.3
        assert known[0].proposal.parts["prior"].keywords == {"components": 50}
        first = trials(vae, data, Given(test), known, epochs=100, progress=False)[0]
        assert first.gain.verdict == "better" and first.gain.gain > 0.3

    def test_an_encoder_that_knows_its_training_data_by_heart(self):
        few, train, valid, test = (curved(n, seed) for n, seed in ((15, 0), (600, 0), (200, 1), (600, 2)))
        network = partial(MLP, hidden=(64,), activation="tanh")
        vae = VAE((3,), 1, likelihood=partial(Normal, scale=0.2), encoder=network, decoder=network)
        fit(vae, Dataset("curve", train, valid), epochs=60, optimizer=FAST, progress=False)
        large = {"encoder": partial(MLP, hidden=(200, 200)), "optimizer": FAST, "progress": False}
        over = refit_guide(vae, Dataset("curve", few, few), epochs=1500, **large)
        known = found_costs(over, Dataset("curve", few, valid), test, num_gaps=400)
        assert known[0].what == "encoder (over-fitting)" and known[0].is_certain
        assert known[0].proposal.parts["encoder"].keywords == {"hidden": (200, 200), "dropout": 0.2}
        first = trials(over, Dataset("curve", few, valid), Given(test), known, epochs=1500, progress=False)[0]
        assert first.gain.verdict == "better"


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
        assert [cost.what for cost in found] == ["encoder", "family of the guide", "over-fitting of the model"]
        assert [cost.is_certain for cost in found] == [True, True, False]

    def test_commands_are_those_of_refit(self):
        vae = VAE((8, 8), 2, encoder=partial(MLP, hidden=(7,), activation="tanh"))
        finding = conclusions(costs(vae, self.numbers(amortisation=1.0)), "runs/a")
        first = finding.numbers["costs"][0]["command"]
        assert first == (
            "pyro-vae refit runs/a --encoder MLP --encoder.hidden '[200]' --encoder.activation tanh "
            "--optimizer.lr 0.001 --out runs/a-encoder"
        )
        assert call(*shlex.split(first)[1:]).code == 4  # understood; and there is no such run

    def test_nothing_measured(self):
        finding = conclusions(costs(VAE((4,), 2), {}), "run")
        assert "Nothing was measured" in finding.section.text and finding.numbers == {"costs": []}
