"""log p(x) by graphs: the same draws and numbers to rounding, and the programs themselves where there is no graph."""

import gc
import logging
import weakref
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae.autoencoders import VAE
from pyro_vae.compiling.memory import forgetting, recall, remembering
from pyro_vae.data import load_data
from pyro_vae.distributions.mixture import Mixture
from pyro_vae.errors import UsageError
from pyro_vae.evidence import importance_sampling as evidence_module
from pyro_vae.evidence import log_marginal
from pyro_vae.guides import DiagonalNormal, FullNormal, LowRankNormal
from pyro_vae.inference import pairs as tiles
from pyro_vae.inference.pairs import EagerPair, recorded
from pyro_vae.inference.programs import evaluation_mode
from pyro_vae.inference.tiles import log_weights
from pyro_vae.inference.weighing import weigh
from pyro_vae.likelihoods import Normal
from pyro_vae.messages import log_once
from pyro_vae.networks import MLP
from pyro_vae.objectives import ELBO
from pyro_vae.priors import VampPrior
from pyro_vae.process.seeding import seeded
from pyro_vae.training.steps import Batch, GraphStep, Loss

SMALL = partial(MLP, hidden=(16,))
PARTS = [{}, {"guide": FullNormal}, {"likelihood": partial(Normal, scale="learned")}]
COMPONENTS = 20
VAMP = partial(VampPrior, components=COMPONENTS)
COLUMNS = ("log_p", "standard_error", "ess", "pareto_k", "elbo")


def make(**parts):
    with seeded(0, "init"):
        return VAE((8, 8), 3, **{"encoder": SMALL, "decoder": SMALL, **parts})


def deep():
    """With a decoder of two layers: what is compiled for one test is in torch's cache for the other."""
    return make(decoder=partial(MLP, hidden=(64, 64)))


def binary(n):
    return load_data("digits", binarize="dynamic").split("test")[:n]


@pytest.fixture(autouse=True)
def _forget_what_was_logged():
    log_once.cache_clear()


def graphs(monkeypatch):
    """Record, and run the graphs as they are: no compiler, and any part's graph in little time."""
    monkeypatch.setattr(tiles, "_compiled", lambda pair, data: recorded(pair, data, compile=False))


@pytest.mark.parametrize(
    "parts", [{}, {"guide": FullNormal}, {"likelihood": partial(Normal, scale="learned")}], ids=str
)
@pytest.mark.parametrize(("num", "num_particles"), [(7, 300), (120, 130)])
def test_graphs_agree_with_the_programs(monkeypatch, parts, num, num_particles):
    """Whole and left-over blocks and tiles; the estimate's every column."""
    graphs(monkeypatch)
    vae, x = make(**parts), binary(num)
    a, b = (log_marginal(vae.model, vae.guide, x, num_particles=num_particles, compile=c) for c in (True, False))
    for name in COLUMNS:
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-3, atol=1e-4)


def test_compiled_agrees_with_the_programs():
    vae, x = deep(), binary(60)
    a, b = (log_marginal(vae.model, vae.guide, x, num_particles=300, compile=c) for c in (True, False))
    for name in COLUMNS:
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("compile", [False, True])
def test_within_a_thousandth_of_a_nat_of_double_precision(compile):
    """The same draws, weighed in float32 and in float64; 250 draws of every datum."""
    vae = deep()
    with torch.no_grad():
        for p in vae.decoder.parameters():
            p.mul_(3)
    x, programs = binary(50), EagerPair(vae.model, vae.guide, 4096)
    with evaluation_mode(vae.model, vae.guide):
        pair = recorded(programs, [x], compile=True) if compile else programs
        with seeded(1):
            latents, log_guide = pair.draw([x])
        got = pair.log_joint(latents, [x]).double()
        exact = sum(weigh(vae.double().model, {"z": latents["z"].double()}, x.double()))
        estimates = [torch.logsumexp(w - log_guide, 0) for w in (got, exact)]
    assert (estimates[0] - estimates[1]).abs().max() < 1e-3


def test_masks_are_data(monkeypatch):
    graphs(monkeypatch)
    vae, x = make(), binary(60)
    mask = torch.rand(60, 8, 8) < 0.5
    a, b = (log_marginal(vae.model, vae.guide, x, mask, num_particles=300, compile=c) for c in (True, False))
    torch.testing.assert_close(a.log_p, b.log_p, rtol=1e-5, atol=1e-4)


def test_weights_are_read_when_called(monkeypatch):
    """Nothing of an earlier estimate is kept: a VAE that has been trained on gives another."""
    graphs(monkeypatch)
    vae, x = make(), binary(50)
    before = log_marginal(vae.model, vae.guide, x, num_particles=250, compile=True).mean
    with torch.no_grad():
        vae.decoder.output.bias.add_(1.0)
    after = [log_marginal(vae.model, vae.guide, x, num_particles=250, compile=c).mean for c in (True, False)]
    assert after[0] == pytest.approx(after[1]) and abs(after[0] - before) > 1


class TestKeptGraphs:
    """A second estimate takes the graphs of the first, unless they are not the programs' any more."""

    @pytest.fixture(autouse=True)
    def _counted(self, monkeypatch):
        self.records, record = [], tiles.recorded
        monkeypatch.setattr(
            tiles, "recorded", lambda pair, data, compile: self.records.append(1) or record(pair, data, compile=False)
        )

    def estimate(self, vae, num=60, **options):
        x = binary(num)
        return log_marginal(vae.model, vae.guide, x, num_particles=250, compile=True, **options).log_p

    def assert_right(self, vae):
        x = binary(60)
        expected = log_marginal(vae.model, vae.guide, x, num_particles=250, compile=False).log_p
        torch.testing.assert_close(self.estimate(vae), expected, rtol=1e-5, atol=1e-3)

    def test_are_used_again(self):
        vae = make()
        first = self.estimate(vae)
        assert torch.equal(self.estimate(vae), first) and len(self.records) == 1

    @pytest.mark.usefixtures("bfloat16")
    def test_each_shape_and_precision_has_its_own(self):
        vae = make()
        for options in ({}, {"num": 30}, {"precision": "bf16"}, {"max_rows": 100}) * 2:
            self.estimate(vae, **options)
        assert len(self.records) == 4

    def test_read_the_weights_anew(self):
        vae = make()
        self.estimate(vae)
        with torch.no_grad():
            vae.decoder.output.bias.add_(1.0)
        self.assert_right(vae)
        assert len(self.records) == 1

    @pytest.mark.parametrize("part", ["decoder", "encoder"])
    def test_are_replaced_where_a_network_is(self, part):
        vae = make()
        self.estimate(vae)
        setattr(vae, part, getattr(make(), part))
        with torch.no_grad():
            next(getattr(vae, part).parameters()).mul_(-2)
        self.assert_right(vae)
        assert len(self.records) == 2

    def test_are_replaced_where_a_plain_value_changes(self):
        """No tensor is another: only running the programs can tell."""
        vae = make(likelihood=partial(Normal, scale="learned"))
        self.estimate(vae)
        vae.likelihood.min_scale = 0.5
        self.assert_right(vae)
        assert len(self.records) == 2

    def test_go_with_the_model(self):
        vae = make()
        self.estimate(vae)
        gone = weakref.ref(vae)
        del vae
        gc.collect()
        assert gone() is None


class TestWhatIsRemembered:
    """A VampPrior encodes its pseudo-inputs once an estimate, at the weights of the moment."""

    @pytest.fixture(autouse=True)
    def _recorded(self, monkeypatch):
        record = tiles.recorded
        monkeypatch.setattr(tiles, "recorded", lambda pair, data, compile: record(pair, data, compile=False))

    @pytest.fixture(params=[DiagonalNormal, FullNormal], ids=lambda guide: guide.__name__)
    def vae(self, request):
        vae = make(prior=VAMP, guide=request.param)
        vae.start_prior(binary(COMPONENTS).float())
        return vae

    def estimate(self, vae, compile, **options):
        return log_marginal(vae.model, vae.guide, binary(60), num_particles=300, compile=compile, **options)

    def test_one_pass_of_the_encoder(self, vae):
        seen = []
        vae.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0]) == COMPONENTS))
        self.estimate(vae, compile=False, max_rows=500)
        assert sum(seen) == 1 and len(seen) == 1 + 1 + 2 * 2  # and one for the structure, one a tile for the guide

    def test_the_same_numbers_as_without(self, vae, monkeypatch):
        found = self.estimate(vae, compile=False)
        monkeypatch.setattr(evidence_module, "remembering", forgetting)
        expected = self.estimate(vae, compile=False)
        assert all(torch.equal(getattr(found, name), getattr(expected, name)) for name in COLUMNS)

    def test_graphs_take_it_as_an_input(self, vae):
        """The model's graph uses no weight of encoder or prior, and the estimate is that of the programs."""
        compiled, eager = (self.estimate(vae, compile=compile) for compile in (True, False))
        torch.testing.assert_close(compiled.log_p, eager.log_p, rtol=1e-5, atol=1e-3)
        (graphs,) = tiles.GRAPHS.of(vae).values()
        weights = zip(vae.named_parameters(), graphs.weigh.run.graph.nodes, strict=False)
        used = {name for (name, _), placeholder in weights if placeholder.users}
        assert used == {name for name, _ in vae.named_parameters() if name.startswith("decoder")}

    @pytest.mark.parametrize("change", ["pseudo_inputs", "encoder"])
    def test_never_stale(self, vae, change):
        """Weights moved in place, between two estimates by the same graphs."""
        before = self.estimate(vae, compile=True)
        with torch.no_grad():
            weights = vae.prior.pseudo_inputs if change == "pseudo_inputs" else vae.encoder.hidden[0].bias
            weights.sub_(0.5)
        after, expected = (self.estimate(vae, compile=compile) for compile in (True, False))
        assert (after.log_p - before.log_p).abs().max() > 0.01 and len(tiles.GRAPHS.of(vae)) == 1
        torch.testing.assert_close(after.log_p, expected.log_p, rtol=1e-5, atol=1e-3)

    @pytest.mark.usefixtures("bfloat16")
    def test_each_precision_its_own(self, vae):
        fast, full = self.estimate(vae, False, precision="bf16"), self.estimate(vae, False)
        assert fast.shift == pytest.approx((fast.log_p - full.log_p)[:50].mean().item(), abs=1e-9) and fast.shift != 0

    def test_training_goes_on(self, vae):
        """Nothing is remembered after an estimate, nor where it is recorded for training."""
        self.estimate(vae, compile=False)
        ELBO()(vae.model, vae.guide, binary(5)).backward()
        assert vae.prior.pseudo_inputs.grad.abs().sum() > 0
        with remembering(), evaluation_mode(vae.model):
            vae.model(binary(5))
            assert recall(vae.prior) is not None
            loss = Loss(vae, ELBO(), lambda batch: batch, lambda size: 0.0)
            with torch.enable_grad():
                _, parameters = GraphStep(loss, full=0)._record(Batch(binary(5)), [])
        assert any(parameter is vae.prior.pseudo_inputs for parameter in parameters)

    def test_other_guides_are_as_before(self):
        """Of a mixture whose components are no normals nothing is kept."""
        vae = make(prior=VAMP, guide=LowRankNormal)
        with remembering() as memory, evaluation_mode(vae.model):
            vae.model(binary(5))
        assert not memory
        compiled, eager = (self.estimate(vae, compile=compile) for compile in (True, False))
        torch.testing.assert_close(compiled.log_p, eager.log_p, rtol=1e-5, atol=1e-3)

    def test_the_kept_mixture_is_whole(self, vae):
        """Draws and moments too, should a program ask for them."""
        with torch.no_grad():
            mixture = vae.prior(vae.amortize)
            again = Mixture.of_normals(*mixture.as_normals())
            z = torch.randn(7, 3)
            assert torch.equal(mixture.log_prob(z), again.log_prob(z))
            for name in ("mean", "variance"):
                torch.testing.assert_close(getattr(mixture, name), getattr(again, name))
            with seeded(1):
                first = mixture.sample((4,))
            with seeded(1):
                assert torch.equal(again.sample((4,)), first)


def test_programs_that_are_plain_functions(monkeypatch):
    graphs(monkeypatch)
    decoder = nn.Linear(2, 4)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))

    x = torch.randn(60, 4)
    a, b = (log_marginal(model, guide, x, num_particles=300, compile=c) for c in (True, False))
    torch.testing.assert_close(a.log_p, b.log_p, rtol=1e-5, atol=1e-4)


def test_what_cannot_be_recorded_runs_as_it_is(caplog):
    class Reading(VAE):
        def model(self, x, mask=None):
            assert x.sum().item() > 0
            return super().model(x, mask)

    vae, x = Reading((8, 8), 3, encoder=SMALL, decoder=SMALL), binary(50)
    with caplog.at_level(logging.WARNING):
        a = log_marginal(vae.model, vae.guide, x, num_particles=250, compile=True)
    assert "estimated eagerly, not compiled" in caplog.text
    assert torch.equal(a.log_p, log_marginal(vae.model, vae.guide, x, num_particles=250, compile=False).log_p)


def test_auto_compiles_only_much_work(monkeypatch):
    vae, seen = make(), []
    monkeypatch.setattr(evidence_module, "make_pair", lambda pair, data, compile: seen.append(compile) or pair)
    log_marginal(vae.model, vae.guide, binary(5), num_particles=100)
    monkeypatch.setattr(evidence_module, "_MUCH_WORK", 1e3)
    log_marginal(vae.model, vae.guide, binary(5), num_particles=100)
    assert seen == [False, True]


def test_pieces_fit_the_cache_and_the_limit():
    def rows(shape, max_rows=4096):
        return tiles._particles_of_graph([torch.zeros(50, *shape)], max_rows)

    assert rows((28, 28)) == 10 and rows((8, 8)) == 50 and rows((256, 256)) == 1
    assert rows((28, 28), max_rows=500) == 10 and rows((28, 28), max_rows=1) == 1
    assert all(tiles.TILE_PARTICLES % rows((n,)) == 0 for n in range(1, 3000, 37))


def test_memory_does_not_grow_with_particles():
    """The largest tensor made is that of one piece, whatever K is."""
    vae, x, largest = make(), binary(50), []
    vae.decoder.register_forward_hook(lambda _m, _x, out: largest.append(out.numel()))
    programs = EagerPair(vae.model, vae.guide, 4096)
    for num_particles in (500, 2000):
        largest.clear()
        with torch.no_grad():
            for tile in log_weights(programs, [x], 0, num_particles, seed=0):
                assert tile.shape == (250, 50)
        assert max(largest) <= 4096 * 64


class TestFastEstimate:
    """bfloat16 products: opt-in, told in the result, with its shift."""

    @pytest.mark.usefixtures("bfloat16")
    def test_says_so(self):
        vae, x = make(), binary(60)
        fast = log_marginal(vae.model, vae.guide, x, num_particles=300, precision="bf16")
        full = log_marginal(vae.model, vae.guide, x, num_particles=300)
        assert fast.precision == "bf16" and "FAST ESTIMATE in bf16, shift" in repr(fast)
        assert fast.summary()["fast_estimate"] == "bf16"
        assert fast.shift == pytest.approx((fast.log_p - full.log_p)[:50].mean().item(), abs=1e-9)
        assert fast.shift != 0 and abs(fast.shift) < 0.5
        assert full.shift is None and "FAST" not in repr(full) and "fast_estimate" not in full.summary()

    def test_refuses_another(self):
        vae = make()
        with pytest.raises(UsageError, match="'float32' or 'bf16', got 'half'"):
            log_marginal(vae.model, vae.guide, binary(2), num_particles=10, precision="half")
