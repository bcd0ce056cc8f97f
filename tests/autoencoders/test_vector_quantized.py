"""`VQVAE`: its bound against enumeration, its gradients against hand-written ones, its codebook, its code prior."""

import copy
import itertools
import math
import os
import re
import runpy
import signal
from functools import partial
from pathlib import Path

import pyro
import pytest
import torch
from pyro import poutine
from torch.nn.functional import binary_cross_entropy_with_logits

from pyro_vae import codebook_usage, fit, fit_code_prior, log_marginal, reconstruct, sample
from pyro_vae.autoencoders import VAE, VQVAE
from pyro_vae.data import Dataset, load_data
from pyro_vae.distributed import ShardedNoise, World
from pyro_vae.distributions.code_sequence import CodeSequence
from pyro_vae.errors import DataError, Stopped, UsageError
from pyro_vae.evidence import bound
from pyro_vae.inference.weighing import importance
from pyro_vae.likelihoods import Bernoulli, Normal
from pyro_vae.networks import MLP, ConvNet, Network, ResNet
from pyro_vae.networks.codebook import Quantizer, StraightThrough
from pyro_vae.networks.grid import GridNet
from pyro_vae.objectives import ELBO, IWAE, VQBound, WakeSleep
from pyro_vae.priors import AutoregressiveCodes, CodePrior, UniformCodes, VampPrior
from pyro_vae.process.seeding import seeded
from pyro_vae.runs.describing import describe, resolve
from pyro_vae.schedules import Linear
from pyro_vae.shapes import CodeShapes
from pyro_vae.training.refit import cross_entropy, refit_prior
from pyro_vae.training.steps import Batch, EagerStep, GraphStep, Loss, choose_step

EVENT = (2, 3)
SMALL = partial(MLP, hidden=(7,))
TINY_PRIOR = partial(AutoregressiveCodes, width=8, layers=1, heads=2)
EMA = {"update": "ema", "decay": 0.9}


def make(seed=0, **parts):
    """Four entries at three positions: 64 codes."""
    settings = {"codes": (3,), "codebook_size": 4, "embedding_dim": 2, "encoder": SMALL, "decoder": SMALL}
    with seeded(seed, "init"):
        return VQVAE(EVENT, **{**settings, **parts}).double()


def binary(n=9, seed=1, event=EVENT):
    with seeded(seed, "data"):
        return torch.rand(n, *event, dtype=torch.float64).round()


def randomised(prior, scale=1.0):
    """A code prior that is not uniform."""
    with seeded(5, "prior"), torch.no_grad():
        for p in prior.parameters():
            p.add_(scale * torch.randn_like(p))
    return prior.eval()


def all_codes(shapes):
    every = itertools.product(range(shapes.codebook_size), repeat=shapes.positions)
    return torch.tensor(list(every)).reshape(-1, *shapes.codes)


def exact_log_p(vqvae, x):
    """Log p(x), and log p(x|k) + log p(k) for all codes k, by enumeration."""
    k = all_codes(vqvae.shapes)
    with torch.no_grad():
        joint = vqvae.decode(k).log_prob(x.unsqueeze(1)) + vqvae.prior().log_prob(k)
    return joint.logsumexp(1), joint


def by_brute_force(vectors, entries):
    """Distances one by one, with sums of squares that are exact to rounding; the first of equals."""
    return (vectors.unsqueeze(-2) - entries).square().sum(-1).argmin(-1)


def gradients(value, module):
    found = torch.autograd.grad(value, list(module.parameters()), allow_unused=True)
    return dict(zip(dict(module.named_parameters()), found, strict=True))


class TestNearest:
    def test_against_brute_force(self):
        quantizer = Quantizer(13, 5).double()
        v = torch.randn(4, 50, 5, dtype=torch.float64)
        assert (quantizer.nearest(v) == by_brute_force(v, quantizer.codebook)).all()
        assert (quantizer.nearest(v[0, 0]) == by_brute_force(v[0, 0], quantizer.codebook)).all()

    def test_of_equals_the_first(self):
        quantizer = Quantizer(6, 2)
        entries = torch.tensor([[9.0, 9.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, -1.0]])
        with torch.no_grad():
            quantizer.codebook.copy_(entries)
        v = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, -3.0]])
        assert quantizer.nearest(v).tolist() == by_brute_force(v, entries).tolist() == [1, 1, 5]

    def test_an_entry_is_its_own_nearest_far_from_zero(self):
        """In single precision |e|^2 - 2 v e alone would lose distances of 0.1 at 1000."""
        quantizer = Quantizer(200, 3)
        with torch.no_grad():
            quantizer.codebook.mul_(0.1).add_(1000)
        v = quantizer.codebook.detach()
        assert (quantizer.nearest(v) == torch.arange(200)).all()
        assert ((v.square().sum(-1) - 2 * (v @ v.T)).argmin(-1) != torch.arange(200)).any()


class TestBound:
    @pytest.mark.parametrize("prior", [UniformCodes, TINY_PRIOR], ids=["uniform", "autoregressive"])
    def test_below_log_p_and_equal_to_its_own_term(self, prior):
        vqvae, x = make(prior=prior), binary()
        randomised(vqvae.prior)
        log_p, joint = exact_log_p(vqvae, x)
        got = bound(vqvae.model, vqvae.guide, x)
        k = by_brute_force(vqvae.vectors(x), vqvae.quantizer.codebook)
        own = (k * torch.tensor([16, 4, 1])).sum(-1)
        torch.testing.assert_close(got.elbo, joint.gather(1, own.unsqueeze(1)).squeeze(1))
        assert (got.elbo < log_p).all()
        reference = -VQBound()(vqvae.eval().model, vqvae.guide, x)
        torch.testing.assert_close(got.elbo.sum(), reference.detach())

    def test_sums_to_one(self):
        """Over all data of six pixels: what is bounded is a probability."""
        vqvae = make(prior=TINY_PRIOR)
        randomised(vqvae.prior)
        x = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)), dtype=torch.float64).reshape(-1, *EVENT)
        assert exact_log_p(vqvae, x)[0].exp().sum().item() == pytest.approx(1, abs=1e-6)

    def test_tight_where_one_code_has_all_the_mass(self):
        """A decoder that separates codes by 50 nats, and data of their modes: log p(x) is one term of its sum."""
        vqvae = make(codes=(1,), codebook_size=2, embedding_dim=6, decoder=partial(MLP, hidden=()))
        x = torch.stack([torch.zeros(EVENT), torch.ones(EVENT)]).double()
        with torch.no_grad():
            vqvae.encoder = _Reshape(EVENT, (6, 1)).double()
            vqvae.quantizer.codebook.copy_(torch.tensor([[0.0] * 6, [1.0] * 6]))
            vqvae.decoder.output.weight.copy_(20 * torch.eye(6))
            vqvae.decoder.output.bias.fill_(-10)
        log_p, _ = exact_log_p(vqvae, x)
        torch.testing.assert_close(bound(vqvae.model, vqvae.guide, x).elbo, log_p, rtol=0, atol=1e-8)

    def test_terms_under_the_uniform_prior(self):
        vqvae, x = make(), binary()
        got = bound(vqvae.model, vqvae.guide, x)
        torch.testing.assert_close(got.kl, torch.full((9,), 3 * math.log(4), dtype=torch.float64), rtol=1e-6, atol=0)

    def test_masked_elements_do_not_count(self):
        vqvae, x = make(), binary()
        mask = torch.rand(9, *EVENT) < 0.5
        other = torch.where(mask, x, 1 - x)
        a, b = (bound(vqvae.model, vqvae.guide, data, mask) for data in (x, other))
        assert (a.elbo == b.elbo).all()
        with torch.no_grad():
            k = vqvae.encode(x, mask).sample()
            expected = torch.where(mask, vqvae.decode(k).base_dist.log_prob(x), 0.0).sum((1, 2))
        torch.testing.assert_close(a.reconstruction, expected)

    def test_particles_are_all_the_same(self):
        vqvae, x = make().eval(), binary()
        with torch.no_grad():
            samples = importance(vqvae.model, vqvae.guide, x, num_particles=4)
        assert samples.log_weights.shape == (4, 9) and samples.latents["k"].shape == (4, 9, 3)
        assert (samples.log_weights == samples.log_weights[0]).all() and (samples.log_guide == 0).all()


class _Reshape(Network):
    def forward(self, x):
        return x.reshape(*self._leading(x), *self.out_shape)


class TestGradients:
    @pytest.mark.parametrize("weights", [{}, {"beta": 0.7, "codebook": 0.3}], ids=str)
    @pytest.mark.parametrize("codes", [(3,), (2, 2)], ids=str)
    def test_equal_to_a_hand_written_reference(self, codes, weights):
        vqvae, x = make(codes=codes), binary()
        loss = VQBound(**weights)(vqvae.model, vqvae.guide, x)
        beta, weight = weights.get("beta", 0.25), weights.get("codebook", 1.0)
        v = vqvae.encoder(x).reshape(9, 2, -1).transpose(1, 2)
        k = by_brute_force(v, vqvae.quantizer.codebook)
        e = vqvae.quantizer.codebook[k]
        straight = v + (e - v).detach()
        logits = vqvae.decoder(straight.transpose(1, 2).reshape(9, 2, *codes)).squeeze(1)
        reconstruction = binary_cross_entropy_with_logits(logits, x, reduction="sum")
        value = reconstruction + 9 * math.prod(codes) * math.log(4)
        reference = value + weight * (v.detach() - e).square().sum() + beta * (v - e.detach()).square().sum()
        torch.testing.assert_close(loss.detach(), value.detach(), rtol=1e-6, atol=0)
        got, expected = gradients(loss, vqvae), gradients(reference, vqvae)
        assert all(g is not None and g.abs().sum() > 0 for g in expected.values())
        for name, gradient in expected.items():
            torch.testing.assert_close(got[name], gradient)

    def test_go_where_they_must(self):
        vqvae, x = make(), binary()
        k = vqvae.encode(x).sample()
        unused = sorted(set(range(4)) - set(k.unique().tolist()))
        plain = gradients(VQBound(beta=0, codebook=0)(vqvae.model, vqvae.guide, x), vqvae)
        assert not plain["quantizer.codebook"].any() if plain["quantizer.codebook"] is not None else True
        assert plain["encoder.output.weight"].any() and plain["decoder.output.weight"].any()
        for weight, moved in (("codebook", "quantizer"), ("beta", "encoder")):
            full = gradients(VQBound(**{"beta": 0, "codebook": 0, weight: 1})(vqvae.model, vqvae.guide, x), vqvae)
            zero = torch.zeros(())
            changed = {
                name.split(".")[0]
                for name, g in full.items()
                if not torch.equal(zero if g is None else g, zero if plain[name] is None else plain[name])
                and g is not None
                and g.any()
            }
            assert moved in changed and not changed - {moved}, (weight, changed)
            if weight == "codebook" and unused:
                assert not full["quantizer.codebook"][unused].any()

    def test_of_particles_and_of_a_copy_pass_straight_through(self):
        """The handler joins what the model looks up to what the guide quantised, with further leading dimensions."""
        quantizer, v = Quantizer(5, 2), torch.randn(4, 3, 2, requires_grad=True)
        with StraightThrough():
            index = quantizer.quantize(v)
            e = quantizer.embed(index.expand(6, 4, 3))
        assert (e == quantizer.codebook[index]).all()  # to the bit
        e.sum().backward()
        assert (v.grad == 6).all() and quantizer.codebook.grad is None
        outside = quantizer.embed(quantizer.quantize(v))
        outside.sum().backward()
        assert (v.grad == 6).all() and quantizer.codebook.grad.sum() == 4 * 3 * 2

    def test_value_does_not_depend_on_the_weights(self):
        vqvae, x = make(), binary()
        values = {VQBound(beta=b, codebook=c)(vqvae.model, vqvae.guide, x).item() for b in (0, 3) for c in (0, 2)}
        assert len(values) == 1
        with pytest.raises(UsageError, match="beta >= 0"):
            VQBound(beta=-1)
        with pytest.raises(UsageError, match="is a schedule"):
            VQBound(beta=Linear())(vqvae.model, vqvae.guide, x)

    def test_is_a_sum_over_rows(self):
        vqvae, x = make(), binary()
        whole = gradients(VQBound()(vqvae.model, vqvae.guide, x), vqvae)
        parts = [gradients(VQBound()(vqvae.model, vqvae.guide, rows), vqvae) for rows in (x[:4], x[4:])]
        for name, gradient in whole.items():
            torch.testing.assert_close(parts[0][name] + parts[1][name], gradient)

    def test_a_prior_with_parameters_learns_beside_the_rest(self):
        """By maximum likelihood of the codes, and nothing else."""
        vqvae, x = make(prior=TINY_PRIOR), binary()
        randomised(vqvae.prior)
        got = gradients(VQBound()(vqvae.model, vqvae.guide, x), vqvae)
        k = by_brute_force(vqvae.vectors(x), vqvae.quantizer.codebook)
        for name, expected in gradients(-vqvae.prior().log_prob(k).sum(), vqvae.prior).items():
            assert expected.any()
            torch.testing.assert_close(got[f"prior.{name}"], expected)

    def test_is_shared_out_over_processes(self):
        """As `fit` does it: each process on its rows, under `ShardedNoise`."""
        vqvae, x = make(), binary()
        whole = VQBound()(vqvae.model, vqvae.guide, x).item()
        parts = []
        for rank in range(2):
            world = World(rank, 2)
            with ShardedNoise(world, len(x)):
                parts.append(VQBound()(vqvae.model, vqvae.guide, x[world.rows(len(x))]).item())
        assert sum(parts) == pytest.approx(whole, rel=1e-12)

    def test_of_a_vae_it_is_the_elbo(self):
        vae, x = VAE(EVENT, 2, encoder=SMALL, decoder=SMALL).double(), binary()
        results = []
        for objective in (VQBound(), ELBO()):
            with seeded(3):
                value = objective(vae.model, vae.guide, x)
            results.append([value.detach(), *gradients(value, vae).values()])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b)

    @pytest.mark.parametrize("objective", [ELBO(), IWAE(num_particles=2), WakeSleep()], ids=str)
    def test_others_are_refused(self, objective):
        vqvae, x = make(), binary()
        with pytest.raises(UsageError, match=r"train by pyro_vae.objectives.VQBound\(\)"):
            objective(vqvae.model, vqvae.guide, x)
        with torch.no_grad():
            assert ELBO()(vqvae.model, vqvae.guide, x).isfinite()

    def test_recorded(self):
        vqvae, x = make().float(), binary().float()
        loss = Loss(vqvae, VQBound(), lambda batch: batch, lambda size: 0.0)
        step = GraphStep(loss, full=0)
        step.prepare(Batch(x), 0.0, 1.0)
        other = binary(9, seed=4).float()  # a graph that held on to codes would fail
        value, parameters, found = step(Batch(other), 0.0, 1.0)
        expected, same, reference = EagerStep(loss)(Batch(other), 0.0, 1.0)
        assert parameters == same and len(found) == len(list(vqvae.parameters()))
        for a, b in zip([value, *found], [expected, *reference], strict=True):
            torch.testing.assert_close(a, b)


class TestMovingAverages:
    def test_by_hand(self):
        quantizer = Quantizer(3, 2, "ema", decay=0.9).double()
        entries, counts, sums = (t.clone() for t in (quantizer.codebook, quantizer.counts, quantizer.sums))
        assert (counts == 1).all() and (sums == entries).all()
        for _ in range(3):
            v, k = torch.randn(4, 5, 2, dtype=torch.float64), torch.randint(2, (4, 5))  # the last entry is never used
            quantizer.learn(v, k)
            for j in range(3):
                counts[j] = 0.9 * counts[j] + 0.1 * (k == j).sum()
                sums[j] = 0.9 * sums[j] + 0.1 * v[k == j].sum(0)
        torch.testing.assert_close(quantizer.counts, counts)
        torch.testing.assert_close(quantizer.codebook, sums / counts.unsqueeze(-1))
        torch.testing.assert_close(quantizer.codebook[2], entries[2])

    def test_an_entry_never_used_stays_where_it_is(self):
        """Also when its average has faded to nothing, in single precision; used again, it goes to what uses it."""
        quantizer = Quantizer(2, 2, "ema", decay=0.5)
        kept = quantizer.codebook[1].clone()
        for _ in range(300):
            quantizer.learn(torch.ones(4, 2), torch.zeros(4, dtype=torch.long))
        assert quantizer.counts[1] == 0 and torch.allclose(quantizer.codebook[1], kept, rtol=1e-4)
        quantizer.learn(torch.full((1, 2), 7.0), torch.ones(1, dtype=torch.long))
        torch.testing.assert_close(quantizer.codebook, torch.tensor([[1.0, 1.0], [7.0, 7.0]]))

    def test_a_constant_assignment_converges_to_the_mean(self):
        quantizer = Quantizer(1, 2, "ema", decay=0.5)
        v = torch.randn(10, 2)
        for _ in range(60):
            quantizer.learn(v, torch.zeros(10, dtype=torch.long))
        torch.testing.assert_close(quantizer.codebook[0], v.mean(0))

    def test_moves_after_the_objective_once_and_only_in_training(self):
        vqvae, x = make(**EMA), binary()
        assert "quantizer.codebook" not in dict(vqvae.named_parameters())
        before = vqvae.quantizer.codebook.clone()
        expected = copy.deepcopy(vqvae.quantizer)
        with torch.no_grad():
            v = vqvae.vectors(x)
        for action in (
            lambda: bound(vqvae.model, vqvae.guide, x),
            lambda: torch.no_grad()(VQBound())(vqvae.model, vqvae.guide, x),
            lambda: VQBound()(vqvae.eval().model, vqvae.guide, x),
        ):
            action()
            assert (vqvae.quantizer.codebook == before).all()
        value = VQBound()(vqvae.train().model, vqvae.guide, x)
        expected.learn(v, by_brute_force(v, before))
        torch.testing.assert_close(vqvae.quantizer.codebook, expected.codebook)
        vqvae.quantizer.codebook.copy_(before)
        torch.testing.assert_close(value.item(), -bound(vqvae.model, vqvae.guide, x).elbo.sum().item())

    def test_restart(self):
        quantizer = Quantizer(4, 2, "ema", decay=0.5, restart=0.3)
        v, k = torch.randn(6, 2), torch.zeros(6, dtype=torch.long)
        results = []
        for _ in range(2):
            copied = copy.deepcopy(quantizer)
            with seeded(1, "step"):
                copied.learn(v, k)  # averages of 0.5 uses: alive
                assert torch.allclose(copied.codebook[1:], quantizer.codebook[1:])
                copied.learn(v, k)  # of 0.25: dead
            results.append(copied.codebook)
        assert (results[0] == results[1]).all()
        matches = (results[0][1:].unsqueeze(1) == v).all(-1)
        assert (matches.sum(1) == 1).all() and not (results[0][0] == v).all(-1).any()
        assert copied.counts[1:].tolist() == [1.0] * 3

    def test_training_runs_eagerly_and_trying_to_record_leaves_no_trace(self):
        vqvae, x = make(**EMA, restart=0.5).float(), binary().float()
        before = copy.deepcopy(vqvae.state_dict())
        loss = Loss(vqvae, VQBound(), lambda batch: batch, lambda size: 0.0)
        assert choose_step(loss, Batch(x), True, 1.0).mode == "eager"
        assert all((before[name] == value).all() for name, value in vqvae.state_dict().items())

    @pytest.mark.parametrize("compile", [False, True])
    def test_stopped_and_resumed_is_bit_identical(self, tmp_path, monkeypatch, compile):
        x = binary(50).float()
        settings = {"epochs": 4, "batch_size": 20, "progress": False, "seed": 3, "compile": compile, "log_every": 2}

        def trained(seed, **options):
            vqvae = make(seed, **EMA, restart=0.8).float()
            fit(vqvae, Dataset("array", x, x[:10]), VQBound(), **settings, **options)
            return vqvae.state_dict()

        expected = trained(0)
        steps, learn = itertools.count(1), Quantizer.learn

        def interrupted(self, *args):
            learn(self, *args)
            if next(steps) == 5:
                os.kill(os.getpid(), signal.SIGINT)

        with monkeypatch.context() as patched, pytest.raises(Stopped):
            patched.setattr(Quantizer, "learn", interrupted)
            trained(0, run=tmp_path / "run")
        got = trained(9, run=tmp_path / "run")  # other first weights: the run's own must win
        assert set(got) == set(expected) and "quantizer.counts" in got
        assert all((got[name] == value).all() for name, value in expected.items())


class TestTraining:
    def test_svi_makes_the_same_steps(self):
        first, second, x = make().float(), make().float(), binary(20).float()
        vectors = first.vectors(x).reshape(-1, 2).detach()
        first.quantizer.start_from(vectors)
        second.quantizer.start_from(vectors)
        svi = pyro.infer.SVI(first.model, first.guide, pyro.optim.Adam({"lr": 1e-2}), VQBound())
        losses = [svi.step(x) for _ in range(10)]
        optimizer = torch.optim.Adam(second.parameters(), lr=1e-2)
        for _ in range(10):
            optimizer.zero_grad()
            VQBound()(second.model, second.guide, x).backward()
            optimizer.step()
        assert losses[-1] < losses[0]
        for a, b in zip(first.parameters(), second.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)

    def test_the_codebook_starts_at_what_the_encoder_gives(self):
        vqvae, x = make(), binary(40)
        assert vqvae.start_count == 6
        vqvae.start_prior(x[:6])
        v = vqvae.vectors(x[:6]).reshape(-1, 2)
        distance = (vqvae.quantizer.codebook.unsqueeze(1) - v).square().sum(-1)
        assert (distance.min(1).values < 1e-20).all() and len(distance.argmin(1).unique()) == 4
        few = make(codebook_size=50)
        rest = few.quantizer.codebook[30:].clone()
        few.start_prior(x[:10])
        assert (few.quantizer.codebook[30:] == rest).all()

    @pytest.mark.parametrize("parts", [{}, {"update": "ema", "restart": 0.1}], ids=["gradient", "ema"])
    def test_digits(self, parts):
        """A bound well above that of the best code without information, and an alphabet that is used."""
        data = load_data("digits", binarize="threshold")
        net = partial(MLP, hidden=(64,))
        with seeded(0, "init"):
            vqvae = VQVAE((8, 8), (8,), codebook_size=16, embedding_dim=4, encoder=net, decoder=net, **parts)
        adam = partial(torch.optim.Adam, lr=3e-3)
        history = fit(vqvae, data, VQBound(), epochs=8, optimizer=adam, start_at_mean=True, progress=False)
        x, mean = data.split("test"), data.split("train").mean(0).clamp(1e-3, 1 - 1e-3)
        without = torch.distributions.Bernoulli(mean).log_prob(x).sum((1, 2)).mean().item()
        got = bound(vqvae.model, vqvae.guide, x).means()
        assert got["kl"] == pytest.approx(8 * math.log(16), rel=1e-5)
        assert (
            got["reconstruction"] > without + 9 and history.column("valid_elbo")[-1] > history.column("valid_elbo")[0]
        )
        assert codebook_usage(vqvae, x).perplexity > 8
        assert history.rows[-1]["loss"] == pytest.approx(-history.rows[-1]["train_elbo"], abs=3)

    def test_default_settings_train(self):
        vqvae = VQVAE((8, 8))
        history = fit(
            vqvae, binary(30, event=(8, 8)).float(), VQBound(beta=Linear(0, 0.25, epochs=1)), epochs=2, progress=False
        )
        assert history.rows[-1]["loss"] < history.rows[0]["loss"]


SHAPES = CodeShapes((4,), 6, codes=(3,), codebook_size=3)
GRID = CodeShapes((4,), 8, codes=(2, 2), codebook_size=3)


class TestCodePriors:
    @pytest.mark.parametrize("shapes", [SHAPES, GRID, CodeShapes((4,), 1, codes=(1,), codebook_size=5)], ids=str)
    @pytest.mark.parametrize("kind", [UniformCodes, TINY_PRIOR], ids=["uniform", "autoregressive"])
    def test_normalised(self, kind, shapes):
        prior = randomised(kind(shapes).double())
        log_p = prior().log_prob(all_codes(shapes))
        assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-6)
        if kind is not UniformCodes:
            assert log_p.std() > 0.3
        assert isinstance(prior, CodePrior) and prior().event_shape == shapes.codes and prior().batch_shape == ()

    def test_starts_uniform(self):
        k = all_codes(GRID)
        uniform = torch.full((81,), -4 * math.log(3))
        torch.testing.assert_close(UniformCodes(GRID)().log_prob(k), uniform)
        torch.testing.assert_close(AutoregressiveCodes(GRID)().log_prob(k).detach(), uniform)

    def test_each_code_depends_on_those_before_it(self):
        prior = randomised(TINY_PRIOR(SHAPES).double())
        k = torch.tensor([[0, 1, 2]])
        base = prior.logits(k[:, :2])
        assert base.shape == (1, 3, 3)
        for i in range(2):
            changed = k.clone()
            changed[0, i] = (changed[0, i] + 1) % 3
            moved = (prior.logits(changed[:, :2]) - base).abs().amax((0, 2)) > 1e-9
            assert moved.tolist() == [j > i for j in range(3)]
        torch.testing.assert_close(prior.logits(k[:, :1]), base[:, :2])
        torch.testing.assert_close(prior.logits(k), base)  # the last code predicts nothing

    @pytest.mark.parametrize("shapes", [SHAPES, GRID], ids=str)
    def test_draws_have_their_density(self, shapes):
        """A chi-square test of 20,000 draws over all codes; false alarm 1e-6."""
        from scipy.stats import chi2

        prior, n = randomised(TINY_PRIOR(shapes), 0.5), 20_000
        k = all_codes(shapes)
        with torch.no_grad():
            expected = n * prior().log_prob(k).double().exp()
        drawn = prior().sample(torch.Size([n])).reshape(n, -1)
        place = (drawn * 3 ** torch.arange(shapes.positions).flip(0)).sum(-1)
        counts = torch.bincount(place, minlength=len(k)).double()
        rare = expected < 5
        if rare.any():  # together, so that the test's distribution holds
            expected = torch.cat([expected[~rare], expected[rare].sum().clamp(min=1e-9).reshape(1)])
            counts = torch.cat([counts[~rare], counts[rare].sum().reshape(1)])
        statistic = ((counts - expected).square() / expected).sum().item()
        assert statistic < chi2.isf(1e-6, len(expected) - 1)
        assert (expected - n / len(k)).square().sum() / (n / len(k)) > 100 * len(k)  # far from uniform

    def test_leading_dimensions_and_expansion(self):
        prior = randomised(TINY_PRIOR(GRID))
        k = torch.randint(3, (2, 5, 2, 2))
        log_p = prior().log_prob(k)
        assert log_p.shape == (2, 5)
        torch.testing.assert_close(log_p[1, 3], prior().log_prob(k[1, 3]))
        wide = prior().expand(torch.Size([5]))
        assert wide.batch_shape == (5,) and wide.sample().shape == (5, 2, 2)
        assert wide.sample(torch.Size([7])).shape == (7, 5, 2, 2) and wide.log_prob(k).shape == (2, 5)
        assert wide.log_prob(k[0, 0]).shape == (5,)
        assert prior().sample().shape == (2, 2) and prior().log_prob(prior().sample()).shape == ()
        assert wide.support.check(k).all() and not wide.support.check(k + 3).any()

    def test_in_the_model(self):
        """Drawn by the program itself, under Pyro's validation."""
        vqvae, x = make(prior=TINY_PRIOR), binary()
        randomised(vqvae.prior)
        with pyro.validation_enabled(True), torch.no_grad():
            trace = poutine.trace(poutine.uncondition(vqvae.model)).get_trace(x)
            trace.compute_log_prob()
        assert trace.nodes["k"]["value"].shape == (9, 3) and trace.nodes["x"]["value"].shape == (9, *EVENT)
        expected = vqvae.prior().log_prob(trace.nodes["k"]["value"])
        torch.testing.assert_close(trace.nodes["k"]["log_prob"], expected)

    def test_every_parameter_gets_a_gradient(self):
        prior = randomised(TINY_PRIOR(SHAPES))
        prior().log_prob(torch.randint(3, (20, 3))).sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in prior.parameters())
        assert all(p.grad.any() for name, p in prior.named_parameters())

    def test_refuses(self):
        for options in ({"layers": 0}, {"width": 10, "heads": 4}, {"heads": 0}):
            with pytest.raises(UsageError, match="a multiple of heads"):
                AutoregressiveCodes(SHAPES, **options)
        with pytest.raises(UsageError, match="dropout"):
            AutoregressiveCodes(SHAPES, dropout=1.0)


class TestFitCodePrior:
    def clusters(self, n=400):
        """Data in two groups: of a code's 27 values few occur."""
        base = (torch.arange(n) % 2).double().reshape(n, 1, 1).expand(n, *EVENT)
        with seeded(2, "flips"):
            return torch.where(torch.rand(n, *EVENT) < 0.05, 1 - base, base)

    def test_bound_rises_by_what_the_cross_entropy_falls(self):
        vqvae, x = make().eval(), self.clusters()
        adam = partial(torch.optim.Adam, lr=1e-2)
        before = copy.deepcopy(vqvae.state_dict())
        fitted = fit_code_prior(vqvae, x, TINY_PRIOR, epochs=20, optimizer=adam, progress=False)
        assert type(vqvae.prior) is UniformCodes and type(fitted.prior) is AutoregressiveCodes
        for name, value in before.items():
            assert (vqvae.state_dict()[name] == value).all() and (fitted.state_dict()[name] == value).all(), name
        old, new = (bound(v.model, v.guide, x) for v in (vqvae, fitted))
        assert (old.reconstruction == new.reconstruction).all()
        k = vqvae.encode(x).sample()
        shares = k.unique(dim=0, return_counts=True)[1].double() / len(x)
        entropy = torch.special.entr(shares).sum().item()
        assert entropy < 3 * math.log(4) - 1
        assert entropy - 0.01 < new.kl.mean().item() < entropy + 0.15
        assert cross_entropy(fitted, x).mean == pytest.approx(new.kl.mean().item(), rel=1e-5)
        log_p, _ = exact_log_p(fitted, x[:20])
        assert (new.elbo[:20] < log_p + 1e-9).all()
        assert not fitted.training and fitted.arguments["prior"] is TINY_PRIOR

    def test_draws_are_codes_that_occur(self):
        vqvae, x = make().eval(), self.clusters()
        adam = partial(torch.optim.Adam, lr=1e-2)
        fitted = fit_code_prior(vqvae, x, TINY_PRIOR, epochs=20, optimizer=adam, progress=False)
        seen = {tuple(k) for k in vqvae.encode(x).sample().tolist()}
        shares = [
            sum(tuple(k) in seen for k in v.prior().sample(torch.Size([300])).tolist()) / 300 for v in (vqvae, fitted)
        ]
        assert shares[1] > 0.85 > shares[0] + 0.2  # of all codes few occur
        draws = sample(fitted, 300)
        assert draws.x.shape == (300, *EVENT) and (draws.x == sample(fitted, 300).x).all()
        assert (draws.x[:100] == sample(fitted, 100).x).all()

    def test_reproducible_and_refuses(self):
        vqvae, x = make(), self.clusters(60)
        first, second = (fit_code_prior(vqvae, x, TINY_PRIOR, epochs=2, progress=False).state_dict() for _ in range(2))
        assert all((first[name] == value).all() for name, value in second.items())
        with pytest.raises(UsageError, match="epochs must be at least 1"):
            fit_code_prior(vqvae, x, epochs=0)

    def test_a_prior_of_a_vae_still_takes_its_start(self):
        """`refit_prior` asks the new prior, not the module, which may start other parts from data."""
        vae, x = VAE(EVENT, 2, encoder=SMALL, decoder=SMALL), binary(40).float()
        refitted = refit_prior(vae, x, partial(VampPrior, components=5, bounds=None), epochs=1, progress=False)
        assert refitted.prior.start_count == 5


class TestUsage:
    def test_by_hand(self):
        vqvae, x = make(), binary(30)
        k = by_brute_force(vqvae.vectors(x), vqvae.quantizer.codebook)
        usage = codebook_usage(vqvae, x, batch=7)
        counts = torch.bincount(k.reshape(-1), minlength=4)
        assert usage.counts.tolist() == counts.tolist() and usage.counts.sum() == 90
        shares = [c / 90 for c in counts.tolist() if c]
        assert usage.usage == len(shares) / 4
        assert usage.perplexity == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)))
        assert f"{len(shares)} of 4 entries" in repr(usage) and vqvae.training
        with pytest.raises(DataError, match="expected shape"):
            codebook_usage(vqvae, x[:, :1])
        with pytest.raises(UsageError, match="batch"):
            codebook_usage(vqvae, x, batch=0)

    def test_extremes(self):
        vqvae, x = make(), binary(30)
        with torch.no_grad():
            vqvae.quantizer.codebook.add_(100.0)
            vqvae.quantizer.codebook[2] = 0
        usage = codebook_usage(vqvae, x)
        assert usage.usage == 0.25 and usage.perplexity == pytest.approx(1)


class TestParts:
    def test_evidence_by_importance_is_refused(self):
        vqvae, x = make(), binary()
        with pytest.raises(UsageError, match=r"site 'k' of the guide is a Delta.*evidence.bound gives a lower bound"):
            log_marginal(vqvae.model, vqvae.guide, x, num_particles=10)

    @pytest.mark.parametrize("leading", [(), (4,), (3, 4)], ids=str)
    @pytest.mark.parametrize("codes", [(3,), (2, 2)], ids=str)
    def test_leading_dimensions(self, codes, leading):
        vqvae = make(codes=codes)
        x = binary(12).reshape(12, *EVENT)[: max(1, math.prod(leading))].reshape(*leading, *EVENT)
        q = vqvae.encode(x)
        k = q.sample()
        assert q.support.is_discrete and q.support.check(k).all()
        assert q.batch_shape == leading and k.shape == (*leading, *codes) and k.dtype == torch.long
        p = vqvae.decode(k)
        assert p.batch_shape == leading and p.event_shape == EVENT
        if leading:
            torch.testing.assert_close(vqvae.decode(k[0]).mean, p.mean[0])

    @pytest.mark.parametrize("network", [ConvNet, partial(ResNet, blocks=1), GridNet, MLP], ids=str)
    def test_grids_by_networks_of_images(self, network):
        vqvae = VQVAE((8, 8), (4, 4), 6, 3, encoder=network, decoder=network)
        x = binary(5, event=(8, 8)).float()
        vqvae.start_prior(x)
        VQBound()(vqvae.model, vqvae.guide, x).backward()
        assert all(p.grad is not None for p in vqvae.parameters())
        assert reconstruct(vqvae, x).shape == x.shape == sample(vqvae, 5).x.shape
        assert vqvae.can_start_at_mean
        vqvae.start_at(torch.full((8, 8), 0.3), torch.ones(8, 8))

    def test_the_grid_keeps_its_places(self):
        """The vector at a place of the grid is what the decoder is given there."""
        vqvae = make(codes=(2, 3), encoder=_Planes, decoder=_Copy, likelihood=partial(Normal, scale=1.0))
        x = torch.randn(5, *EVENT, dtype=torch.float64)
        v = vqvae.vectors(x)
        assert v.shape == (5, 2, 3, 2) and (v[..., 0] == x).all() and (v[..., 1] == -x).all()
        k = vqvae.encode(x).sample()
        assert (vqvae.decode(k).mean == vqvae.quantizer.codebook[k][..., 0]).all()

    def test_is_described_and_rebuilt(self):
        vqvae = make(prior=TINY_PRIOR, likelihood=Bernoulli, **EMA, restart=0.2)
        arguments = resolve({name: describe(value) for name, value in vqvae.arguments.items()}, ["pyro_vae"])
        twin = VQVAE(**arguments).double()
        twin.load_state_dict(vqvae.state_dict())
        x = binary()
        assert (bound(twin.model, twin.guide, x).elbo == bound(vqvae.model, vqvae.guide, x).elbo).all()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"codes": ()}, "codes: expected a tuple of positive whole numbers"),
            ({"codes": (0,)}, "codes: expected a tuple of positive whole numbers"),
            ({"codebook_size": 0}, "codebook_size must be at least 1"),
            ({"embedding_dim": 0}, "embedding_dim must be at least 1"),
            ({"update": "kmeans"}, "unknown update 'kmeans': choose one of gradient, ema"),
            ({"decay": 1.0}, r"a decay in \[0, 1\)"),
            ({"restart": 1.0}, "needs update='ema'"),
            ({"update": "ema", "restart": 0.0}, "a positive number"),
        ],
    )
    def test_refuses(self, options, message):
        with pytest.raises(UsageError, match=message):
            make(**options)

    def test_refuses_a_context(self):
        vqvae, x = make(), binary()
        for action in (lambda: vqvae.encode(x, None, x), lambda: vqvae.decode(vqvae.encode(x).sample(), x)):
            with pytest.raises(UsageError, match="takes no context"):
                action()

    def test_code_sequence_is_what_the_prior_gives(self):
        assert isinstance(AutoregressiveCodes(SHAPES)(), CodeSequence)


class _Planes(Network):
    """An image and its negative as two planes."""

    def __init__(self, in_shape, out_shape):
        super().__init__(in_shape, out_shape)
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * torch.stack([x, -x], -3)


class _Copy(Network):
    """The first plane."""

    def forward(self, x):
        return x[..., :1, :, :]


class TestGridNet:
    @pytest.mark.parametrize(
        ("image", "grid"), [((28, 28), (3, 7, 7)), ((2, 9, 5), (4, 5, 3)), ((8, 8), (1, 1, 1))], ids=str
    )
    @pytest.mark.parametrize("norm", ["none", "group"])
    def test_both_ways(self, image, grid, norm):
        down, up = GridNet(image, grid, width=4, norm=norm), GridNet(grid, (2, *image), width=4, norm=norm)
        x = torch.randn(3, 2, *image)
        codes = down(x)
        assert codes.shape == (3, 2, *grid) and up(codes).shape == (3, 2, 2, *image)
        torch.testing.assert_close(down(x[1, 0]), codes[1, 0])
        up(codes).square().sum().backward()
        assert all(p.grad is not None and p.grad.any() for n in (down, up) for p in n.parameters())

    def test_output_bias(self):
        up, bias, x = GridNet((3, 4, 4), (1, 8, 8), width=4), torch.randn(1, 8, 8), torch.randn(5, 3, 4, 4)
        before = up(x)
        up.set_output_bias(bias)
        torch.testing.assert_close(up(x), before + bias)
        down = GridNet((8, 8), (3, 4, 4))
        assert up.has_output_bias and not down.has_output_bias
        with pytest.raises(UsageError, match="no output bias"):
            down.set_output_bias(torch.zeros(3, 4, 4))

    def test_a_place_sees_the_image_about_it(self):
        down, x = GridNet((32, 32), (2, 8, 8), width=4, blocks=1), torch.zeros(32, 32)
        x[0, 0] = 1
        changed = (down(x) != down(torch.zeros(32, 32))).any(0).nonzero()
        assert len(changed) and changed.max() <= 4

    @pytest.mark.parametrize(
        ("shapes", "options", "message"),
        [
            (((28, 28), (3, 8, 8)), {}, "halved once or more"),
            (((8, 8), (3, 8, 8)), {}, "halved once or more"),
            (((8,), (3, 4, 4)), {}, "halved once or more"),
            (((8, 8), (3, 4, 4)), {"kernel": 2}, "odd size"),
            (((8, 8), (3, 4, 4)), {"width": 0}, "must be positive"),
            (((8, 8), (3, 4, 4)), {"norm": "x"}, "unknown norm"),
        ],
    )
    def test_refuses(self, shapes, options, message):
        with pytest.raises(UsageError, match=message):
            GridNet(*shapes, **options)


def test_example(tmp_path, capsys):
    """The script runs on the packaged digits, saves its pictures, and the learned prior raises the bound it prints."""
    script = Path(__file__).parents[2] / "examples/discrete_codes.py"
    runpy.run_path(str(script))["main"](codes=(4, 4), size=32, width=16, epochs=2, prior_epochs=3, out=tmp_path)
    printed = capsys.readouterr().out
    bounds = [float(text) for text in re.findall(r"log p\(x\) >= (-[\d.]+)", printed)]
    assert len(bounds) == 2 and bounds[1] > bounds[0] + 1 and "perplexity" in printed
    assert {path.name for path in tmp_path.iterdir()} == {"reconstructions.png", "samples.png"}
