"""The first batch: whatever SVI takes is taken, with the same steps; what does not fit is refused with its shapes."""

import warnings
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import pyro
import pyro.distributions as dist
import pyro.infer as infer
import pytest
import torch
from torch import nn

from pyro_vae.autoencoders import VAE
from pyro_vae.data import Dataset, load_data
from pyro_vae.errors import UsageError
from pyro_vae.likelihoods import Normal
from pyro_vae.networks import MLP, Network
from pyro_vae.objectives import ELBO, Denoising, ScoreFunction
from pyro_vae.process.seeding import seeded
from pyro_vae.training.fitting import fit

SMALL = partial(MLP, hidden=(8,))


def make(seed=0, **parts):
    with seeded(seed, "init"):
        return VAE((8, 8), 2, **{"encoder": SMALL, "decoder": SMALL, **parts}).double()


def binary(n=60):
    return (torch.rand(n, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.3).float()


def weights(module):
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


class Mixture(nn.Module):
    """A pair of the user's own with a discrete site, which tells Pyro no parameters."""

    def __init__(self):
        super().__init__()
        with seeded(0, "init"):
            self.logits, self.loc = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.randn(3, 64))
            self.net = nn.Linear(64, 3)
        self.double()

    @infer.config_enumerate
    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            k = pyro.sample("k", dist.Categorical(logits=self.logits))
            pyro.sample("x", dist.Bernoulli(logits=self.loc[k]).to_event(1), obs=x.flatten(1).double())

    @infer.config_enumerate
    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("k", dist.Categorical(logits=self.net(x.flatten(1).double())))


class Drawn(Mixture):
    """The same with the discrete site drawn, not summed out."""

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("k", dist.Categorical(logits=self.net(x.flatten(1).double())))


class SummedOut(Mixture):
    """The model's discrete site is summed out: the guide draws nothing."""

    def guide(self, x):
        pass


class Continuous(nn.Module):
    """A pair of the user's own whose sites are all reparameterised."""

    def __init__(self):
        super().__init__()
        with seeded(0, "init"):
            self.decode, self.encode = nn.Linear(2, 64), nn.Linear(64, 2)
        self.double()

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decode(z), 1.0).to_event(1), obs=x.flatten(1).double())

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.encode(x.flatten(1).double()), 1.0).to_event(1))


class Own(infer.ELBO):
    """An ELBO of the user's own, as Pyro's documentation writes one."""

    def _get_trace(self, model, guide, args, kwargs):
        raise NotImplementedError

    def loss(self, model, guide, *args, **kwargs):
        guide_trace = pyro.poutine.trace(guide).get_trace(*args, **kwargs)
        model_trace = pyro.poutine.trace(pyro.poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
        return 2 * (guide_trace.log_prob_sum() - model_trace.log_prob_sum())

    def loss_and_grads(self, model, guide, *args, **kwargs):
        loss = self.loss(model, guide, *args, **kwargs)
        loss.backward()
        return loss.item()


def many(cls, **options):
    return cls(num_particles=3, vectorize_particles=True, max_plate_nesting=1, **options)


LOSSES = {
    "Trace_ELBO": (infer.Trace_ELBO(), make, Mixture, SummedOut),
    "Trace_ELBO vectorized": (many(infer.Trace_ELBO), make, Mixture),
    "TraceGraph_ELBO": (infer.TraceGraph_ELBO(), make, Mixture),
    "TraceMeanField_ELBO": (infer.TraceMeanField_ELBO(), make),
    "TraceEnum_ELBO": (infer.TraceEnum_ELBO(max_plate_nesting=1), make, Mixture, SummedOut),
    "TraceEnum_ELBO guessed": (infer.TraceEnum_ELBO(), Mixture),
    "TraceTMC_ELBO": (infer.TraceTMC_ELBO(max_plate_nesting=1), Mixture),
    "TraceTailAdaptive_ELBO": (many(infer.TraceTailAdaptive_ELBO), make),
    "RenyiELBO": (many(infer.RenyiELBO, alpha=0.5), make, Continuous),
    "ReweightedWakeSleep": (many(infer.ReweightedWakeSleep), make, Mixture),
    "EnergyDistance": (infer.EnergyDistance(num_particles=3, max_plate_nesting=2), Continuous),
    "Own": (Own(), make, Continuous),
    "function": (lambda *args: ELBO()(*args) / 2, make),
}
CASES = [pytest.param(loss, pair, id=f"{n}-{pair.__name__}") for n, (loss, *pairs) in LOSSES.items() for pair in pairs]


def by_svi(pair, x, loss):
    """Two epochs of two steps; a module of the user's own tells SVI its parameters itself."""
    pyro.clear_param_store()
    registered = (lambda x: (pyro.module("own", pair), pair.model(x))) if not isinstance(pair, VAE) else pair.model
    svi = infer.SVI(registered, pair.guide, pyro.optim.Adam({"lr": 1e-3}), loss)
    for epoch in range(2):
        with seeded(0, "order", epoch):
            order = torch.randperm(len(x))
        for step, index in enumerate(order.split(30)):
            with seeded(0, "step", epoch, step):
                svi.step(x[index])
    pyro.clear_param_store()


@pytest.mark.parametrize(("loss", "pair"), CASES)
def test_the_steps_are_svis(loss, pair):
    x, ours, expected = binary(), pair(), pair()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pyro's own, of sites that are summed out
        by_svi(expected, x, deepcopy(loss))
        history = fit(
            ours, Dataset("x", x, x[:20]), deepcopy(loss), epochs=2, batch_size=30, progress=False, keep="last"
        )
    torch.testing.assert_close(weights(ours), weights(expected), rtol=0, atol=1e-7)
    assert not torch.equal(weights(ours), weights(pair()))
    assert len(pyro.get_param_store()) == 0
    no_value = isinstance(loss, infer.TraceTailAdaptive_ELBO)
    assert history.rows[-1]["loss"] != history.rows[-1]["loss"] if no_value else history.rows[-1]["loss"] < 1e3
    if pair is not SummedOut:  # which has no bound to report, and Pyro's ELBO sums that site without a guide
        assert history.rows[-1]["valid_loss"] < 1e3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("loss", [infer.JitTrace_ELBO, infer.JitTraceGraph_ELBO, infer.JitTraceMeanField_ELBO])
def test_the_steps_of_compiled_elbos_are_svis(loss):
    ours, expected = make(), make()
    by_svi(expected, binary(), loss(ignore_jit_warnings=True))
    fit(ours, binary(), loss(ignore_jit_warnings=True), epochs=2, batch_size=30, progress=False)
    torch.testing.assert_close(weights(ours), weights(expected), rtol=0, atol=1e-7)


@pytest.mark.filterwarnings("ignore:.*TraceEnum_ELBO found no sample sites")
def test_pyros_elbos_are_judged_by_their_loss():
    x = binary()
    history = fit(make(), Dataset("x", x, x[:30]), infer.TraceEnum_ELBO(max_plate_nesting=1), epochs=3, progress=False)
    assert history.kept.endswith("by the validation value of TraceEnum_ELBO")
    tail = fit(make(), Dataset("x", x, x[:30]), many(infer.TraceTailAdaptive_ELBO), epochs=2, progress=False)
    assert tail.column("valid_loss") == pytest.approx([-value for value in tail.column("valid_elbo")])


class TestSubclasses:
    """Of our own ELBO."""

    def test_a_subclass_with_a_guide_that_is_not_reparameterised(self):
        """Its gradient is Pyro's score function, as of the class itself."""

        @dataclass(frozen=True)
        class Named(ELBO):
            pass

        ours, expected = Drawn(), Drawn()
        for pair, objective in ((ours, Named()), (expected, ELBO())):
            fit(pair, binary(), objective, epochs=2, batch_size=30, progress=False)
        assert torch.equal(weights(ours), weights(expected)) and not torch.equal(weights(ours), weights(Drawn()))

    @pytest.mark.parametrize("wrap", [lambda objective: objective, lambda objective: Denoising(objective, amount=0.2)])
    def test_a_changed_call_is_what_is_trained(self, wrap):
        @dataclass(frozen=True)
        class Doubled(ELBO):
            def __call__(self, model, guide, *args, **kwargs):
                return 2 * super().__call__(model, guide, *args, **kwargs)

        ends = []
        for objective, rate in ((Doubled(), 1e-4), (ELBO(), 2e-4)):
            vae = make()
            sgd = partial(torch.optim.SGD, lr=rate)
            fit(vae, binary(), wrap(objective), epochs=2, batch_size=30, optimizer=sgd, progress=False)
            ends.append(weights(vae))
        torch.testing.assert_close(*ends, rtol=0, atol=1e-9)
        assert not torch.equal(ends[0], weights(make()))

    def test_a_changed_tensor_loss_is_too(self):
        @dataclass(frozen=True)
        class Noted(ELBO):
            def tensor_loss(self, model, guide, *args, **kwargs):
                return 3 * super().tensor_loss(model, guide, *args, **kwargs)

        history = fit(make(), binary(), Noted(), epochs=1, progress=False)
        assert history.rows[0]["loss"] == pytest.approx(-3 * history.rows[0]["train_elbo"], rel=0.1)


class TestBatchNorm:
    """A last batch of one datum."""

    def pair(self, **parts):
        return make(encoder=partial(MLP, hidden=(8,), norm="batch"), **parts)

    @pytest.mark.parametrize("role", ["encoder", "decoder"])
    def test_it_joins_the_one_before(self, role):
        sizes = []

        def loss(model, guide, x):
            sizes.append(len(x))
            return ELBO()(model, guide, x)

        vae = make(**{role: partial(MLP, hidden=(8,), norm="batch")})
        history = fit(vae, binary(41), loss, epochs=2, batch_size=20, progress=False)
        assert sizes == [20, 20, 21, 20, 21] and history.rows[-1]["step"] == 4

    def test_other_trainings_keep_it(self):
        for encoder in (SMALL, Planes):
            history = fit(make(encoder=encoder), binary(41), epochs=1, batch_size=20, progress=False)
            assert history.rows[-1]["step"] == 3

    @pytest.mark.parametrize(("n", "batch"), [(41, 1), (1, 20)])
    def test_batches_of_one_are_refused_before_training(self, n, batch):
        with pytest.raises(
            UsageError, match="batch normalisation needs at least 2 data in a batch, and the first has 1"
        ):
            fit(self.pair(), binary(n), epochs=1, batch_size=batch, progress=False)

    def test_the_rehearsal_leaves_no_trace(self, tmp_path, monkeypatch):
        """Averages are those of the steps alone, also where a run has been resumed."""
        from pyro_vae.errors import Stopped
        from pyro_vae.training import trainer as training

        options = {"epochs": 2, "batch_size": 20, "progress": False}
        whole = self.pair()
        fit(whole, binary(41), **options)
        seen = [value for name, value in whole.state_dict().items() if "num_batches" in name]
        assert [int(value) for value in seen] == [4]
        tick, ticks = training.Trainer.tick, []

        def stopping(trainer):
            ticks.append(0)
            if len(ticks) == 3:
                trainer.signals.pending.append(2)
            tick(trainer)

        monkeypatch.setattr(training.Trainer, "tick", stopping)
        with pytest.raises(Stopped):
            fit(self.pair(), binary(41), run=tmp_path, **options)
        resumed = self.pair()
        fit(resumed, binary(41), run=tmp_path, **options)
        assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


class Planes(nn.Module):
    """Batch normalisation of images, of which one has many pixels."""

    def __init__(self, in_shape, out_shape):
        super().__init__()
        linear = nn.Linear(64, out_shape[0] * out_shape[1])
        self.layers = nn.Sequential(nn.Unflatten(1, (1, 8)), nn.BatchNorm2d(1), nn.Flatten(), linear)

    def forward(self, x):
        return self.layers(x)


class Narrow(Network):
    """Returns a shape that would broadcast."""

    def __init__(self, in_shape, out_shape):
        super().__init__(in_shape, out_shape)
        self.inner = MLP(in_shape, (*out_shape[:-1], 1), hidden=(4,))

    def forward(self, x):
        return self.inner(x)


class TestShapes:
    """Nothing trains by being broadcast."""

    def refused(self, pair, message):
        with pytest.raises(UsageError, match=message):
            fit(pair, binary(), epochs=1, progress=False)

    def test_a_network_of_the_users(self):
        self.refused(make(decoder=Narrow), r"Narrow must map \[60, 2\] to \[60, 1, 8, 8\], .* returned \[60, 1, 8, 1\]")
        self.refused(make(encoder=Narrow), r"Narrow must map \[60, 8, 8\] to \[60, 2, 2\], .* returned \[60, 2, 1\]")
        self.refused(make(likelihood=Normal, decoder=Narrow), r"Narrow must map .* returned \[60, 1, 8, 1\]")

    def test_the_refusal_is_one_line(self):
        """Pyro appends a table of shapes to what is raised inside a program, the error's own class kept."""
        with pytest.raises(UsageError) as found:
            fit(make(decoder=Planes), binary(), epochs=1, progress=False)
        assert "\n" not in str(found.value)
        assert str(UsageError("a\nTrace Shapes:\n b")) == "a" and not str(UsageError())

    def test_a_network_that_was_put_in_later(self):
        decoder, encoder = make(), make()
        decoder.decoder = nn.Sequential(nn.Linear(2, 8), nn.Unflatten(-1, (1, 8, 1))).double()
        self.refused(decoder, r"Bernoulli needs parameters of shape \[..., 1, 8, 8\].*returned \[60, 1, 8, 1\]")
        encoder.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 2), nn.Unflatten(-1, (2, 1))).double()
        self.refused(encoder, r"MLP: expected an input of shape \[..., 2\], got \[60, 1\]")

    @pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8)])
    def test_a_scale_of_the_wrong_shape(self, shape):
        class Scaled(Normal):
            def distribution(self, *params):
                return dist.Normal(params[0], torch.ones(shape).double())

        vae = make(likelihood=Scaled)
        if shape[0] == 1:
            with pytest.raises(
                UsageError, match=r"Scaled.distribution must have its parameters' batch shape \[60, 8, 8\]"
            ):
                fit(vae, binary(), epochs=1, progress=False)
        else:
            with pytest.raises(
                UsageError, match=r"Scaled.distribution must have its parameters' batch shape \[1, 8, 8\]"
            ):
                fit(vae, binary(1), epochs=1, progress=False)

    @pytest.mark.parametrize("shape", [(), (1,), (8,), (8, 1), (8, 8)])
    def test_a_scale_that_is_shared_on_purpose(self, shape):
        class Scaled(Normal):
            def __init__(self, shapes):
                super().__init__(shapes)
                self.log_scale = nn.Parameter(torch.zeros(shape))

            def distribution(self, *params):
                return dist.Normal(params[0], self.log_scale.exp())

        vae = make(likelihood=Scaled)
        fit(vae, binary(), epochs=1, progress=False)
        assert vae.likelihood.log_scale.abs().min() > 0

    def test_programs_of_the_users(self):
        class Wrong(Continuous):
            def model(self, x):
                with pyro.plate("data", len(x), dim=-1):
                    z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
                    pyro.sample("x", dist.Normal(self.decode(z)[:, :8].unflatten(1, (8, 1)), 1.0).to_event(2), obs=x)

        class WrongPrior(Continuous):
            def model(self, x):
                with pyro.plate("data", len(x), dim=-1):
                    z = pyro.sample("z", dist.Normal(torch.zeros(1).double(), 1.0).to_event(1))
                    pyro.sample("x", dist.Normal(self.decode(z), 1.0).to_event(1), obs=x.flatten(1).double())

        self.refused(
            Wrong(), r"site 'x' of the model: a Normal of event shape \[8, 1\] .* values of shape \[60, 8, 8\]"
        )
        self.refused(WrongPrior(), r"site 'z' of the model: a Normal of event shape \[1\] .* values of shape \[60, 2\]")

    def test_a_score_function_needs_no_path(self):
        assert fit(Mixture(), binary(), ScoreFunction(3), epochs=1, progress=False).mode == "eager"

    def test_real_data_with_a_last_batch_of_one(self):
        data = load_data("digits", binarize="static")
        vae = make(encoder=partial(MLP, hidden=(8,), norm="batch"))
        few = Dataset("digits", data.split("train")[:101], data.split("valid"))
        assert fit(vae, few, epochs=1, batch_size=4, progress=False).rows[-1]["step"] == 25
