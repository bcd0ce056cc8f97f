"""The evidence less the length of a compressor's code: what the model knows beyond plain redundancy."""

import zlib
from collections.abc import Callable
from math import log

import numpy as np
import torch
from torch import Tensor

from pyro_vae.arguments.checked import checked
from pyro_vae.autoencoders import Autoencoder
from pyro_vae.errors import DataError, UsageError
from pyro_vae.process.isolation import isolated
from pyro_vae.statistics.averages import Averaged
from pyro_vae.tasks.scores.evidence import evidence
from pyro_vae.tasks.scores.results import Scores

_NATS_IN_A_BYTE = 8 * log(2)
_WRAPPING = 6
"""Bytes of zlib's header and checksum, the same for all data."""


@isolated
@checked
def complexity(
    vae: Autoencoder,
    x: Tensor,
    *,
    num_particles: int = 1000,
    seed: int = 0,
    by: str = "importance",
    progress: Callable[[int], object] | None = None,
    **inputs: Tensor,
) -> Scores:
    r"""The negative log-evidence less the length of the datum's code by a general compressor.

    .. math:: s(x) = -\log p(x) - L(x)

    L is the length of zlib's code (see `code_lengths`), so the score is the logarithm of a likelihood ratio of a
    universal model and this one. It corrects -log p(x) for the complexity of a datum, by which it else ranks.

    Args:
        vae: the model; left as it is.
        x: data `[N, *event]`: 0 and 1, levels from 0 to 1, or whole numbers from 0 to 255.
        num_particles: K, draws for each datum.
        seed: seed of the draws.
        by: the estimator of log p(x).
        progress: called with the number of data done so far.
        **inputs: what else the programs take by name, `[N, ...]`; no mask.

    Returns:
        `Scores`, nats; errors and flags are those of the evidence. No elements.

    Raises:
        UsageError: with a mask.
        DataError: for data that have no bytes: below 0, or above 1 and not whole.

    References:
        Serra et al. 2020, Input complexity and out-of-distribution detection with likelihood-based generative models.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> complexity(VAE((4,), 2), torch.ones(3, 4), num_particles=100).method
        'complexity'
    """
    if inputs.get("mask") is not None:
        raise UsageError("complexity compresses whole data: it takes no mask; score them by another method")
    lengths = code_lengths(x)
    found = evidence(vae, x, num_particles=num_particles, seed=seed, by=by, progress=progress, **inputs)
    averaged = Averaged(found.values - lengths, found.standard_error)
    return Scores.of(averaged, "complexity", found.flagged, num_particles=num_particles, seed=seed)


def code_lengths(x: Tensor) -> Tensor:
    """The length of zlib's code of each datum, `[N]`, nats, without header and checksum.

    Values 0 and 1 are coded as bytes and as bits, and the shorter code counts; others as bytes, those from 0 to 1 in
    levels of 1/255.

    Args:
        x: data `[N, *event]`.

    Raises:
        DataError: for values below 0, not finite, or above 1 and not whole numbers up to 255.

    Example:
        >>> bool(code_lengths(torch.zeros(1, 64)) < code_lengths((torch.rand(1, 64) < 0.5).float()))
        True
    """
    values = x.detach().cpu().double().flatten(1)
    levels = values if bool((values == values.round()).all()) else values * 255
    if not bool(values.isfinite().all()) or values.min() < 0 or levels.max() > 255:
        raise DataError(
            "complexity: a compressor takes bytes; expected values 0 and 1, from 0 to 1, or whole numbers up to 255, "
            f"got {values.min():.3g} to {values.max():.3g}: score these data by another method"
        )
    rows = levels.round().to(torch.uint8).numpy()
    binary = bool((levels <= 1).all())
    bytes_of_each = [min(map(_length, [row, np.packbits(row)] if binary else [row])) for row in rows]
    return torch.tensor(bytes_of_each, dtype=torch.float64) * _NATS_IN_A_BYTE


def _length(row: np.ndarray) -> int:
    return len(zlib.compress(row.tobytes(), 9)) - _WRAPPING
