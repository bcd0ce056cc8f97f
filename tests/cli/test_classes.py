"""A class that is named has its own defaults: the command line, YAML in both forms, and Python give the same object.

Every concrete class of every axis is found by its base; nothing here names one but in the cases of the command's own
defaults.
"""

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import is_dataclass
from functools import cache
from inspect import Parameter, signature

import pytest
import torch
import yaml

import pyro_vae.autoencoders.hierarchical
import pyro_vae.autoencoders.semi_supervised
import pyro_vae.autoencoders.vector_quantized  # noqa: F401
from pyro_vae import objectives
from pyro_vae.autoencoders import Autoencoder
from pyro_vae.cli.library import Imported
from pyro_vae.cli.parsing import parse, parser_of
from pyro_vae.errors import UsageError
from pyro_vae.guides import Guide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.networks import FromShapes
from pyro_vae.objectives import Objective
from pyro_vae.priors import Prior
from pyro_vae.runs.describing import describe, import_class, resolve
from pyro_vae.schedules import Schedule
from pyro_vae.trackers import Tracker
from tests.support.suites import slow_but

AXES = {
    "vae": Autoencoder,
    "vae.prior": Prior,
    "vae.likelihood": Likelihood,
    "vae.guide": Guide,
    "vae.encoder": FromShapes,
    "vae.decoder": FromShapes,
    "objective": Objective,
    "objective.beta": Schedule,
    "lr_schedule": Schedule,
    "optimizer": torch.optim.Optimizer,
    "tracker": Tracker,
}
SHAPES = {"shapes", "in_shape", "out_shape", "params", "event_shape"}


def cases():
    library = Imported()
    for axis, base in AXES.items():
        for name, cls in library.below(base).items():
            yield pytest.param(axis, cls, id=f"{axis}-{name}")


def own_defaults(cls):
    """The keywords of a class as its signature has them, those of classes within too; shapes are the data's."""
    parameters = signature(cls).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.name not in SHAPES and p.default is not Parameter.empty}
    return {name: in_classes(describe(default)) for name, default in defaults.items()}


def in_classes(value):
    """A description with the classes themselves and all their options; lists for tuples."""
    if isinstance(value, Mapping) and "class_path" in value:
        cls = import_class(value["class_path"], ("pyro_vae", "torch"))
        given = {name: in_classes(inner) for name, inner in (value.get("init_args") or {}).items()}
        return {"class": cls, **own_defaults(cls), **{n: v for n, v in given.items() if n not in SHAPES}}
    return [in_classes(item) for item in value] if isinstance(value, list | tuple) else value


kept_parser = cache(parser_of)
"""A parser serves any number of command lines."""


def at(axis, *words, command="fit"):
    """What a command line gives at an axis, as plain data."""
    first, *path = axis.split(".")
    found = parse(kept_parser(command), list(words))[first]
    for name in path:
        found = found.init_args[name]
    return found.as_dict()


def config(axis, value):
    """`{vae: {prior: VALUE}}` as a text for `--config`."""
    for name in reversed(axis.split(".")):
        value = {name: value}
    return ["--config", yaml.safe_dump(value, default_flow_style=True, width=10_000).strip()]


@pytest.mark.parametrize(("axis", "cls"), list(cases()))
def test_a_named_class_has_its_own_defaults(axis, cls):
    """The command line = YAML in every form = Python."""
    expected = {"class": cls, **own_defaults(cls)}
    name, path = cls.__name__, describe(cls)["class_path"]
    forms = [name, path, {"class_path": name}, {"class_path": path, "init_args": {}}]
    for words in ([f"--{axis}", name], [f"--{axis}={path}"], *(config(axis, form) for form in forms)):
        description = at(axis, *words)
        assert in_classes(description) == expected
        built = resolve(description, ("pyro_vae", "torch"))
        assert built == cls() if is_dataclass(cls) else set(getattr(built, "keywords", {})) >= set(own_defaults(cls))


def test_every_class_of_the_axes_is_seen():
    """Not vacuous: the grid has what `--help` lists, and some of whose defaults are not the command's."""
    names = {str(case.id) for case in cases()}
    assert {"objective-IWAE", "lr_schedule-Linear", "optimizer-AdamW", "vae.encoder-GatedMLP", "vae-VQVAE"} < names
    assert at("objective", "--objective", "IWAE")["init_args"]["num_particles"] == 5
    assert at("optimizer", "--optimizer", "AdamW")["init_args"]["weight_decay"] == 0.01
    assert at("optimizer", "--optimizer", "SGD")["init_args"]["lr"] == 1e-3
    assert at("objective", "--objective", "BetaTC")["init_args"]["beta"] == 4


@pytest.mark.parametrize(("axis", "cls"), [(axis, cls) for axis, cls in (case.values for case in cases())][::4])
def test_refit_takes_them_likewise(axis, cls):
    if axis not in ("vae.prior", "optimizer"):
        pytest.skip("no option of refit")
    name = axis.removeprefix("vae.")
    found = at(name, "r", "--out", "o", f"--{name}", cls.__name__, command="refit")
    assert in_classes(found) == {"class": cls, **own_defaults(cls)}


class TestCommandDefaults:
    """They hold where no class is named, with what was given laid over them, and nowhere else."""

    def options(self, name, *words):
        return at(name, *words).get("init_args", {})

    def test_nothing_given(self):
        beta = {"class_path": "pyro_vae.schedules.Linear"}
        beta["init_args"] = {"start": 0.0, "end": 1.0, "epochs": None, "share": 0.125}
        assert at("objective")["class_path"] == "pyro_vae.objectives.ELBO"
        assert self.options("objective")["beta"] == beta
        assert self.options("optimizer")["lr"] == 2e-3
        assert at("lr_schedule") == {
            "class_path": "pyro_vae.schedules.Cosine",
            "init_args": {"start": 1.0, "end": 0.0, "epochs": None},
        }
        refit = parse(parser_of("refit"), ["r", "--out", "o"])
        assert refit.optimizer.init_args.lr == 2e-3 and refit.prior is None
        assert refit.lr_schedule.as_dict() == at("lr_schedule")

    @pytest.mark.parametrize(
        "words",
        [
            ["--optimizer.betas", "[0.8,0.9]"],
            ["--optimizer.betas=[0.8,0.9]"],
            ["--config", "{optimizer: {betas: [0.8, 0.9]}}"],
            ["--config", "{optimizer: {init_args: {betas: [0.8, 0.9]}}}"],
            ["--config", "{optimizer.betas: [0.8, 0.9]}"],
        ],
    )
    def test_an_option_alone_keeps_the_others(self, words):
        found = self.options("optimizer", *words)
        assert found["lr"] == 2e-3 and tuple(found["betas"]) == (0.8, 0.9)

    def test_the_default_class_named_is_the_class_alone(self):
        assert self.options("objective", "--objective", "ELBO")["beta"] == 1.0
        assert self.options("optimizer", "--optimizer", "Adam")["lr"] == 1e-3
        assert self.options("optimizer", "--optimizer", "torch.optim.Adam", "--optimizer.eps", "1e-6")["lr"] == 1e-3

    def test_a_class_named_within_the_default_one(self):
        """`--objective.beta Linear` is `Linear()`; `--objective.beta.end 2` is the command's warm-up, to 2."""
        assert self.options("objective", "--objective.beta", "Linear")["beta"]["init_args"]["share"] == 1.0
        beta = self.options("objective", "--objective.beta.end", "2")["beta"]["init_args"]
        assert (beta["share"], beta["end"]) == (0.125, 2.0)
        found = self.options("objective", "--objective.beta", "0.5", "--objective.num_particles", "3")
        assert (found["beta"], found["num_particles"]) == (0.5, 3)


class TestLayers:
    """Sources one over another: what comes later counts, and a class takes nothing over from another named one."""

    def beta(self, *words):
        found = at("objective", *words)
        return found["class_path"].rpartition(".")[2], found.get("init_args", {})

    @pytest.mark.parametrize(
        ("words", "name", "options"),
        [
            (["C", "--objective.num_particles", "3"], "Renyi", {"alpha": 0.3, "num_particles": 3}),
            (["--objective.num_particles", "3", "C"], "Renyi", {"alpha": 0.3, "num_particles": 3}),
            (["C", "--objective.alpha", "0.7"], "Renyi", {"alpha": 0.7, "num_particles": 5}),
            (["--objective.alpha", "0.7", "C"], "Renyi", {"alpha": 0.3, "num_particles": 5}),
            (["C", "--objective", "Renyi"], "Renyi", {"alpha": 0.3, "num_particles": 5}),
            (["C", "--objective", "pyro_vae.objectives.Renyi"], "Renyi", {"alpha": 0.3, "num_particles": 5}),
            (["C", "--objective", "IWAE"], "IWAE", {"num_particles": 5}),
            (
                ["--objective", "IWAE", "--objective.num_particles", "9", "C"],
                "Renyi",
                {"alpha": 0.3, "num_particles": 5},
            ),
            (["--objective.num_particles", "9", "--objective", "IWAE"], "IWAE", {"num_particles": 9}),
            (["--objective", "IWAE", "--objective.num_particles", "9"], "IWAE", {"num_particles": 9}),
            (["C", "--config", "{objective: {num_particles: 2}}"], "Renyi", {"alpha": 0.3, "num_particles": 2}),
            (["C", "--config", "{objective: {class_path: ELBO}}"], "ELBO", {"beta": 1.0, "num_particles": 1}),
        ],
    )
    def test_objective(self, tmp_path, words, name, options):
        path = tmp_path / "c.yaml"
        path.write_text("objective:\n  class_path: Renyi\n  init_args: {alpha: 0.3}\n")
        words = [part for word in words for part in (["--config", str(path)] if word == "C" else [word])]
        found, given = self.beta(*words)
        assert found == name and {k: given[k] for k in options} == options
        assert set(given) == set(own_defaults(getattr(objectives, name)))

    def test_parts_of_a_vae(self):
        words = config("vae", {"latent_dim": 3, "prior": {"class_path": "VampPrior", "init_args": {"components": 7}}})
        more = ["--vae.encoder.hidden", "[9]", "--vae.prior.initial", "random"]
        for given in ([*words, *more], [*more, *words]):
            vae = at("vae", *given)["init_args"]
            assert vae["latent_dim"] == 3 and tuple(vae["encoder"]["init_args"]["hidden"]) == (9,)
            prior = vae["prior"]["init_args"]
            assert (prior["components"], prior["initial"], prior["learn_weights"]) == (7, "random", False)
        with pytest.raises(UsageError, match="VQVAE has no option 'latent_dim'"):  # given to no class in particular
            at("vae", *words, "--vae", "VQVAE")

    def test_plain_options_too(self):
        options = parse(
            parser_of("fit"), ["--epochs", "3", "--config", "{epochs: 4, quiet: true, run: '5', patience: null}"]
        )
        assert (options.epochs, options.quiet, options.run, options.patience) == (4, True, "5", None)
        assert parse(parser_of("fit"), ["--config", "{epochs: 4}", "--epochs", "3"]).epochs == 3


@pytest.mark.parametrize(
    "words", [[], ["--vae", "VQVAE"], ["--objective", "Denoising", "--objective.amount", "Linear"]]
)
def test_print_config_repeats_itself(words, tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse(parser_of("fit"), [*words, "--print_config"])
    (tmp_path / "c.yaml").write_text(capsys.readouterr().out)
    assert parse(parser_of("fit"), ["--config", str(tmp_path / "c.yaml")]) == parse(parser_of("fit"), words)


MINE = '''
from pyro_vae.likelihoods import Normal
from pyro_vae.networks import MLP


class Scaled(Normal):
    """A normal likelihood with other defaults."""

    def __init__(self, shapes, factor: float = 2.0, limits=object(), **keywords):
        super().__init__(shapes, **keywords)
'''


def test_a_class_of_ones_own(tmp_path, monkeypatch):
    """By import path: its own options, and those that it hands on; a default that is no plain data is left to it."""
    (tmp_path / "scaled_likelihoods.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    found = at("vae.likelihood", "--vae.likelihood", "scaled_likelihoods.Scaled", "--vae.likelihood.min_scale", "0.01")
    assert found["init_args"] == {"factor": 2.0, "scale": 1.0, "bounded": False, "min_scale": 0.01}


class TestMistakes:
    """One line with the key, in the syntax of where it was typed."""

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--config", "{objetive: IWAE}"], r"unknown key 'objetive', did you mean 'objective'\? Known: vae, obj"),
            (["--config", "{vae: {latnt_dim: 3}}"], "vae: VAE has no option 'latnt_dim', did you mean 'latent_dim'"),
            (["--config", "{vae: {encoder: {hiden: [3]}}}"], "vae.encoder: MLP has no option 'hiden', did you mean"),
            (["--config", "{objective: IWEA}"], "objective: unknown class 'IWEA', did you mean 'IWAE'"),
            (
                ["--config", "{objective: {class_path: 5}}"],
                r"^objective\.class_path: expected the name of a class, got 5",
            ),
            (["--config", "{objective: 5}"], r"^objective: expected the name of a class, got 5\. Known: BetaTC"),
            (["--config", "{objective: null}"], r"^objective: expected the name of a class, got null"),
            (["--config", "{objective: [IWAE]}"], r"^objective: expected the name of a class, got \['IWAE'\]"),
            (["--config", "{objective: {init_args: [null]}}"], r"^objective\.init_args: expected options by name, got"),
            (["--config", "{objective: {class_path: ELBO, init_args: {}, beta: 1}}"], "alone, got beta too"),
            (["--config", "{vae: {prior: {dict_kwargs: {a: 1}}}}"], "StandardNormal has no option 'dict_kwargs'"),
            (
                ["--config", "{vae: {encoder: {hidden: null}}}"],
                r"^vae\.encoder\.hidden: expected a list of whole .* null",
            ),
            (["--config", "{vae: {encoder: {hidden: [[1]]}}}"], r"^vae\.encoder\.hidden: expected a list of whole"),
            (["--config", "{optimizer: {lr: {a: 1}}}"], r"^optimizer\.lr: expected a number, got"),
            (["--config", "{optimizer: {lr: true}}"], r"^optimizer\.lr: expected a number, got true"),
            (["--config", "{optimizer: {betas: [1]}}"], r"^optimizer\.betas: expected 2 values"),
            (
                ["--config", "{objective: {beta: [1]}}"],
                r"^objective\.beta: expected a number or a class \(Constant, .*\), got",
            ),
            (["--config", "{epochs: null}"], r"^epochs: expected a whole number, got"),
            (["--config", "{epochs: [1, 2]}"], r"^epochs: expected a whole number, got"),
            (["--config", "{epochs: {a: 1}}"], r"^epochs: expected a whole number, got"),
            (["--config", "{quiet: 3}"], r"^quiet: expected true or false, got 3"),
            (["--config", "{config: x.yaml}"], "unknown key 'config'"),
            (["--config", "{vae: &v {prior: *v}}"], r"--config .*: vae\.prior: the alias \*v stands for something"),
            (["--config", "{epochs: 1, epochs: 2}"], "the key 'epochs' is given twice"),
            (["--config", "nowhere.yaml"], r"--config: there is no file 'nowhere\.yaml'"),
            (["--config", "{a"], r"--config \{a: line 2, column 1: "),
            (["--config"], "--config: expected a file after it"),
            (["--vae.latent_dim"], r"--vae\.latent_dim: expected a value after it"),
            (
                ["--objective", "ELBO", "--objective.beta.end", "3"],
                r"1\.0 has no option 'end'.*by --objective\.beta CLASS",
            ),
            (["--objective.beta", "0.5", "--objective.beta.end", "3"], r"'0\.5' has no option 'end'"),
            (["--vae" + ".a" * 2000, "3"], r"^--vae: expected at most 50 names one below the other, got 2000"),
            (["--vae.prior", ".."], r"^--vae\.prior: '\.\.' is no import path: expected MODULE\.CLASS"),
            (["--vae.prior", "null"], r"^--vae\.prior: unknown class 'null'"),
            (["--vae.prior", "pyro_vae.priors.Prior"], r"^--vae\.prior: Prior is only a base: name one of Cond"),
            (
                ["--vae.prior", "pyro_vae.priors.Priro"],
                r"^--vae\.prior: there is no 'Priro' in the module 'pyro_vae\.priors'",
            ),
            (["--optimizer", "torch.zeros"], r"^--optimizer: expected a class, got the builtin_function"),
            (
                ["--vae.encoder", "torch.nn.ReLU"],
                r"^--vae\.encoder: ReLU can't be a network: .* ReLU\(in_shape, out_shape",
            ),
        ],
    )
    def test_one_line(self, words, message):
        with pytest.raises(UsageError, match=message) as caught:
            parse(parser_of("fit"), words)
        assert "\n" not in str(caught.value)

    def test_a_list_of_one(self):
        """`--vae.encoder.hidden 200` means [200]; so does `3,4` [3, 4]."""
        for word, hidden in {"200": (200,), "200,100": (200, 100), "[7]": (7,), "[]": ()}.items():
            assert at("vae.encoder", "--vae.encoder.hidden", word)["init_args"]["hidden"] == hidden
        assert at("vae.encoder", *config("vae.encoder", {"hidden": 200}))["init_args"]["hidden"] == (200,)

    def test_files_that_are_no_text(self, tmp_path):
        (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(UsageError, match="expected text in UTF-8"):
            parse(parser_of("fit"), ["--config", str(tmp_path / "x.yaml")])
        with pytest.raises(UsageError, match="expected a file, got the folder"):
            parse(parser_of("fit"), ["--config", str(tmp_path)])
        with pytest.raises(UsageError, match="expected at most 200000 characters"):
            parse(parser_of("fit"), ["--config", "/dev/zero"])


@pytest.mark.parametrize("seed", slow_but([0], range(4)))
def test_mutated_configurations_are_refused_in_one_line(seed):
    """Each place of a whole configuration replaced by other data: it is taken, or told in one line with its key."""
    start = parse(parser_of("fit"), [])
    whole = {name: value for name, value in start.as_dict().items() if name not in ("config", "print_config")}
    whole = json.loads(json.dumps(whole))
    places = list(every_place(whole))
    others = [None, True, -1, 1.5, "x", "", [], [None], {}, {"class_path": None}, {"init_args": [1]}, [[1, 2]]]
    refused = 0
    for number, place in enumerate(places):
        mutated = deepcopy(whole)
        put(mutated, place, others[(number + 3 * seed) % len(others)])
        try:
            parse(kept_parser("fit"), ["--config", json.dumps(mutated)])
        except UsageError as error:
            refused += 1
            assert "\n" not in str(error) and place[0] in str(error), (place, str(error))
    assert refused > len(places) / 2


def every_place(value, path=()):
    if path:
        yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from every_place(inner, (*path, key))


def put(value, path, new):
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = new
