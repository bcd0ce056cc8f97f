"""Recorded and compiled programs: the same losses and gradients as Pyro's, and a reason where there can be none."""

import logging
import os
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from pyro_vae.autoencoders import VAE
from pyro_vae.compiling import backends, kept_code
from pyro_vae.compiling import recording as compiling
from pyro_vae.compiling.recording import Unrecordable, record, record_gradients
from pyro_vae.data import Dataset, load_data
from pyro_vae.distributed import World
from pyro_vae.guides import DiagonalNormal, FullNormal
from pyro_vae.likelihoods import Bernoulli, Normal
from pyro_vae.messages import log_once
from pyro_vae.networks import MLP, Network, computing_in
from pyro_vae.objectives import ELBO, IWAE, Denoising, DReG, NotTensorial, Objective
from pyro_vae.process import torch_internals
from pyro_vae.process.seeding import seeded
from pyro_vae.process.torch_cache import VARIABLE
from pyro_vae.schedules import Constant, Linear
from pyro_vae.training.fitting import fit
from pyro_vae.training.plan import Plan
from pyro_vae.training.settings import Settings
from pyro_vae.training.starting import compiles
from pyro_vae.training.steps import Batch, EagerStep, GraphStep, Loss, choose_step, worth_compiling

SMALL = partial(MLP, hidden=(16,))
OBJECTIVES = [ELBO(), ELBO(analytic_kl=True), ELBO(num_particles=3), ELBO(beta=0.3), ELBO(0.3, 2, analytic_kl=True)]
PARTS = [
    {},
    {"guide": FullNormal},
    {"likelihood": partial(Normal, scale="learned")},
    {"likelihood": partial(Normal, scale="per_element", bounded=True), "guide": FullNormal},
]


COMPILED = {
    "objective": ELBO(beta=Linear(0, 1, epochs=2)),
    "batch_size": 25,
    "lr_schedule": Linear(1, 0.5),
    "weight_prior": 1.0,
    "clip_norm": 1.0,
    "progress": False,
}
"""A warm-up, a schedule, a penalty, clipping and a smaller last batch. Tests share them, since torch keeps what it has
compiled: the second to compile the same graph takes no time."""


@contextmanager
def on_threads(number):
    """Inside the block torch has so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make(seed=0, **parts):
    with seeded(seed, "init"):
        return VAE((8, 8), 3, **{"encoder": SMALL, "decoder": SMALL, **parts})


def binary(n=60):
    return load_data("digits", binarize="dynamic").split("test")[:n]


def weights(vae):
    return torch.cat([p.detach().reshape(-1) for p in vae.parameters()])


def loss_of(vae, objective, **options):
    return Loss(vae, objective, lambda x: x, lambda batch: 0.0, **options)


@pytest.fixture(autouse=True)
def _forget_what_was_logged():
    log_once.cache_clear()


def graph_step(loss, x):
    step = GraphStep(loss, full=0)  # no batch is full: graphs run as they are, which takes no compiler
    step.prepare(Batch(x), 0.0, 1.0)
    return step


class TestSameAsPyro:
    """The estimators that `fit` evaluates are Pyro's own, on the same noise, in value and in every gradient."""

    @pytest.mark.parametrize("parts", PARTS, ids=str)
    @pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
    def test_tensor_loss(self, objective, parts):
        vae, x = make(**parts), binary(10)
        results = []
        for loss in (objective, objective.tensor_loss):
            with seeded(1):
                value = loss(vae.model, vae.guide, x)
            results.append([value.detach(), *torch.autograd.grad(value, list(vae.parameters()), allow_unused=True)])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("parts", PARTS, ids=str)
    @pytest.mark.parametrize("objective", [ELBO(), ELBO(0.3, 2, analytic_kl=True)], ids=str)
    def test_graph(self, objective, parts):
        """The recorded graph against Pyro's `Trace_ELBO` and `TraceMeanField_ELBO` themselves."""
        vae, x = make(**parts), binary(10)
        step = graph_step(loss_of(vae, objective), x)
        with seeded(2):
            value, parameters, gradients = step(Batch(x), 0.0, 1.0)
        with seeded(2):
            expected = objective(vae.model, vae.guide, x)
        torch.testing.assert_close(value, expected.detach(), rtol=1e-5, atol=1e-5)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            reference = torch.autograd.grad(expected, parameter, retain_graph=True)[0]
            torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-5)
        assert len(parameters) == len(list(vae.parameters()))

    def test_masks_and_scales_count(self):
        """A program of the user's own, with a mask, a scale and an extra latent site of the guide's order."""
        decoder, encoder = nn.Linear(2, 4), nn.Linear(4, 4)

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                with pyro.poutine.scale(scale=0.7), pyro.poutine.mask(mask=torch.arange(len(x)) > 1):
                    pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                loc, log_scale = encoder(x).split(2, -1)
                pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

        x = torch.randn(5, 4)
        for ours, theirs in ((ELBO(), Trace_ELBO()), (ELBO(analytic_kl=True), TraceMeanField_ELBO())):
            with seeded(3):
                a = ours.tensor_loss(model, guide, x)
            with seeded(3):
                b = theirs.differentiable_loss(model, guide, x)
            torch.testing.assert_close(a, b)

    def test_a_site_that_is_not_reparameterised_goes_to_pyro(self, caplog):
        """Its score function is Pyro's: training falls back to `Trace_ELBO`, and moves the guide as SVI does."""

        class Coin(nn.Module):
            def __init__(self):
                super().__init__()
                self.logit = nn.Parameter(torch.zeros(()))

            def model(self, x):
                with pyro.plate("data", len(x)):
                    z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

            def guide(self, x):
                with pyro.plate("data", len(x)):
                    pyro.sample("z", dist.Bernoulli(logits=self.logit))

        coin, x = Coin(), torch.full((50, 1), 3.0)
        with pytest.raises(NotTensorial, match="'z' of the guide is not reparameterised"):
            ELBO().tensor_loss(coin.model, coin.guide, x)
        with caplog.at_level(logging.WARNING):
            history = fit(coin, x, epochs=20, batch_size=50, optimizer=partial(torch.optim.Adam, lr=0.1), compile=True)
        assert coin.logit > 0.5 and history.mode == "eager"


class TestTraining:
    """`fit(compile=...)`."""

    @pytest.mark.parametrize(
        ("precision", "backend"),
        [("float32", "inductor"), ("bf16", "graph"), pytest.param("bf16", "inductor", marks=pytest.mark.slow)],
    )
    @pytest.mark.usefixtures("bfloat16")
    def test_compiled_and_eager_agree(self, request, precision, backend):
        if backend == "graph":
            request.getfixturevalue("without_a_compiler")
        ends, histories = [], []
        for compile in (True, False):
            vae = make()
            histories.append(fit(vae, binary(), epochs=2, compile=compile, precision=precision, **COMPILED))
            ends.append(weights(vae))
        assert [h.mode for h in histories] == [f"compiled ({backend})", "eager"]
        tolerance = 1e-5 if precision == "float32" else 1e-2
        torch.testing.assert_close(*ends, rtol=0, atol=tolerance)
        assert not torch.equal(ends[0], weights(make()))

    def test_resumes_to_the_bit(self, tmp_path):
        from pyro_vae.errors import Stopped
        from pyro_vae.training import trainer as training

        ends = []
        for stop in (None, 3):
            vae, left = make(), [stop]

            def tick(trainer, left=left):
                if left[0] is not None:
                    left[0] -= 1
                    if left[0] == 0:
                        left[0] = None
                        trainer.checkpoints.save(trainer.ledger)
                        raise Stopped(15, "here")

            options = {"epochs": 3, "compile": True, "run": tmp_path / str(stop), **COMPILED}
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(training.Trainer, "tick", tick)
                if stop:
                    with pytest.raises(Stopped):
                        fit(vae, binary(), **options)
                    vae = make()
                fit(vae, binary(), **options)
            ends.append(weights(vae))
        assert torch.equal(*ends)

    def test_a_resumed_training_keeps_the_mode_it_was_begun_in(self, tmp_path):
        from pyro_vae.runs.loading import read_manifest

        fit(make(), binary(), epochs=1, compile=True, run=tmp_path / "run", **COMPILED)
        progress = read_manifest(tmp_path / "run")["progress"]
        assert progress["compile"] is True and progress["onednn"] in (True, False)

    def test_dropout_draws_afresh_and_alike(self):
        class Dropping(Network):
            def __init__(self, in_shape, out_shape):
                super().__init__(in_shape, out_shape)
                self.inner = nn.Sequential(MLP(in_shape, out_shape, hidden=(16,)), nn.Dropout(0.5))

            def forward(self, x):
                return self.inner(x)

        vae, x = make(encoder=Dropping), binary(10)
        step = graph_step(loss_of(vae, ELBO()), x)
        torch.manual_seed(0)
        values = [step(Batch(x), 0.0, 1.0)[0].item() for _ in range(2)]
        torch.manual_seed(0)
        eager = [EagerStep(loss_of(vae, ELBO()))(Batch(x), 0.0, 1.0)[0].item() for _ in range(2)]
        assert values[0] != values[1] and values == pytest.approx(eager)

    @pytest.mark.usefixtures("without_a_compiler")
    def test_frozen_and_unused_parameters(self):
        vae, x = make(), binary(10)
        vae.extra = nn.Parameter(torch.ones(3))
        vae.encoder.requires_grad_(False)
        step = graph_step(loss_of(vae, ELBO()), x)
        _, parameters, gradients = step(Batch(x), 0.0, 1.0)
        assert {id(p) for p in parameters} == {id(p) for p in vae.decoder.parameters()}
        assert [g.shape for g in gradients] == [p.shape for p in parameters]
        before = vae.extra.clone()
        assert fit(vae, x, epochs=2, compile=True, progress=False).mode == "compiled (graph)"
        assert torch.equal(vae.extra, before)

    def test_auto_decides_by_the_work(self):
        vae = make()
        assert not worth_compiling(vae, num_data=1000, batch_size=100, epochs=100)
        assert worth_compiling(vae, num_data=1000, batch_size=100, epochs=2000)
        big = VAE((28, 28), 50, encoder=partial(MLP, hidden=(2000,)), decoder=partial(MLP, hidden=(2000,)))
        assert worth_compiling(big, num_data=60_000, batch_size=1000, epochs=100)
        assert not worth_compiling(big, num_data=60_000, batch_size=1000, epochs=5)

    @pytest.mark.parametrize("objective", [DReG(50), Denoising(IWAE(50))], ids=["DReG", "Denoising"])
    def test_draws_are_work(self, objective):
        """A few passes with 50 draws take as long as many with one."""
        network = partial(MLP, hidden=(2000,))
        plan = partial(Plan, VAE((28, 28), 50, encoder=network, decoder=network), Dataset("x", torch.ones(60_000, 1)))
        settings = Settings(5, 1000, torch.optim.Adam, Constant(), None, None, None, False, 0, 50)
        assert compiles(plan(objective, settings, World())) and not compiles(plan(ELBO(), settings, World()))


class TestFallback:
    """Where there is no graph, training goes on without, and says why, once."""

    def trains_eagerly(self, caplog, reason, vae=None, objective=None):
        vae = vae or make()
        before = weights(vae)
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                history = fit(vae, binary(), objective, epochs=1, compile=True, progress=False)
        assert history.mode == "eager" and not torch.equal(weights(vae), before)
        said = [record.message for record in caplog.records if "eagerly" in record.message]
        assert len(said) == 1 and reason in said[0]

    def test_a_value_that_is_read(self, caplog):
        @dataclass(frozen=True)
        class Reading(Objective):
            def __call__(self, model, guide, *args):
                loss = ELBO().tensor_loss(model, guide, *args)
                return loss if loss.item() > 0 else -loss

        self.trains_eagerly(caplog, "RuntimeError", objective=Reading())

    def test_pyros_own_objectives(self, caplog):
        self.trains_eagerly(caplog, "Trace_ELBO finds its gradients itself", objective=Trace_ELBO())

    def test_batch_normalisation(self, caplog):
        class Normed(Network):
            def __init__(self, in_shape, out_shape):
                super().__init__(in_shape, out_shape)
                self.first, self.norm = MLP(in_shape, out_shape, hidden=(8,)), nn.BatchNorm1d(2)

            def forward(self, x):
                return self.norm(self.first(x))

        self.trains_eagerly(caplog, "changes its buffers", vae=make(encoder=Normed))

    @pytest.mark.usefixtures("without_a_compiler")  # which has no part in it
    def test_a_program_that_changes_from_call_to_call(self, caplog):
        calls = []

        @dataclass(frozen=True)
        class Moody(Objective):
            def __call__(self, model, guide, *args):
                calls.append(1)
                return ELBO().tensor_loss(model, guide, *args) * len(calls)

        self.trains_eagerly(caplog, "differs from the run it was recorded from", objective=Moody())

    def test_recording_restores_the_buffers(self):
        vae = make()
        vae.encoder.register_forward_hook(lambda *_: (vae.counter.add_(1), None)[1])
        vae.register_buffer("counter", torch.zeros(()))
        with pytest.raises(Unrecordable, match="buffers"):
            graph_step(loss_of(vae, ELBO()), binary(10))
        assert vae.counter == 0

    @pytest.mark.parametrize(
        ("broken", "mode"),
        [
            ([], "compiled (inductor)"),
            (["compiled_alone"], "compiled (torch.compile)"),
            (["compiled_alone", "_guarded"], "compiled (graph)"),
        ],
    )
    def test_the_ladder(self, monkeypatch, tmp_path, caplog, broken, mode):
        """Without one private call the other, without both `torch.compile`, without a compiler the graph as it is.

        The same weights always.
        """

        def fails(*_):
            raise RuntimeError("no C++ compiler")

        monkeypatch.setenv(VARIABLE, str(tmp_path))  # nothing is kept there
        monkeypatch.setattr(torch_internals, "compile_library", fails)
        for name in broken:
            monkeypatch.setattr(compiling, name, fails)
        vae, eager = make(), make()
        with caplog.at_level(logging.WARNING):
            history = fit(vae, binary(), epochs=1, compile=True, **COMPILED)
        fit(eager, binary(), epochs=1, compile=False, **COMPILED)
        assert history.mode == mode and "no C++ compiler" in caplog.text
        torch.testing.assert_close(weights(vae), weights(eager), rtol=0, atol=1e-6)


class TestRecord:
    """`record` and `record_gradients` by themselves."""

    def test_reads_the_parameters_at_every_call(self):
        linear = nn.Linear(2, 1)
        graph = record(linear, lambda x: [linear(x)], [torch.ones(3, 2)], compile=False)
        with torch.no_grad():
            linear.weight.fill_(2.0)
            linear.bias.fill_(1.0)
        assert torch.equal(graph(torch.ones(3, 2))[0], torch.full((3, 1), 5.0))

    def test_gradients_of_what_is_minimised_and_the_value_reported(self):
        linear = nn.Linear(2, 1, bias=False)
        graph, (weight,) = record_gradients(
            linear, lambda x: (linear(x).sum(), 3 * linear(x).sum()), [torch.ones(1, 2)], compile=False
        )
        value, gradient = graph(torch.ones(1, 2))
        assert weight is linear.weight
        torch.testing.assert_close(value, linear.weight.sum().detach())
        torch.testing.assert_close(gradient, torch.full((1, 2), 3.0))

    @pytest.mark.parametrize(("first", "then"), [(1, 2), (2, 1), (2, 3)])
    def test_what_one_number_of_threads_compiled_is_right_on_another(self, first, then):
        """inductor's cache on disk has no number of threads, and its code for one thread is wrong on two."""
        values, new = torch.arange(1.0, 41).reshape(4, 10), 1 + os.getpid() * 1e-7 + first  # not in the cache yet

        def function(x):
            total = (x.exp().sum() * new + x.sum(0).square().sum()).log()
            return total, total + (x * layer.weight).sum()

        layer = nn.Linear(10, 4)
        expected = function(values / 40)[0]
        for threads in (first, then):
            with on_threads(threads):
                graph, _ = record_gradients(layer, function, [values / 40], compile=True)
                assert graph.backend == "inductor"
                torch.testing.assert_close(graph(values / 40)[0], expected.detach())

    @pytest.mark.parametrize("compile", [False, True])
    def test_inputs_that_are_laid_out_otherwise(self, compile):
        """Compiled code reads memory, so a transposed input must be the same numbers to it."""
        graph = record(nn.Module(), lambda x: [x.exp() + x.cumsum(0)], [torch.randn(3, 5)], compile=compile)
        x = torch.randn(5, 3).T
        assert torch.allclose(graph(x)[0], x.exp() + x.cumsum(0)) and torch.equal(graph(x)[0], graph(x.contiguous())[0])
        transposed = record(nn.Module(), lambda x: [x.exp() + x.cumsum(0)], [x], compile=compile)
        assert torch.equal(transposed(x.contiguous())[0], graph(x)[0])

    def test_an_operation_that_needs_python(self, caplog, capfd, monkeypatch, tmp_path):
        """It is compiled, but not kept, which is tried once; torch's complaint about that is nobody's business."""
        monkeypatch.setattr(kept_code, "cache_folder", lambda: tmp_path)
        triangle, x = torch.eye(3) + torch.ones(3, 3).tril(), torch.randn(3, 2)
        solve = partial(torch.linalg.solve_triangular, upper=False)
        with caplog.at_level(logging.WARNING, "pyro_vae"):
            graph = record(nn.Module(), lambda a, b: [solve(a, b) + 1], [triangle, x], compile=True)
        assert graph.backend == "inductor" and torch.allclose(triangle @ (graph(triangle, x)[0] - 1), x, atol=1e-5)
        assert not caplog.records and "proxy_executor" not in capfd.readouterr().err
        assert [file.name for file in tmp_path.rglob("*.*")] == ["not-kept.txt"]
        monkeypatch.setattr(torch_internals, "compile_library", lambda *_: pytest.fail("it was tried again"))
        again = record(nn.Module(), lambda a, b: [solve(a, b) + 1], [triangle, x], compile=True)
        assert again.backend == "inductor" and torch.equal(again(triangle, x)[0], graph(triangle, x)[0])

    def test_leaves_the_generator_alone(self):
        linear = nn.Linear(1, 1)
        torch.manual_seed(7)
        expected = torch.rand(2)
        torch.manual_seed(7)
        record(linear, lambda x: [x + torch.randn(3)], [torch.ones(3)], compile=False)
        assert torch.equal(torch.rand(2), expected)


class TestPrecision:
    """bfloat16 products, float32 densities."""

    def test_only_networks_compute_in_it(self):
        vae, x = make(guide=FullNormal), binary(10)
        seen = []
        vae.decoder.hidden[0].register_forward_hook(lambda _m, _x, out: seen.append(out.dtype))
        with computing_in(vae, torch.bfloat16):
            q = vae.encode(x)
            log_p = vae.decode(q.rsample()).log_prob(x)
        assert seen == [torch.bfloat16]
        assert {t.dtype for t in (q.loc, q.scale_tril, log_p)} == {torch.float32}
        vae.decode(torch.zeros(1, 3))
        assert seen == [torch.bfloat16, torch.float32]

    def test_refuses_another(self):
        from pyro_vae.errors import UsageError

        with pytest.raises(UsageError, match="'float32' or 'bf16', got 'fp8'"):
            fit(make(), binary(), precision="fp8")
        with pytest.raises(UsageError, match="compile: expected True or False or 'auto', got 'yes'"):
            fit(make(), binary(), compile="yes")


class TestCPU:
    """The scoped settings."""

    def test_restores(self):
        before = torch.get_num_threads(), torch.backends.mkldnn.matmul.fp32_precision
        with backends.fast_cpu(onednn=True, threads=2) as used, backends.fast_cpu():
            assert used and torch.get_num_threads() == 2
            assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
        assert (torch.get_num_threads(), torch.backends.mkldnn.matmul.fp32_precision) == before

    def test_restores_after_an_error(self):
        before = torch.get_num_threads(), torch.backends.mkldnn.matmul.fp32_precision
        with pytest.raises(KeyError), backends.fast_cpu(onednn=True, threads=2):
            raise KeyError
        assert (torch.get_num_threads(), torch.backends.mkldnn.matmul.fp32_precision) == before

    def test_the_probe_refuses_products_that_are_not_float32(self, monkeypatch):
        """Where oneDNN rounds to bfloat16 (AMX), its error gives it away, however fast it is."""
        self.multiplying(monkeypatch, lambda a, b: torch.matmul(a.bfloat16().to(a.dtype), b))
        monkeypatch.setattr(backends, "_speedup", lambda a, b: 10.0)
        assert not backends.onednn_is_better.__wrapped__()

    def test_the_probe_has_nothing_to_choose_between_the_same_kernels(self, monkeypatch):
        """The clock, which noise of a busy CPU can turn, is not asked."""
        self.multiplying(monkeypatch, torch.matmul)
        monkeypatch.setattr(backends, "_speedup", lambda a, b: pytest.fail("measured"))
        assert not backends.onednn_is_better.__wrapped__()

    @staticmethod
    def multiplying(monkeypatch, product):
        """Let `product` stand for oneDNN's."""

        @contextmanager
        def switched(use):
            with monkeypatch.context() as patch:
                if use:
                    patch.setattr(torch, "mm", product)
                yield

        monkeypatch.setattr(backends, "_onednn", switched)

    @pytest.mark.parametrize(
        ("vendor", "slow", "enough"),
        [("GenuineIntel", 1.1, 2.0), ("AuthenticAMD", 0.5, 1.1), (None, 1.1, 2.0)],
    )
    def test_the_probe_wants_speed(self, monkeypatch, tmp_path, vendor, slow, enough):
        """More of it on the CPUs that MKL is made for, and where the CPU is not told."""
        self.multiplying(monkeypatch, lambda a, b: (a.double() @ b.double()).float())  # as exact, other bits
        monkeypatch.setattr(backends, "_CPU_INFO", tmp_path / "cpuinfo")
        if vendor:
            (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
        for speedup, expected in ((slow, False), (enough, True)):
            monkeypatch.setattr(backends, "_speedup", lambda a, b, speedup=speedup: speedup)
            assert backends.onednn_is_better.__wrapped__() is expected

    def test_the_speedup_is_measured(self):
        a, b = torch.randn(64, 64), torch.randn(64, 64)
        assert 0.01 < backends._speedup(a, b) < 100

    def test_exact_products_are_float32s_on_a_gpu(self):
        """Convolutions too, for which torch's default is TF32; afterwards both switches are as they were."""
        switches = torch.backends.cuda.matmul, torch.backends.cudnn.conv
        before = [switch.fp32_precision for switch in switches]
        with backends.exact_products():
            assert [switch.fp32_precision for switch in switches] == ["ieee", "ieee"]
        assert [switch.fp32_precision for switch in switches] == before and before[1] == "tf32"

    def test_fit_gives_the_settings_back(self):
        before = torch.get_num_threads(), torch.backends.mkldnn.matmul.fp32_precision
        fit(make(guide=DiagonalNormal, likelihood=Bernoulli), binary(), epochs=1, progress=False)
        assert (torch.get_num_threads(), torch.backends.mkldnn.matmul.fp32_precision) == before


def test_choose_step_without_compiling_is_eager():
    assert isinstance(choose_step(loss_of(make(), ELBO()), Batch(binary(5)), False, 1.0), EagerStep)
