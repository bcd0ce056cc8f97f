"""A distribution over sequences of whole numbers, each given those before it."""

from collections.abc import Callable
from math import prod
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.nn.functional import cross_entropy


class CodeSequence(dist.TorchDistribution):
    """Codes drawn one after the other, each from a categorical distribution given those before it.

    Args:
        logits: from the first m codes `[N, m]` to log-odds `[N, min(m + 1, n), K]`, causal.
        codes: the positions; the event shape.
        size: K.
        batch_shape: independent copies.
    """

    arg_constraints: Any = {}  # noqa: RUF012 - as torch writes it
    has_rsample = False

    def __init__(
        self,
        logits: Callable[[Tensor], Tensor],
        codes: tuple[int, ...],
        size: int,
        batch_shape: torch.Size = torch.Size(),  # noqa: B008 - immutable
    ) -> None:
        self.logits, self.size = logits, size
        super().__init__(batch_shape, torch.Size(codes), validate_args=False)

    @property
    def support(self) -> Any:
        """Codes 0, ..., K - 1 at each position."""
        return constraints.independent(constraints.integer_interval(0, self.size - 1), len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "CodeSequence":
        """The same with another batch shape."""
        return CodeSequence(self.logits, tuple(self.event_shape), self.size, torch.Size(batch_shape))

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 - immutable
        """Draws, `[*sample_shape, *batch_shape, *codes]`, int64; each position in one run of the network."""
        shape = self.shape(torch.Size(sample_shape))
        drawn = torch.empty(prod(shape[: len(shape) - len(self.event_shape)]), 0, dtype=torch.long)
        for _ in range(prod(self.event_shape)):
            k = torch.distributions.Categorical(logits=self.logits(drawn)[:, -1]).sample()
            drawn = torch.cat([drawn.to(k.device), k.unsqueeze(-1)], 1)
        return drawn.reshape(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log p(k), `[*leading]`, nats."""
        leading = value.shape[: value.dim() - len(self.event_shape)]
        k = value.reshape(prod(leading), prod(self.event_shape)).long()
        surprise = cross_entropy(self.logits(k[:, :-1]).transpose(1, 2), k, reduction="none")
        total = -surprise.sum(-1).reshape(leading)
        return total.expand(torch.broadcast_shapes(leading, self.batch_shape))
