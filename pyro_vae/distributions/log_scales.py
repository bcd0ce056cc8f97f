"""Logarithms of scales and rates from networks, limited so that their exponentials do not overflow."""

from torch import Tensor

LEAST_LOG_SCALE, LARGEST_LOG_SCALE = -30.0, 10.0
"""Of latent variables: in between a standard deviation is the exponential of what a network gives. The squares of these
scales, and that of a KL's gradient in an optimizer, are finite and not zero in single precision."""


def tame(log_value: Tensor, highest: float = 30.0) -> Tensor:
    """A logarithm, unchanged up to `highest`, growing logarithmically beyond.

    Its exponential is then continued by its tangent: it does not overflow, and its gradient does not vanish.
    """
    return log_value.clamp(max=highest) + (log_value - highest).clamp(min=0).log1p()


def positive(log_value: Tensor) -> Tensor:
    """The exponential, continued by its tangent above 30."""
    return tame(log_value).exp()


def tame_scale(log_scale: Tensor) -> Tensor:
    """The log standard deviation of a latent variable from the output of a network, which may have diverged.

    It is unchanged from -30 to 10, and grows as a logarithm beyond either end: `tame` at both ends, in half the
    operations, since every guide calls it at every step.
    """
    inside = log_scale.clamp(LEAST_LOG_SCALE, LARGEST_LOG_SCALE)
    beyond = log_scale - inside
    return inside + beyond.detach().sign() * beyond.abs().log1p()
