"""Help and mistakes are told without torch, from the sources, which say the same as the imported package."""

import subprocess
import sys
from inspect import isabstract

import pytest
import torch

from pyro_vae.autoencoders import Autoencoder
from pyro_vae.cli import main
from pyro_vae.cli.described import described
from pyro_vae.cli.finding import command_names
from pyro_vae.cli.given import given_of
from pyro_vae.cli.library import Axis, Imported, axis_of, names_of
from pyro_vae.cli.parsing import parser_of
from pyro_vae.cli.sources import Sources, constant, options_of
from pyro_vae.data.inputs import Context
from pyro_vae.data.splits import SPLITS
from pyro_vae.evidence.annealing_results import Annealing
from pyro_vae.evidence.methods import METHODS
from pyro_vae.guides import Guide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.networks import FromShapes, Network
from pyro_vae.networks.precision import Precision
from pyro_vae.objectives import Objective
from pyro_vae.priors import CodePrior, Prior
from pyro_vae.report.sections import SECTIONS
from pyro_vae.report.subject import Sizes
from pyro_vae.schedules import Schedule
from pyro_vae.trackers import Tracker

HEAVY = {"torch", "pyro", "numpy", "matplotlib"}
BASES = [Autoencoder, Prior, CodePrior, Likelihood, Guide, Network, FromShapes, Objective, Schedule, Tracker]
AXES = [*BASES, torch.optim.Optimizer]
BUILT_WITH = {Objective: 0, Schedule: 0, Tracker: 0, Network: 2, FromShapes: 2}
"""How many arguments of a constructor come when an object is built, where it is not one."""

MISTAKES = [
    "fit --epohcs 3",
    "fit --epochs ten",
    "fit --binarize dynamik",
    "fit --vae HierarchicVAE",
    "fit --vae.latnt_dim 3",
    "fit --vae.prior Vamp",
    "fit --vae.prior VampPrior --vae.prior.component 3",
    "fit --vae.encoder.activation tahn",
    "fit --vae.encoder.hidden x",
    "fit --vae.latent_dim three",
    "fit --vae VQVAE --vae.latent_dim 3",
    "fit --objective IWEA",
    "fit --objective IWAE --objective.beta 3",
    "fit --objective.beta Linaer",
    "fit --objective.beta.strat 3",
    "fit --objective Denoising --objective.objective ELOB",
    "fit --optimizer Adagard",
    "fit --optimizer.beta 3",
    "fit --optimizer SGD --optimizer.nesterv true",
    "fit --lr_schedule Cosin",
    "fit --config nowhere.yaml",
    "fit --config {objetive:}",
    "refit r --out o --prior Mixture",
    "refit r --out o --optimizer.lr x",
    "evaluate r --num_particle 3",
    "evaluate r --method aiss",
    "diagnose r --skip gap",
    "diagnose r --annealing.num_chain 3",
    "sample",
]


def in_a_process(words):
    """Exit codes of `pyro-vae WORDS`, one after the other in a process of its own, and the heavy modules after each."""
    script = (
        "import sys\n"
        "from pyro_vae.cli import main\n"
        f"for words in {words!r}:\n"
        "    try: code = main(words.split())\n"
        "    except SystemExit as end: code = end.code\n"
        f"    print('CODE', code, *({HEAVY!r} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300)
    return [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("CODE")], done.stderr


def test_no_help_and_no_mistake_needs_torch():
    """In one process: what one of them imports, all after it would have."""
    words = [*(f"{command} --help" for command in command_names()), *MISTAKES]
    results, err = in_a_process(words)
    expected = [["0"]] * len(command_names()) + [["2"]] * len(MISTAKES)
    assert dict(zip(words, results, strict=True)) == dict(zip(words, expected, strict=True))
    assert len(err.splitlines()) == len(MISTAKES)


def test_what_is_right_is_passed_on():
    """The first look refuses nothing that the parser takes, and leaves classes of the user's to it."""
    for words in (
        "--vae.prior mine.Prior --vae.prior.anything 3 --optimizer mine.Adam",
        "--vae.prior pyro_vae.priors.VampPrior --vae.prior.components 3",
        "--vae pyro_vae.VAE --objective pyro_vae.objectives.bounds.IWAE --optimizer torch.optim.adamw.AdamW",
        "--vae.context null --vae.event_shape [8,8] --vae.encoder.hidden 200",
        "--optimizer pyro.optim.clipped_adam.ClippedAdam --optimizer.lrd 0.9",
    ):
        parser_of("fit").check(words.split())


@pytest.mark.parametrize("base", AXES, ids=lambda base: base.__name__)
def test_the_sources_have_the_same_classes(base):
    sources, imported = Sources(), Imported()
    stand_in = sources.base(f"{base.__module__}.{base.__name__}")
    assert isabstract(stand_in) == isabstract(base)
    assert list(sources.below(stand_in)) == list(imported.below(base)) != []
    assert names_of(sources, Axis((stand_in,))) == names_of(imported, Axis((base,)))


def same_axis(mine, other):
    if mine is None or other is None:
        return mine is other
    names = [base.__name__ for base in mine.bases] == [base.__name__ for base in other.bases]
    return names and mine.built_with == other.built_with and (mine.plain is None) == (other.plain is None)


@pytest.mark.parametrize("base", AXES, ids=lambda base: base.__name__)
def test_the_sources_have_the_same_options(base):
    """Names in their order, defaults, whether required, and which classes each takes."""
    sources, imported = Sources(), Imported()
    stand_in = sources.base(f"{base.__module__}.{base.__name__}")
    for name, cls in imported.below(base).items():
        built_with = BUILT_WITH.get(base, 1)
        mine = sources.options(sources.below(stand_in)[name], built_with)
        other = imported.options(cls, built_with)
        assert list(mine) == list(other), name
        for option, found in mine.items():
            assert found.required == other[option].required, (name, option)
            assert same_axis(found.axis, other[option].axis), (name, option)
            if found.axis is None and not found.required:
                assert short(found.default) == short(other[option].default), (name, option)


@pytest.mark.parametrize("base", AXES, ids=lambda base: base.__name__)
def test_a_description_of_both_is_the_same(base):
    """The whole walk, of every class by its name: what differs is how paths are spelled, and defaults of objects."""
    both = [Sources(), Imported()]
    axes = [axis_of_base(library, base) for library in both]
    for name in both[1].below(base):
        found = [short(described(given_of(name), axis, "k", lib)) for lib, axis in zip(both, axes, strict=True)]
        assert found[0] == found[1], name


def axis_of_base(library, base):
    return Axis((library.base(f"{base.__module__}.{base.__name__}"),), BUILT_WITH.get(base, 1))


def short(value):
    if isinstance(value, dict) and "class_path" in value:
        options = {name: short(inner) for name, inner in value.get("init_args", {}).items()}
        return value["class_path"].rpartition(".")[2], options
    return list(map(short, value)) if isinstance(value, list | tuple) else value


def test_what_commands_choose_from_is_that_of_the_package():
    assert constant("pyro_vae.data.splits", "SPLITS") == SPLITS
    assert constant("pyro_vae.evidence.methods", "METHODS") == tuple(METHODS)
    assert constant("pyro_vae.report.sections", "SECTIONS") == tuple(SECTIONS)
    assert constant("pyro_vae.data.inputs", "Context") == Context
    assert constant("pyro_vae.networks.precision", "Precision") == Precision
    sizes = {name: option.default for name, option in options_of("pyro_vae.report.subject.Sizes").items()}
    made = ("annealing", "hmc")  # by a function
    assert {name: value for name, value in vars(Sizes()).items() if name not in made} == {
        name: value for name, value in sizes.items() if name not in made
    }
    given = parser_of("diagnose").parse_args(["r"])
    assert Annealing(**vars(given.annealing)) == Annealing() and given.num_gaps == Sizes().num_gaps


class TestHelp:
    """For readers."""

    @pytest.mark.parametrize("command", command_names())
    def test_no_python_in_it(self, command, capsys):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        text = capsys.readouterr().out
        assert not [
            word for word in ("NoneType", "class_path", "Union", "Literal", "<class", "None)", "[]") if word in text
        ]
        assert max(map(len, text.splitlines())) <= 120

    def test_fit_is_grouped(self, capsys):
        with pytest.raises(SystemExit):
            main(["fit", "--help"])
        text = capsys.readouterr().out
        titles = [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
        assert titles == ["options:", "data:", "model:", "objective:", "training:", "output:"]
        assert "--epochs N" in text and "(default: 400)" in text and "event_shape" not in text
        for base in (Autoencoder, Objective, Schedule, torch.optim.Optimizer):
            assert all(name in text for name in names_of(Imported(), Axis((base,))))
        assert not any(name in text for name in ("LBFGS", "SparseAdam", "Muon"))

    @pytest.mark.parametrize(
        ("words", "parts"),
        [
            ("--vae.help", ["takes one of HierarchicalVAE, NotAtRandom, SemiSupervisedVAE, VAE, VQVAE"]),
            ("--vae.help VAE", ["--vae.latent_dim N", "(default: 20)", "one of Bernoulli", "(default: MLP)"]),
            ("--vae.prior.help VampPrior", ["--vae.prior.components N", "(default: 500)", "data|random"]),
            ("--vae VQVAE --vae.prior.help", ["takes one of AutoregressiveCodes, UniformCodes"]),
            ("--objective.help IWAE", ["--objective.num_particles N", "(default: 5)"]),
            ("--objective.beta.help Linear", ["--objective.beta.share X"]),
            ("--objective Denoising --objective.objective.beta.help Cosine", ["--objective.objective.beta.start X"]),
            ("--optimizer.help AdamW", ["--optimizer.weight_decay X", "(default: 0.01)", "--optimizer.betas [X,X]"]),
            ("--vae.latent_dim.help", ["--vae.latent_dim takes no class"]),
            ("--vae.prior.help LearnedNormal", ["no options"]),
        ],
    )
    def test_of_a_class(self, words, parts, capsys):
        with pytest.raises(SystemExit) as end:
            main(["fit", *words.split()])
        text = capsys.readouterr().out
        assert end.value.code == 0 and all(part in text for part in parts)
        assert "--vae.event_shape" not in text and text.count("(default:") <= text.count("  --")


@pytest.mark.parametrize("name", names_of(Imported(), Axis((torch.optim.Optimizer,))))
def test_every_optimizer_that_is_listed_trains(name, tmp_path):
    words = (
        f"fit --optimizer {name} --vae.latent_dim 2 --vae.encoder.hidden 4 --vae.decoder.hidden 4 --epochs 1 --quiet"
    )
    assert main([*words.split(), "--pictures", "false", "--batch_size", "700", "--run", str(tmp_path / "r")]) == 0


def test_axes_of_annotations():
    assert axis_of(float | None) is None and axis_of(tuple[int, ...]) is None
    axis = axis_of(float | Schedule)
    assert axis is not None and axis.bases == (Schedule,) and axis.plain is float
