"""What an exported file says of itself: the model, its inputs and outputs, and what was done to the data before."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae.errors import UsageError
from pyro_vae.runs.describing import describe
from pyro_vae.runs.directory import version
from pyro_vae.sharing.parts import Part
from pyro_vae.sharing.source import Source

FORMAT = 1

_PARTS = ("prior", "likelihood", "guide")
"""Arguments of an autoencoder whose classes a file names."""
_UNITS = "in the units of the data"
_MEANT = {
    "x": "data as the run prepares them: see preparation",
    "raw": "data as in the data file; the file prepares them",
    "c": "context",
    "noise": "draws of N(0, I)",
    "z": "codes",
    "k": "codes: entries of the codebook, one at each position",
    "covariance": "covariance of the code",
    "probs": "probability of each class",
    "best": f"value of x that is reported, {_UNITS}: of a category the most probable level, else the mean",
    "raw_mean": "mean of x in the units of the data file",
    "raw_stddev": "standard deviation of x in the units of the data file",
    "raw_best": "value of x that is reported, in the units of the data file",
}
_OF_THE_PART = {
    "encoder": {
        "mean": "mean of the code, E[z|x] under the guide",
        "stddev": "standard deviation of the code",
        "params": "parameters of the guide, as its class takes them",
    },
    "decoder": {
        "mean": f"E[x|z], {_UNITS}",
        "stddev": f"standard deviation of x given z, {_UNITS}",
        "params": "parameters of the likelihood, as its class takes them; if the model standardises, of standardised x",
    },
}
_DIVISORS = {"digits": 16, **dict.fromkeys(("mnist", "fashion_mnist", "kmnist", "emnist"), 255)}
"""By what `load_data` divides the sets that it knows."""
_PREPARATION = ("binarize", "dequantize", "divide_by", "missing", "context", "kinds", "image_size", "channels")


def about(source: Source, name: str, part: Part) -> dict[str, Any]:
    """All of it as plain data.

    Args:
        source: the autoencoder and its run.
        name: of the part.
        part: the part.
    """
    vae, inputs = source.vae, part.example()
    with torch.no_grad():
        outputs = part(**inputs)
    meant = {**_MEANT, **_OF_THE_PART.get(name, {})}
    return {
        "format": FORMAT,
        "pyro_vae": version(),
        "part": name,
        "computes": part.title,
        "model": type(vae).__name__,
        "event_shape": list(vae.shapes.event),
        "latent_dim": vae.shapes.latent,
        **{role: _described(vae.arguments[role]) for role in _PARTS if role in vae.arguments},
        "standardized": vae.data_mean is not None,
        "gaps": "nan in the input: not observed" if part.prepared.gaps else "none: every element is observed",
        **_of_run(source),
        "preparation": preparation(source, part),
        "inputs": {key: _tensor(value, meant[key]) for key, value in inputs.items()},
        "outputs": {key: _tensor(value, meant.get(key, f"codes of the layer {key}")) for key, value in outputs.items()},
    }


def _described(part: Any) -> Any:
    try:
        return describe(part)
    except UsageError:  # a class of a notebook, which has no import path
        return {"class_path": getattr(getattr(part, "func", part), "__qualname__", str(part))}


def _of_run(source: Source) -> dict[str, Any]:
    if source.path is None:
        return {"weights_sha256": source.weights_sha256}
    return {"run": source.path.resolve().name, "weights": source.weights, "weights_sha256": source.weights_sha256}


def preparation(source: Source, part: Part) -> dict[str, Any]:
    """What was done to the numbers of the data file, and how much of it the exported file does."""
    prepared = part.prepared
    if prepared.divisor is not None:
        inside = f"x = raw / {prepared.divisor:g}"
        return {"in_this_file": f"{inside}; then 1 where x > 0.5, else 0" if prepared.threshold else inside}
    if source.path is None:
        return {"in_this_file": "nothing"}
    config = source.config
    options = {name: config[name] for name in _PREPARATION if config.get(name) not in (None, "none", False)}
    name = config.get("data")
    if "divide_by" not in options and name in _DIVISORS:
        options["divide_by"] = _DIVISORS[name]
    return {
        "in_this_file": "nothing: x is as pyro_vae.load_data gives it with these options",
        "data": None if name is None else Path(name).name,
        "options": options,
    }


def _tensor(value: Tensor, meaning: str) -> dict[str, Any]:
    return {"shape": ["batch", *value.shape[1:]], "type": str(value.dtype).removeprefix("torch."), "meaning": meaning}


def words(of: Mapping[str, Any]) -> str:
    """Inputs or outputs in one line: `x [batch, 8, 8]`."""
    return ", ".join(f"{name} [{', '.join(map(str, entry['shape']))}]" for name, entry in of.items())
