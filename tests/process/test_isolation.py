"""The library as a guest: the same numbers in whatever mode the caller is, one call at a time, every switch left."""

import inspect
import sys
from contextlib import ExitStack
from pathlib import Path

import pyro
import pytest
import scipy.sparse  # noqa: F401 - as sympy
import sklearn  # noqa: F401 - its first import sets two variables of the environment for itself
import sympy  # noqa: F401 - torch's compiler imports it, and its first import adds a filter of warnings
import torch

import pyro_vae as pv
from pyro_vae import evidence, plots
from pyro_vae.errors import UsageError
from pyro_vae.evidence import log_marginal
from pyro_vae.messages import Progress
from pyro_vae.process.isolation import ordinary
from tests.support.calls import CALLS, PLOTS, Things, data, fitted, pair, plain
from tests.support.switches import differences, snapshot

MODES = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}
pytestmark = pytest.mark.usefixtures("few_adapted")
RUNNING = [name for name, call in CALLS.items() if call.runs]


HARMLESS = {
    "a trace behind a block": ("log_marginal", lambda: (pyro.poutine.trace(), pyro.poutine.block())),
    "a seed": ("log_marginal", lambda: (pyro.poutine.seed(rng_seed=1),)),
    "a trace of parameters": ("log_marginal", lambda: (pyro.poutine.trace(param_only=True),)),
    "a plate around no program": ("load_data", lambda: (pyro.plate("data", 3),)),
}


@pytest.fixture(scope="module")
def expected():
    """Results outside of any mode, each computed when it is first asked for."""
    found = {}

    def of(name):
        if name not in found:
            found[name] = plain(CALLS[name].run(Things()))
        return found[name]

    return of


class Boom(BaseException):
    """Stands for Ctrl-C: no `except Exception` takes it."""


def raising(things, error):
    """The things with networks that fail."""

    def fail(*_):
        raise error

    for vae in things.modules:
        for module in vae.modules():
            module.register_forward_pre_hook(fail)
    return things


class TestModes:
    def test_every_public_function_is_called(self):
        """A new one is to be added to `calls.CALLS`."""
        public = [getattr(pv, name) for name in pv.__all__] + [getattr(evidence, name) for name in evidence.__all__]
        functions = {f.__name__ for f in public if inspect.isfunction(f)} - {"seeded", "load", "bits_per_dim"}
        assert functions <= {call.covers for call in CALLS.values()}
        drawn = {
            name for name in plots.__all__ if inspect.signature(getattr(plots, name)).return_annotation == "Figure"
        }
        assert len(drawn) > 10 and drawn <= set(PLOTS)

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("name", CALLS)
    def test_the_same_bits_in_every_mode(self, name, mode, expected):
        """Modules, data and results all made in the mode."""
        with MODES[mode]():
            got = plain(CALLS[name].run(Things()))
        assert got == expected(name)

    @pytest.mark.parametrize("name", RUNNING)
    def test_data_of_inference_mode_outside_of_it(self, name, expected):
        things = Things()
        with torch.inference_mode():
            assert things.x.is_inference() and things.dataset.train.is_inference()
        assert plain(CALLS[name].run(things)) == expected(name)

    @pytest.mark.parametrize("name", ["log_marginal", "fit", "posterior by hmc"])
    def test_autocast(self, name, expected):
        with torch.autocast("cpu", torch.bfloat16):
            got = plain(CALLS[name].run(Things()))
        assert got == expected(name)

    def test_gradients_of_importance_are_the_callers(self):
        things = Things()
        assert pv.inference.importance(*pair(things), num_particles=2).log_weights.requires_grad
        with torch.no_grad():
            assert not pv.inference.importance(*pair(things), num_particles=2).log_weights.requires_grad

    def test_a_guide_that_climbs_by_itself(self):
        things = Things()
        expected = things.refined.encode(things.x).mean.detach()
        with torch.inference_mode():
            got = things.refined.encode(data()).mean
        assert torch.equal(got, expected)

    def test_a_run_that_is_loaded_in_inference_mode_can_be_trained(self, tmp_path):
        fitted(Things().vae, data(), run=tmp_path / "run")
        with torch.inference_mode():
            vae = pv.load(tmp_path / "run")
        assert not any(p.is_inference() for p in vae.parameters())
        fitted(vae, data())

    @pytest.mark.parametrize("name", ["log_marginal", "ais", "fit", "posterior by hmc", "sample", "elbo_surgery"])
    def test_weights_of_inference_mode_are_refused(self, name):
        things = Things()
        with torch.inference_mode():
            things.vae.double().float()
        with pytest.raises(UsageError, match=r"VAE: 'encoder.* was made in torch.inference_mode.*deepcopy"):
            CALLS[name].run(things)

    def test_weights_that_a_program_hides_are_refused_where_they_matter(self):
        things = Things()
        with torch.inference_mode():
            things.vae.double().float()
        model, guide = (lambda x: things.vae.model(x)), (lambda x: things.vae.guide(x))
        with pytest.raises(UsageError, match=r"ais met a tensor or a weight that was made in torch\.inference_mode"):
            pv.ais(model, guide, data())

    def test_arguments_are_searched(self):
        with torch.inference_mode():
            x = torch.ones(2)
        made = ordinary({"a": [x, (x, 1)], "b": pv.data.Dataset("some", x[:, None])})
        assert not made["a"][0].is_inference() and not made["a"][1][0].is_inference()
        assert not made["b"].train.is_inference() and made["b"].name == "some"
        same = {"a": [torch.ones(2)]}
        assert ordinary(same) is same


class TestSwitches:
    @pytest.mark.parametrize("name", CALLS)
    def test_left_as_they_were(self, name, expected):
        expected(name)  # what libraries do when they are first imported: `test_first_use`
        things, before = Things(), snapshot()
        CALLS[name].run(things)
        assert differences(before, snapshot()) == []

    @pytest.mark.parametrize("name", PLOTS)
    def test_left_by_pictures(self, name, tmp_path):
        import matplotlib.figure

        before = snapshot()
        made = PLOTS[name](Things())
        if isinstance(made, matplotlib.figure.Figure):
            made.set_dpi(20)
            plots.save(made, tmp_path / "it.png")
        assert differences(before, snapshot()) == []

    @pytest.mark.parametrize("error", [ZeroDivisionError, Boom])
    @pytest.mark.parametrize("name", RUNNING)
    def test_left_after_an_error(self, name, error):
        things = raising(Things(), error("no"))
        before = snapshot()
        with pytest.raises(BaseException) as caught:
            CALLS[name].run(things)
        assert isinstance(caught.value, error | pv.testing.contract.ContractError | Exception | Boom)
        assert differences(before, snapshot()) == []

    @pytest.mark.parametrize("name", ["log_marginal", "fit, codes", "reconstruct"])
    def test_left_wherever_it_is_interrupted(self, name, expected):
        """Ctrl-C at some of the lines of the package, of Pyro and of torch; how many there are varies by a few."""
        expected(name)
        lines = counting(CALLS[name].run, made())
        for number in range(1, lines - lines // 20, max(1, lines // 9)):
            things, before = made(), snapshot()
            with interrupted_at(number), pytest.raises(Boom):
                CALLS[name].run(things)
            assert differences(before, snapshot()) == [], number

    def test_a_setting_of_torch_distributions_alone(self):
        """`pyro.validation_enabled` would give them Pyro's."""
        distributions = torch.distributions.Distribution
        before = distributions._validate_args
        try:
            distributions.set_default_validate_args(False)
            assert pyro.distributions.util.is_validation_enabled()
            CALLS["log_marginal"].run(Things())
            fitted(Things().vae, data())
            assert distributions._validate_args is False
        finally:
            distributions.set_default_validate_args(before)

    def test_a_callback_may_call_too_and_keeps_what_it_sets(self):
        things, found = Things(), []

        def progress(done):
            found.append(log_marginal(*pair(things), num_particles=60).log_p)
            torch.manual_seed(5)

        outer = log_marginal(*pair(things), num_particles=60, progress=progress).log_p
        assert torch.equal(outer, found[0]) and torch.initial_seed() == 5

    def test_a_bar_leaves_the_process_alone(self, monkeypatch):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        before = snapshot()
        with Progress(3, "epoch") as bar:
            bar.show(1)
            assert differences(before, snapshot()) == []


HERE = Path(__file__).parent
INSIDE = ("/pyro_vae/", "/pyro/", "/torch/")
DOOR = ("isolation.py", "turns.py", "switches.py", "torch_cache.py")
"""What puts the switches back: an interruption between its own lines is beyond it."""


def line_events(act):
    """Trace lines of the package and the libraries below it, outside of the door."""

    def local(frame, event, _):
        if event == "line":
            act()
        return local

    def trace(frame, event, _):
        path = frame.f_code.co_filename
        inside = any(part in path for part in INSIDE) and not path.endswith(DOOR)
        return local if inside else None

    return trace


def made():
    """Things with their modules, as those are made outside of the door."""
    things = Things()
    assert things.modules
    return things


def counting(run, things):
    """How many such lines there are."""
    count = [0]

    def act():
        count[0] += 1

    sys.settrace(line_events(act))
    try:
        run(things)
    finally:
        sys.settrace(None)
    return count[0]


class interrupted_at:  # noqa: N801 - reads as a verb
    """Raise `Boom` at the line of this number."""

    def __init__(self, number):
        self.number, self.count = number, 0

    def act(self):
        self.count += 1
        if self.count == self.number:
            sys.settrace(None)
            raise Boom

    def __enter__(self):
        sys.settrace(line_events(self.act))

    def __exit__(self, *_):
        sys.settrace(None)


class TestInsideOfPrograms:
    """Handlers of the caller that would take part in the programs that a function runs."""

    @pytest.mark.parametrize("plate", [("data", 6), ("others", 3, None, -2)], ids=str)
    def test_a_plate_is_refused(self, plate):
        name, size, *dim = plate
        things = Things()
        with pyro.plate(name, size, dim=dim[-1] if dim else None), pytest.raises(UsageError) as refused:
            CALLS["log_marginal"].run(things)
        assert f"log_marginal was called inside pyro.plate({name!r})" in str(refused.value)
        assert "\n" not in str(refused.value)

    def test_a_loop_over_a_plate_is_refused(self):
        things = Things()
        with pytest.raises(UsageError, match=r"inside pyro\.plate"):
            for _ in pyro.plate("runs", 2):
                CALLS["log_marginal"].run(things)

    def test_a_traced_program_is_refused(self):
        things = Things()
        with pytest.raises(UsageError, match="log_marginal was called while a Pyro program is traced"):
            pyro.poutine.trace(lambda: CALLS["log_marginal"].run(things)).get_trace()

    @pytest.mark.parametrize("name", HARMLESS)
    def test_other_handlers_change_nothing(self, name, expected):
        """A trace behind a block sees nothing, SVI traces parameters, and data may be read in a plate."""
        call, handlers = HARMLESS[name]
        things = Things()
        with ExitStack() as stack:
            for handler in handlers():
                stack.enter_context(handler)
            found = plain(CALLS[call].run(things))
        assert found == expected(call)
