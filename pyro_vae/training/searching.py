"""`search`: successive halving over a declared space by log p(x) of validation data, resumable at any time."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from pyro_vae.arguments.checked import checked
from pyro_vae.arguments.remedies import option, spoken
from pyro_vae.arguments.values import shown, whole
from pyro_vae.compiling.backends import choose_device
from pyro_vae.data import Dataset, as_dataset
from pyro_vae.data.dataset import evenly_spread, without_test
from pyro_vae.data.fingerprint import fingerprint
from pyro_vae.diagnostics.comparison import ranked
from pyro_vae.diagnostics.halving import Round, SearchResult, Stage, stages
from pyro_vae.errors import CheckpointError, DataError, NumericalError, PyroVaeError, UsageError
from pyro_vae.evidence import Evidence, log_marginal
from pyro_vae.messages import Progress, log_once
from pyro_vae.objectives import ELBO
from pyro_vae.process.isolation import isolated
from pyro_vae.process.seeding import seeded
from pyro_vae.runs.arrays import columns
from pyro_vae.runs.describing import describe
from pyro_vae.runs.files import LARGEST_TEXT, has, make_directory, packed, read, write
from pyro_vae.runs.locking import lock
from pyro_vae.schedules import Constant
from pyro_vae.training.fitting import fit
from pyro_vae.training.pyro_loss import as_objective
from pyro_vae.training.space import candidates

Make = Callable[[Mapping[str, Any]], tuple[Any, Mapping[str, Any]]]
"""From the options of a candidate to its VAE, and further arguments of `fit` by name."""

_COLUMNS = ("log_p", "standard_error", "ess", "pareto_k", "elbo")
_DECIDED = ("data", "device", "epochs", "patience", "progress", "run", "vae")
"""Arguments of `fit` that the search decides."""


@isolated
@checked
def search(
    make: Make,
    space: Mapping[str, Any],
    data: Dataset | Tensor,
    *,
    budget: int,
    run: str | Path,
    num_candidates: int | None = None,
    factor: int = 3,
    num_particles: int = 1000,
    num_data: int | None = None,
    seed: int = 0,
    max_rows: int = 4096,
    device: str = "auto",
    progress: bool = True,
) -> SearchResult:
    r"""Find the best of many models by successive halving: train all a little, go on with the best third, and so on.

    In each round every candidate left is trained, and log p(x) of the same validation data estimated by importance
    sampling; the best `1 / factor` go on. Each round has the same share of the budget (`stages`). Differences are
    paired over the data: an easy datum is easy for all, and adds nothing to their errors. If all that would go on are
    within one standard error of the best, the search stops and says so: more training may still tell them apart, these
    data can't. The test split is not read.

    Where all schedules are constant, a candidate's run goes on in the next round. Where one depends on the number of
    epochs (`Cosine`, a warm-up), a candidate is trained anew in each round, with a schedule of the round's length; the
    number of epochs is the same.

    Everything is saved in the folder `run`: an ordinary run directory for each candidate, and the estimates. A search
    that was stopped or killed goes on when it is called again with the same arguments, and ends with the same result. A
    candidate that can't be trained, or whose training or estimate is not finite, is left out with the reason.

    Args:
        make: a function of the options of a candidate, which gives its VAE and further arguments of `fit` by name
            (`objective`, `optimizer`, `batch_size`, ...). It is called anew for each training, with the generators
            seeded by `seed`.
        space: for each option a list of values, `{"uniform": [low, high]}` or `{"log": [low, high]}`; see `candidates`.
        data: data with a validation split.
        budget: epochs of all trainings together.
        run: a folder for this search alone.
        num_candidates: how many candidates to draw; None for all combinations, where the space has lists only.
        factor: how many times fewer candidates each round has, at least 2.
        num_particles: K of the estimates of log p(x).
        num_data: how many validation data, evenly spread; None for all.
        seed: seed of the candidates, of first weights and of the draws for log p(x).
        max_rows: (datum, draw) pairs in one run of the decoder.
        device: `"auto"`, `"cpu"`, `"cuda"`, ...
        progress: whether to show progress on standard error.

    Returns:
        A `SearchResult`; `load(result.run)` is the best model.

    Raises:
        UsageError: for a space of another form, a budget below an epoch for each candidate, no validation data, an
            argument of `fit` that the search decides, or candidates whose log p(x) can't be compared.
        CheckpointError: if `run` holds a search with other arguments, or is damaged.
        NumericalError, UsageError, DataError: if no candidate can be trained, with the reason of the first.

    References:
        Jamieson & Talwalkar 2016, Non-stochastic best arm identification and hyperparameter optimization.

    Example:
        >>> import tempfile
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> x = torch.rand(60, 4, generator=torch.Generator().manual_seed(0)).round()
        >>> found = search(
        ...     lambda options: (VAE((4,), options["latent_dim"]), {}),
        ...     {"latent_dim": [1, 2]},
        ...     Dataset("some", x[:40], valid=x[40:]),
        ...     budget=4,
        ...     run=tempfile.mkdtemp(),
        ...     num_particles=20,
        ...     progress=False,
        ... )
        >>> [(r.epochs, len(r.comparison.models)) for r in found.rounds], sorted(found.candidates)
        ([(2, 2)], ['c0', 'c1'])
    """
    data = as_dataset(data)
    _check(run, data, budget, factor, num_particles, num_data, max_rows)
    found = candidates(space, num_candidates, seed)
    stages(budget, len(found), factor, lengthened=True)  # refuses a small budget before the candidates are made
    named = {f"c{i:0{len(str(len(found) - 1))}}": options for i, options in enumerate(found)}
    estimate = {"num_particles": num_particles, "seed": seed, "max_rows": max_rows}
    at_work = _Search(make, named, without_test(data), Path(run), num_data, estimate, device)
    plan = stages(budget, len(named), factor, at_work.lengthened)
    make_directory(at_work.root)
    with closing(lock(at_work.root)):
        at_work.begin({"budget": budget, "factor": factor})
        with Progress(sum(s.candidates * s.more for s in plan), "epoch", enabled=progress) as bar:
            rounds = _halve(at_work, plan, bar)
    best, last = rounds[-1].comparison.best, rounds[-1].epochs
    spent = sum(s.more * (len(r.comparison.models) + len(r.failed)) for s, r in zip(plan, rounds, strict=False))
    where = str(at_work.path(best, last))
    return SearchResult(named, rounds, best, where, at_work.lengthened, budget, spent, num_particles, seed)


def _halve(at_work: "_Search", plan: list[Stage], bar: Progress) -> tuple[Round, ...]:
    """The rounds, until one candidate is left, or nothing tells those that are left apart."""
    left, rounds, done = list(at_work.candidates), [], 0
    for index, stage in enumerate(plan):
        tell = partial(_tell, bar, done, stage, f"round {index + 1} of {len(plan)}")
        measured, failed = _measured(at_work, left, stage.epochs, tell)
        done += len(left) * stage.more
        comparison = ranked(measured)
        fewer = plan[index + 1].candidates if index + 1 < len(plan) else 1
        left = [model.name for model in comparison.models[:fewer]]
        rounds.append(Round(stage.epochs, comparison, tuple(left), failed))
        if len(left) == 1 or rounds[-1].undecided:
            break
    bar.show(done, "done")
    return tuple(rounds)


def _tell(bar: Progress, done: int, stage: Stage, which: str, index: int, name: str) -> None:
    bar.show(done + index * stage.more, f"{which}, {name}")


def _measured(
    at_work: "_Search", names: Sequence[str], epochs: int, tell: Callable[[int, str], None]
) -> tuple[dict[str, Evidence], dict[str, str]]:
    """Log p(x) by the candidates, and why others have none.

    Raises:
        NumericalError, UsageError, DataError: if none has.
    """
    found: dict[str, Evidence] = {}
    failed: dict[str, PyroVaeError] = {}
    for index, name in enumerate(names):
        tell(index, name)
        try:
            found[name] = at_work.measured(name, epochs)
        except (NumericalError, UsageError, DataError) as error:
            failed[name] = error
    if not found:
        first = next(iter(failed.values()))
        raise type(first)(f"no candidate is left: {first}")
    for name, error in failed.items():
        log_once(f"candidate {name} is left out: {error}")
    return found, {name: str(error) for name, error in failed.items()}


@dataclass(frozen=True)
class _Search:
    """A search at work: trains and measures candidates, each once.

    Args:
        make: from options to a VAE and arguments of `fit`.
        candidates: options by name.
        data: without its test split.
        root: the folder.
        num_data: how many validation data.
        estimate: the arguments of `log_marginal`.
        device: where to train.
    """

    make: Make
    candidates: Mapping[str, Mapping[str, Any]]
    data: Dataset
    root: Path
    num_data: int | None
    estimate: Mapping[str, Any]
    device: str

    @cached_property
    def lengthened(self) -> bool:
        """Whether the number of epochs decides nothing but when a training ends, for every candidate."""
        kinds, constant = {}, []
        for name, options in self.candidates.items():
            vae, keywords = self._made(options)
            kinds.setdefault(getattr(getattr(vae, "likelihood", None), "discrete", None), name)
            constant.append(_is_constant(keywords))
        if len(kinds) > 1:
            raise UsageError(
                f"log p(x) of {' and '.join(kinds.values())} can't be compared: one is a density and the other a "
                "probability, which have no unit in common"
            )
        return all(constant)

    @cached_property
    def valid(self) -> tuple[Tensor, dict[str, Any]]:
        """The validation data that candidates are compared on, and further inputs, on the device."""
        size, device = self.data.size("valid"), choose_device(self.device)
        rows = evenly_spread(size, size if self.num_data is None else self.num_data)
        inputs = self.data.widen_inputs(self.data.given("valid", rows))
        return self.data.select("valid", rows).to(device), {name: x.to(device) for name, x in inputs.items()}

    def path(self, name: str, epochs: int) -> Path:
        """The run directory of a candidate in a round."""
        return self.root / (name if self.lengthened else f"{name}-{epochs}")

    def begin(self, how: Mapping[str, Any]) -> None:
        """Write down what this search is, or refuse the folder of another one.

        Raises:
            CheckpointError: if it holds something else.
        """
        x, inputs = self.valid
        same = {"train": self.data.fingerprint(), "valid": fingerprint(x, **inputs)}
        estimate = {name: value for name, value in self.estimate.items() if name != "max_rows"}
        now = json.loads(json.dumps({"candidates": self.candidates, **how, **estimate, **same}, default=_named))
        if has(self.root, "manifest.json"):
            raise CheckpointError(f"{self.root} holds a run: name another folder for the search")
        if not has(self.root, "search.json"):
            write(self.root, "search.json", json.dumps(now, indent=1).encode())
        begun = _plain_of(self.root)
        if changed := [name for name in {**begun, **now} if begun.get(name) != now.get(name)]:
            raise CheckpointError(
                f"{self.root} holds a search with other settings: use these to resume it, or another folder. "
                f"Different: {', '.join(changed)}"
            )

    def measured(self, name: str, epochs: int) -> Evidence:
        """Log p(x) of the validation data after so many epochs; trained and estimated unless that was done before.

        Raises:
            NumericalError: if that is not possible, or was not.
        """
        file, failure = f"scores/{name}-{epochs}.npz", f"scores/{name}-{epochs}.txt"
        if has(self.root, failure):
            raise NumericalError(read(self.root, failure, LARGEST_TEXT).decode(errors="replace"))
        if not has(self.root, file):
            try:
                evidence = self._trained(name, epochs)
            except NumericalError as error:
                write(self.root, failure, str(error).encode())
                raise
            write(self.root, file, packed({column: getattr(evidence, column) for column in _COLUMNS}))
        return self._saved(file)

    def _saved(self, file: str) -> Evidence:
        remedy = "delete it, and it is estimated anew"
        found: Any = columns(read(self.root, file), _COLUMNS, f"{self.root}/{file}", remedy)
        return Evidence(*found, num_particles=self.estimate["num_particles"], seed=self.estimate["seed"])

    def _trained(self, name: str, epochs: int) -> Evidence:
        vae, keywords = self._made(self.candidates[name])
        self._try_estimate(vae)
        where = {"run": self.path(name, epochs), "device": self.device}
        fit(vae, self.data, epochs=epochs, progress=False, **where, **keywords)
        x, inputs = self.valid
        return log_marginal(vae.model, vae.guide, x, **self.estimate, **inputs)

    def _try_estimate(self, vae: Any) -> None:
        """Refuse a model whose log p(x) can't be estimated before it is trained: on one datum."""
        x, inputs = self.valid
        first: dict[str, Any] = {name: value[:1].cpu() for name, value in inputs.items()}
        with suppress(NumericalError):  # before the training
            log_marginal(vae.model, vae.guide, x[:1].cpu(), num_particles=1, seed=self.estimate["seed"], **first)

    def _made(self, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        with seeded(self.estimate["seed"], "init"):
            made = self.make(dict(options))
        if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], Mapping)):
            raise UsageError(f"make: expected a VAE and a dictionary of arguments of fit, got {shown(made)}")
        if decided := [name for name in _DECIDED if name in made[1]]:
            raise UsageError(f"make: {decided[0]} is for the search to decide: leave it out of the arguments of fit")
        return made[0], dict(made[1])


def _is_constant(keywords: Mapping[str, Any]) -> bool:
    """Whether a training with these arguments can be lengthened."""
    schedule, objective = keywords.get("lr_schedule"), keywords.get("objective")
    fixed = schedule is None or isinstance(schedule, Constant)
    return fixed and not as_objective(ELBO() if objective is None else objective).schedules


def _named(value: Any) -> Any:
    """A value of a space that is no plain data, such as a class: as it is described in a run, or as it is printed."""
    try:
        return describe(value)
    except UsageError:
        return str(value)


def _plain_of(root: Path) -> dict[str, Any]:
    """What a search was begun with."""
    try:
        found = json.loads(read(root, "search.json", LARGEST_TEXT))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{root}/search.json is damaged: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{root}/search.json is damaged: expected a mapping, got {shown(found)}")
    return found


def _check(
    run: Any, data: Dataset, budget: int, factor: int, num_particles: int, num_data: int | None, max_rows: int
) -> None:
    if not (isinstance(run, str | PathLike) and str(run)):
        where = spoken("run", "--run")
        raise UsageError(f"{where}: expected a folder for the search, got {shown(run)}: a search is saved, to go on")
    whole(spoken("budget", "--budget"), budget, 1)
    whole(spoken("factor", "--factor"), factor, 2)
    whole(spoken("num_particles", "--num_particles"), num_particles, 1)
    whole(spoken("max_rows", "--max_rows"), max_rows, 1)
    if num_data is not None:
        whole(spoken("num_data", "--num_data"), num_data, 2)  # for errors of the differences
    if data.valid is not None and data.size("valid") < 2:
        raise UsageError("a search compares candidates on validation data, and one datum gives differences no error")
    if data.valid is None:
        raise UsageError(
            "a search compares candidates on validation data, and there are none: "
            f"hold some out, by {option('valid_size', 'n')}"
        )
