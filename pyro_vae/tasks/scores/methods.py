"""The scores, by name: one call, one kind of result."""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from inspect import Parameter, signature
from typing import Any

from torch import Tensor

from pyro_vae.arguments.remedies import nearest
from pyro_vae.arguments.values import shown
from pyro_vae.autoencoders import Autoencoder
from pyro_vae.errors import UsageError
from pyro_vae.inference.best_member import Search
from pyro_vae.tasks.scores.bounds import elbo, rate, reconstruction
from pyro_vae.tasks.scores.complexity import complexity
from pyro_vae.tasks.scores.ensemble import ensemble
from pyro_vae.tasks.scores.evidence import evidence
from pyro_vae.tasks.scores.ratio import ratio
from pyro_vae.tasks.scores.reference import density_of_states, typicality
from pyro_vae.tasks.scores.regret import SEARCH, regret
from pyro_vae.tasks.scores.results import Scores

_SEARCH = [field.name for field in fields(Search)]


def _regret(vae: Autoencoder, x: Tensor, **options: Any) -> Scores:
    """`regret`, with the fields of its `search` as options as well."""
    given = {name: options.pop(name) for name in _SEARCH if name in options}
    if given:
        options["search"] = replace(options.get("search", SEARCH), **given)
    return regret(vae, x, **options)


METHODS: Mapping[str, Callable[..., Scores]] = {
    "evidence": evidence,
    "elbo": elbo,
    "reconstruction": reconstruction,
    "rate": rate,
    "regret": _regret,
    "typicality": typicality,
    "complexity": complexity,
    "ratio": ratio,
    "density_of_states": density_of_states,
    "ensemble": ensemble,
}
"""Each is called with the model, the data and its own options by name, and returns `Scores`."""
NEEDS: Mapping[str, str] = {
    "typicality": "reference",
    "density_of_states": "reference",
    "ensemble": "others",
}
"""What a method can't do without, besides the model and the data."""


def score(vae: Autoencoder, x: Tensor, method: str = "evidence", **options: Any) -> Scores:
    """Score every datum by the method of that name: higher is more anomalous, in nats.

    | method | what it is | what it needs |
    |---|---|---|
    | `evidence` | -log p(x) | |
    | `elbo` | -ELBO | |
    | `reconstruction` | -E log p(x given z), z from the guide | |
    | `rate` | KL of the guide from the prior | |
    | `regret` | gain in ELBO if the guide is refined for the datum | one code z |
    | `typicality` | distance of -log p(x) from its mean | `reference` data |
    | `complexity` | -log p(x) less the length of zlib's code | data with levels |
    | `ratio` | log p(x) of a `background` model less its own; or of upper layers | `background`, or several layers |
    | `density_of_states` | rarity of the datum's statistics | `reference` data |
    | `ensemble` | mean and variance of -log p(x) over models | `others` |

    Args:
        vae: the model; left as it is.
        x: data `[N, *event]`.
        method: its name, one of `METHODS`.
        **options: the method's own options: its function has them. Tensors of other names go to both programs with the
            data, e.g. `mask`, `c`.

    Returns:
        `Scores`, on the CPU.

    Raises:
        UsageError: for an unknown method or option, a lacking one, or a model that the method can't be used for.
        DataError: if the data have another shape than the model's, or there are none.

    Example:
        >>> import torch
        >>> from pyro_vae.autoencoders import VAE
        >>> score(VAE((4,), 2), torch.ones(3, 4), "reconstruction", num_particles=10).elements.shape
        torch.Size([3, 4])
    """
    _check(method, options)
    return METHODS[method](vae, x, **options)


def options_of(method: str) -> list[str]:
    """The options of a method, in order.

    Args:
        method: its name, one of `METHODS`.
    """
    function = regret if method == "regret" else METHODS[method]
    own = _SEARCH if method == "regret" else []
    return [p.name for p in signature(function).parameters.values() if p.kind is Parameter.KEYWORD_ONLY] + own


def _check(method: str, options: Mapping[str, Any]) -> None:
    if not isinstance(method, str) or method not in METHODS:
        close = nearest(method, METHODS, cutoff=0.5) if isinstance(method, str) else ""
        raise UsageError(f"method: unknown score {shown(method)}{close or '.'} Known: {', '.join(METHODS)}")
    known = options_of(method)
    for name, value in options.items():
        if name not in known and not isinstance(value, Tensor):
            close = nearest(name, known, cutoff=0.5) or "."
            raise UsageError(f"method {method!r} has no option {name!r}{close} Known: {', '.join(known)}")
    if (needed := NEEDS.get(method)) is not None and options.get(needed) is None:
        what = {"reference": "data that are not anomalous", "others": "further models of the same data"}[needed]
        raise UsageError(f"method {method!r} needs {needed}=..., {what}")
