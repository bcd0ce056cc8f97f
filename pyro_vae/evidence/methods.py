"""The ways to estimate log p(x), by name: one call, one kind of result."""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import partial
from inspect import Parameter, signature
from typing import Any

from torch import Tensor

from pyro_vae.arguments.remedies import nearest
from pyro_vae.arguments.values import shown
from pyro_vae.errors import UsageError
from pyro_vae.evidence.annealing import ais
from pyro_vae.evidence.annealing_results import Annealing
from pyro_vae.evidence.appendix_d import DEFAULT_HMC, appendix_d
from pyro_vae.evidence.base import Estimate
from pyro_vae.evidence.importance_sampling import log_marginal
from pyro_vae.evidence.prior_sampling import prior_sampling
from pyro_vae.evidence.quadrature import quadrature
from pyro_vae.inference.programs import Program


def _with_fields(function: Callable[..., Estimate], name: str, default: Any) -> Callable[..., Estimate]:
    """A method whose settings, a dataclass, are given field by field as options; `default` for those left out."""

    def call(model: Program, guide: Program, x: Tensor, *args: Any, **options: Any) -> Estimate:
        given = {field.name: options.pop(field.name) for field in fields(default) if field.name in options}
        return function(model, guide, x, *args, **{name: replace(default, **given)}, **options)

    return call


_SETTINGS: Mapping[str, tuple[Callable[..., Estimate], str, Any]] = {
    "ais": (ais, "annealing", Annealing()),
    "appendix_d": (appendix_d, "hmc", DEFAULT_HMC),
}
"""Methods whose settings are one value: the function, the name of that argument, and its default."""
METHODS: Mapping[str, Callable[..., Estimate]] = {
    "importance": log_marginal,
    "psis": partial(log_marginal, smoothed=True),
    "ais": _with_fields(*_SETTINGS["ais"]),
    "appendix_d": _with_fields(*_SETTINGS["appendix_d"]),
    "prior": prior_sampling,
    "quadrature": quadrature,
}
"""Each is called with the model, the guide, the data and its own options by name, and returns an `Estimate`."""
_SET = ("smoothed", "annealing", "hmc")
"""Arguments that the name of the method, or other options, stand for."""


def estimate(method: str, model: Program, guide: Program, x: Tensor, *args: Any, **options: Any) -> Estimate:
    """Estimate log p(x) of every datum by the method of that name.

    | method | what it does | error in expectation | where it works |
    |---|---|---|---|
    | `importance` | weighted draws from the guide | too low | where the guide covers the posterior |
    | `psis` | the same, with the largest weights smoothed | either | the same, and a little beyond |
    | `ais` | anneals from the prior or the guide to the posterior | too low | any continuous latent variables |
    | `appendix_d` | draws from the posterior, inverse mean | too high | up to 5 latent dimensions |
    | `prior` | draws from the prior | too low | where x says little about z |
    | `quadrature` | the integral itself | none | 1 or 2 latent dimensions |

    Args:
        method: its name, one of `METHODS`.
        model: Pyro program of p(x, z), with one data plate.
        guide: Pyro program of q(z|x).
        x: data `[N, *event]`.
        *args: further tensors with the data in front, passed to both programs.
        **options: the method's own options; tensors of other names go to both programs with the data, e.g. `c`.

    Returns:
        The subclass of `Estimate` of the method.

    Raises:
        UsageError: for an unknown method or option, or a model that the method can't be used for.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> estimate("psis", vae.model, vae.guide, torch.ones(3, 4), num_particles=100).method
        'psis'
    """
    _check(method, options)
    return METHODS[method](model, guide, x, *args, **options)


def options_of(method: str) -> list[str]:
    """The options of a method, in order.

    Args:
        method: its name, one of `METHODS`.
    """
    function, _, settings = _SETTINGS.get(method, (METHODS[method], "", None))
    own = [] if settings is None else [field.name for field in fields(settings)]
    parameters = signature(function).parameters.values()
    return own + [p.name for p in parameters if p.kind is Parameter.KEYWORD_ONLY and p.name not in _SET]


def _check(method: str, options: Mapping[str, Any]) -> None:
    if not isinstance(method, str):
        raise UsageError(
            f"method: expected a name, got {shown(method)}: estimate is called as estimate(method, model, guide, x, "
            f"...). Known: {', '.join(METHODS)}"
        )
    if method not in METHODS:
        raise UsageError(f"unknown method {method!r}{_suggest(method, METHODS)}")
    known = options_of(method)
    for name, value in options.items():
        if name not in known and not isinstance(value, Tensor):
            raise UsageError(f"method {method!r} has no option {name!r}{_suggest(name, known)}")


def _suggest(name: str, known: Any) -> str:
    return f"{nearest(name, known, cutoff=0.5) or '.'} Known: {', '.join(known)}"
