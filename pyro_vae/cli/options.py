"""The options of every command, by command.

This file is read for `--help` and for every mistake, so it imports nothing that takes long: what a command chooses
from is read from the sources.
"""

from collections.abc import Callable
from typing import Any, Literal

from pyro_vae.cli.class_options import ClassOption, names
from pyro_vae.cli.fit_options import fit_parser, optimizer
from pyro_vae.cli.parsing import CommandParser, add_common, make_parser
from pyro_vae.cli.sources import constant, options_of

_FEW = 100
"""Data by default for methods that take hundreds or thousands of times the work of importance sampling for each."""
_NUM = constant("pyro_vae.cli.draws", "NUM")
PRIOR = ClassOption(("pyro_vae.priors.Prior", "pyro_vae.priors.CodePrior"), built_with=1)
_ADAM = {"class_path": "Adam", "init_args": {"lr": 1e-3}}


def add_run(parser: CommandParser) -> None:
    """The options of every command that reads a run."""
    parser.add_argument("run", type=str, help="the run directory")
    _add_loading(parser)


def _add_loading(parser: CommandParser) -> None:
    help = "a module of yours, besides pyro_vae, whose classes may be built; can be given several times"
    parser.add_argument("--trust", type=str, default=[], action="append", metavar="MODULE", help=help)


def _add_split(group: Any) -> None:
    """The options of the commands that read data: by default those of the run."""
    group.add_argument("--split", default="test", choices=constant("pyro_vae.data.splits", "SPLITS"), help="which data")
    group.add_argument(
        "--data",
        type=str | None,
        default=None,
        metavar="NAME|PATH",
        help="another data set than the run's, prepared likewise",
    )


def _add_quiet(group: Any) -> None:
    group.add_argument("--quiet", action="store_true", help="no progress")
    add_common(group)


def evaluate_parser() -> CommandParser:
    """The parser of `pyro-vae evaluate`."""
    parser = make_parser("evaluate", "Estimate log p(x) of a split, by importance sampling or by another method.")
    add_run(parser)
    data, method = parser.add_argument_group("data"), parser.add_argument_group("method")
    _add_split(data)
    data.add_argument(
        "--num_data",
        type=int | None,
        default=None,
        help="so many data, evenly spread over the split; by default all for importance, psis and prior, "
        f"{_FEW} for the other methods",
    )
    method.add_argument(
        "--method",
        default="importance",
        choices=(*constant("pyro_vae.evidence.methods", "METHODS"), "all"),
        help="how to estimate it; all: every one that can, side by side on the same data",
    )
    method.add_argument("--num_particles", type=int, default=5000, help="K, draws for each datum where there are such")
    method.add_argument("--seed", type=int, default=0, help="seed of the draws")
    method.add_argument("--max_rows", type=int, default=4096, help="(datum, draw) pairs in one run of the decoder")
    method.add_argument(
        "--compile",
        type=bool | Literal["auto"],
        default="auto",
        help="run the programs as compiled graphs; auto: if there is enough to do",
    )
    method.add_argument(
        "--precision",
        type=constant("pyro_vae.networks.precision", "Precision"),
        default="float32",
        help="bf16: a fast estimate, saved beside the exact one and marked as such",
    )
    method.add_argument(
        "--options",
        type=dict[str, Any] | None,
        default=None,
        metavar="NAME.VALUE",
        help="options of the method, e.g. --options.num_chains 8; with all, for every method that has it",
    )
    _add_quiet(parser.add_argument_group("output"))
    return parser


def compare_parser() -> CommandParser:
    """The parser of `pyro-vae compare`."""
    parser = make_parser("compare", "Rank runs by log p(x) of the same data, with the errors of the differences.")
    parser.add_argument("runs", type=str, nargs="+", help="the run directories, two or more")
    _add_loading(parser)
    data, method = parser.add_argument_group("data"), parser.add_argument_group("method")
    _add_split(data)
    data.add_argument("--num_data", type=int | None, default=None, help="so many data, evenly spread over the split")
    method.add_argument("--num_particles", type=int, default=5000, help="K, draws for each datum")
    method.add_argument("--seed", type=int, default=0, help="seed of the draws")
    method.add_argument("--max_rows", type=int, default=4096, help="(datum, draw) pairs in one run of the decoder")
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=str | None, default=None, metavar="PNG", help="file to draw the differences in")
    _add_quiet(output)
    return parser


def diagnose_parser() -> CommandParser:
    """The parser of `pyro-vae diagnose`."""
    parser = make_parser("diagnose", "Write a page on what can be believed of a run: log p(x), codes, calibration.")
    add_run(parser)
    data, method = parser.add_argument_group("data"), parser.add_argument_group("method")
    _add_split(data)
    data.add_argument("--num_data", type=int, default=1000, help="so many data, chosen by the seed")
    sizes = {name: option.default for name, option in options_of("pyro_vae.report.subject.Sizes").items()}
    for name, help in _SIZES.items():
        method.add_argument(f"--{name}", type=int, default=sizes[name], help=help)
    for name, option in options_of("pyro_vae.evidence.annealing_results.Annealing").items():
        method.add_argument(f"--annealing.{name}", type=option.kind, default=option.default, help=option.help)
    sections = constant("pyro_vae.report.sections", "SECTIONS")
    method.add_argument(
        "--skip", nargs="*", action="extend", default=[], choices=sections, help="sections to leave out"
    )
    method.add_argument("--seed", type=int, default=0, help="seed of all draws")
    output = parser.add_argument_group("output")
    help = "the page; without it RUN/diagnosis-SPLIT.html"
    output.add_argument("--out", type=str | None, default=None, metavar="HTML", help=help)
    _add_quiet(output)
    return parser


_SIZES = {
    "num_particles": "K of importance sampling",
    "num_bracketed": "data bracketed, and as many simulated",
    "num_gaps": "data whose gaps are measured",
    "num_simulated": "data for the calibration",
    "num_replicated": "data sets drawn for the check",
}


def sample_parser() -> CommandParser:
    """The parser of `pyro-vae sample`."""
    parser = make_parser("sample", "Draw codes from the prior and decode them.")
    add_run(parser)
    draws, data = parser.add_argument_group("draws"), parser.add_argument_group("data, for --context data")
    how = f"how many; without it {_NUM}, or as many more as fill the rows of a picture of classes"
    draws.add_argument("--num", type=int | None, default=None, help=how)
    _add_seed(draws)
    draws.add_argument(
        "--context",
        type=Literal["each", "data"] | int | None,
        default=None,
        metavar="each|data|N",
        help="where there are classes: class N, or each in turn (the default); of a conditional VAE also data: "
        "the contexts of the first data of a split",
    )
    _add_split(data)
    _add_output(parser)
    return parser


def reconstruct_parser() -> CommandParser:
    """The parser of `pyro-vae reconstruct`."""
    parser = make_parser("reconstruct", "Encode data, draw a code of each, and decode it.")
    add_run(parser)
    data, draws = parser.add_argument_group("data"), parser.add_argument_group("draws")
    _add_split(data)
    draws.add_argument("--num", type=int, default=_NUM, help="how many")
    _add_seed(draws)
    draws.add_argument(
        "--num_particles", type=int, default=1, help="codes drawn for each datum; their decodings are averaged"
    )
    _add_output(parser)
    return parser


def _add_seed(group: Any) -> None:
    group.add_argument("--seed", type=int, default=0, help="seed of the draws")


def _add_output(parser: CommandParser) -> None:
    group = parser.add_argument_group("output")
    help = "a .png (a picture) or .npz (arrays); without it a picture in the run"
    group.add_argument("--out", type=str | None, default=None, metavar="FILE", help=help)
    add_common(group)


def cluster_parser() -> CommandParser:
    """The parser of `pyro-vae cluster`."""
    parser = make_parser("cluster", "Assign data to the components of a run's mixture prior.")
    add_run(parser)
    _add_split(parser.add_argument_group("data"))
    method = parser.add_argument_group("method")
    method.add_argument("--num_particles", type=int, default=10, help="codes drawn for each datum")
    method.add_argument("--seed", type=int, default=0, help="seed of the draws")
    add_common(parser.add_argument_group("output"))
    return parser


def refit_parser() -> CommandParser:
    """The parser of `pyro-vae refit`."""
    parser = make_parser("refit", "Fit another prior to the codes of a run's training data; save it as a new run.")
    add_run(parser)
    data, training = parser.add_argument_group("data"), parser.add_argument_group("training")
    help = "another data set than the run's"
    data.add_argument("--data", type=str | None, default=None, metavar="NAME|PATH", help=help)
    parser.add_class(
        parser.add_argument_group("model"),
        "prior",
        PRIOR,
        help=f"the new prior: {names(PRIOR)}, or your own by import path. Of discrete codes one of "
        "pyro_vae.priors.codes (default: AutoregressiveCodes). Its options are written --prior.OPTION VALUE; "
        "--prior.help CLASS lists them",
    )
    training.add_argument("--epochs", type=int, default=100, help="passes over the training data")
    training.add_argument("--batch_size", type=int, default=100, help="data in a step")
    adam = optimizer(_ADAM)
    help = (
        f"a class of torch.optim: {names(adam)} (default: Adam with lr 0.001); --optimizer.help CLASS lists its options"
    )
    parser.add_class(training, "optimizer", adam, help=help)
    training.add_argument("--patience", type=int | None, default=None, help="epochs without a better held-out fit")
    training.add_argument("--seed", type=int, default=0, help="seed of first weights, order and draws")
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=str, required=True, metavar="FOLDER", help="the new run directory; required")
    _add_quiet(output)
    return parser


def info_parser() -> CommandParser:
    """The parser of `pyro-vae info`."""
    parser = make_parser("info", "Tell what a run directory holds; reads and checks the weights.")
    add_run(parser)
    add_common(parser.add_argument_group("output"))
    return parser


PARSERS: dict[str, Callable[[], CommandParser]] = {
    "fit": fit_parser,
    "evaluate": evaluate_parser,
    "compare": compare_parser,
    "diagnose": diagnose_parser,
    "sample": sample_parser,
    "reconstruct": reconstruct_parser,
    "cluster": cluster_parser,
    "refit": refit_parser,
    "info": info_parser,
}
