"""An estimator in a run directory: the run of its VAE, and `estimator.json` with its parameters and what it learned."""

import errno
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import numpy as np

from pyro_vae.errors import CheckpointError, FileError
from pyro_vae.objectives import ELBO
from pyro_vae.runs import files
from pyro_vae.runs.describing import describe, describe_vae, resolve
from pyro_vae.runs.directory import Run
from pyro_vae.runs.formats import Description, check_description, parse_json
from pyro_vae.runs.loading import load
from pyro_vae.runs.state import State

E = TypeVar("E")

_FILE = "estimator.json"
_NAMES = "feature_names_in_"


class _Saved(TypedDict):
    """estimator.json."""

    estimator: Description
    fitted: dict[str, Any]


def save_estimator(estimator: Any, path: str | Path) -> None:
    """Write a fitted estimator; see `VAEEstimator.save`."""
    parameters = estimator.get_params(deep=False)
    if not isinstance(parameters["random_state"], int | None):
        parameters["random_state"] = estimator.seed_
    fitted = {name: getattr(estimator, name) for name in _fitted(estimator) if hasattr(estimator, name)}
    saved = {"estimator": {**describe(type(estimator)), "init_args": _plain(parameters)}, "fitted": _plain(fitted)}
    run = Run(path, _config(estimator), rewritten=True)
    try:
        files.write(run.path, _FILE, json.dumps(saved, indent=1).encode())
        run.save(State(estimator.vae_.state_dict(), {}, {}, estimator.progress_))
    finally:
        run.close()


def load_estimator(cls: type[E], path: str | Path, trust: Sequence[str]) -> E:
    """Read a fitted estimator; see `VAEEstimator.load`."""
    where = f"{path}/{_FILE}"
    saved = _read(Path(path), where)
    check_description(saved["estimator"], where, "estimator")
    make = resolve(saved["estimator"], ("pyro_vae", *trust))
    made = getattr(make, "func", make)
    if not (isinstance(made, type) and issubclass(made, cls)):
        raise CheckpointError(f"{where} is of a {getattr(made, '__name__', made)}, not of a {cls.__name__}")
    try:
        estimator = make()
    except TypeError as error:
        raise CheckpointError(f"{where} is damaged: {error}") from error
    if unknown := set(saved["fitted"]) - set(_fitted(estimator)):
        raise CheckpointError(f"{where} is damaged: fitted.{min(unknown)} is not an attribute of a {cls.__name__}")
    for name, value in resolve(saved["fitted"], ("pyro_vae",)).items():
        setattr(estimator, name, np.array(value, dtype=object) if name == _NAMES else value)
    estimator.vae_ = load(path, trust=trust)
    return estimator


def _read(path: Path, where: str) -> Any:
    try:
        data = files.read(path, _FILE, files.LARGEST_TEXT)
    except FileError as error:
        if error.errno != errno.ENOENT:
            raise
        raise CheckpointError(f"there is no estimator in {path}: it has no {_FILE}, which `save` writes") from error
    return parse_json(data, _Saved, where)


def _fitted(estimator: Any) -> tuple[str, ...]:
    """The attributes that are saved besides the weights."""
    return ("seed_", "progress_", "n_features_in_", _NAMES, *estimator.fitted_attributes)


def _config(estimator: Any) -> dict[str, Any]:
    """What the run's config.yaml says of the training, as far as the estimator chose it."""
    options = {name: value for name, value in estimator.training_options().items() if name != "device"}
    objective = ELBO() if estimator.objective is None else estimator.objective
    return {"vae": describe_vae(estimator.vae_), "objective": describe(objective), **_plain(options)}


def _plain(value: Any) -> Any:
    """A parameter or an attribute as plain data; see `describe`."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    return describe(value.tolist() if isinstance(value, np.ndarray) else value)
