"""How far a log-weight may be off by the rounding of its type."""

import torch
from torch import Tensor


def rounding_error(log_joint: Tensor, log_guide: Tensor) -> Tensor:
    r"""The rounding error of the largest log-weight of each datum, by the size of the two that it is the difference of.

    .. math:: \epsilon \, (|\log p(x, z)| + |\log q(z|x)|)

    with epsilon the relative precision of their types. Sums over many elements are added by halves, so that their error
    is that of the last few additions.

    Args:
        log_joint: log p(x, z), `[k, block]`, nats.
        log_guide: log q(z|x), `[k, block]`, nats.

    Returns:
        `[block]`, nats, double precision.

    Example:
        >>> rounding_error(torch.full((1, 1), -100.0), torch.zeros(1, 1))
        tensor([1.1921e-05], dtype=torch.float64)
    """
    largest = (log_joint - log_guide).argmax(0, keepdim=True)
    sizes = [x.gather(0, largest)[0].abs().double() * torch.finfo(x.dtype).eps for x in (log_joint, log_guide)]
    return sizes[0] + sizes[1]
