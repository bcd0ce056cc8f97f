"""Trial calls on the first batch, before a training: whether the pair fits, and how small a batch may be.

Pyro's validation is on here and off in training. Noise and buffers (batch normalisation, moving averages) are restored
afterwards, so that the training makes the same steps as `pyro.infer.SVI`, which has no such trial.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from torch.distributions import Independent

from pyro_vae.errors import PyroVaeError, UsageError
from pyro_vae.inference.programs import sample_sites
from pyro_vae.process.seeding import seeded
from pyro_vae.process.switches import checking
from pyro_vae.training.steps import Batch, Loss, eager_step, same_buffers

_ONE_VALUE = "more than 1 value per channel"
"""In torch's message where batch normalisation is given a single datum."""


def rehearse(loss: Loss, batch: Batch, total: float) -> None:
    """Compute one step under Pyro's validation, without applying it: wrong shapes and plates are reported here.

    Args:
        loss: what will be minimised; its module in training mode.
        batch: the first one.
        total: epochs of the training.

    Raises:
        UsageError: with the reason, if the model, the guide or the objective fails.
    """
    with _explained(len(batch)), same_buffers(loss.vae), checking(True), seeded(0, "rehearsal"):
        with torch.no_grad():
            _check_sites(loss, batch)
        eager_step(replace(loss, objective=loss.objective.for_trial(), tensorial=False))(batch, 0.0, total)


def needs_two(loss: Loss, one: Batch) -> bool:
    """Whether a training step fails on a batch of one datum for batch normalisation.

    Args:
        loss: what will be minimised; its module in training mode.
        one: a batch of one datum.
    """
    try:
        with torch.no_grad(), same_buffers(loss.vae), checking(False), seeded(0, "rehearsal"):
            loss.vae.guide(loss.widen(one).x, **loss.widen(one).inputs)
            loss.vae.model(loss.widen(one).x, **loss.widen(one).inputs)
    except Exception as error:  # user code may raise anything; `rehearse` reports it
        return _ONE_VALUE in str(error)
    return False


@contextmanager
def _explained(size: int) -> Iterator[None]:
    """Turn errors of torch and Pyro into a `UsageError` of one line."""
    try:
        yield
    except PyroVaeError:
        raise
    except (TypeError, ValueError, RuntimeError, AssertionError, NotImplementedError) as error:
        if _ONE_VALUE in str(error):
            raise UsageError(
                f"batch normalisation needs at least 2 data in a batch, and the first has {size}: take a larger "
                "batch_size, or another norm (layer)"
            ) from error
        raise UsageError(f"the first batch fails in the model, the guide or the objective: {error}") from error


def _check_sites(loss: Loss, batch: Batch) -> None:
    """Refuse a site whose distribution has another event shape than its value: densities would be broadcast."""
    wide = loss.widen(batch)
    with loss.noise(batch.whole):
        guide = poutine.trace(loss.vae.guide).get_trace(wide.x, **wide.inputs)
        model = poutine.trace(poutine.replay(loss.vae.model, trace=guide)).get_trace(wide.x, **wide.inputs)
    for program, trace in (("guide", guide), ("model", model)):
        for name, site in sample_sites(trace).items():
            _check_event(name, site, program)


def _check_event(name: str, site: Mapping[str, Any], program: str) -> None:
    fn, value = site["fn"], site["value"]
    wanted = tuple(fn.event_shape[: len(fn.event_shape) - _own_dims(fn)])
    found = tuple(value.shape[value.dim() - len(fn.event_shape) :])[: len(wanted)]
    if wanted != found:
        raise UsageError(
            f"site {name!r} of the {program}: a {type(_inner(fn)).__name__} of event shape {list(fn.event_shape)} was "
            f"given values of shape {list(value.shape)}: each datum's value must have the event shape; check what the "
            "network or the program returns"
        )


def _own_dims(fn: Any) -> int:
    """Event dimensions of the innermost distribution, which may broadcast along them itself (e.g. a time series)."""
    return len(_inner(fn).event_shape)


def _inner(fn: Any) -> Any:
    while isinstance(fn, Independent | MaskedDistribution | ExpandedDistribution):
        fn = fn.base_dist
    return fn
