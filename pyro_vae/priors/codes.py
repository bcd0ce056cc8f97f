"""Priors p(k) over discrete codes. To add one, subclass `CodePrior` and implement `forward`."""

from abc import ABC, abstractmethod
from math import log
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.arguments.calling import Called
from pyro_vae.arguments.values import check_dropout
from pyro_vae.distributions.code_sequence import CodeSequence
from pyro_vae.errors import UsageError
from pyro_vae.shapes import CodeShapes


class CodePrior(Called, nn.Module, ABC):
    """A distribution p(k) over codes, `[*codes]` of integers 0, ..., K - 1, as a module.

    A subclass takes `(shapes, **its own options)` and implements `forward`. `encode` and `c` are what continuous
    priors take (`pyro_vae.priors`); no code prior needs them yet.

    Args:
        shapes: the sizes of the autoencoder.
    """

    role = "prior"

    def __init__(self, shapes: CodeShapes) -> None:
        super().__init__()
        self.shapes = shapes

    @abstractmethod
    def forward(self, encode: Any = None, c: Tensor | None = None) -> dist.TorchDistribution:
        """The prior, with event shape `codes` and batch shape `()`."""


class UniformCodes(CodePrior):
    r"""All codes are equally likely: what a VQ-VAE is trained with.

    .. math:: p(k) = K^{-n} \text{ for n positions}

    Args:
        shapes: the sizes of the autoencoder.

    Example:
        >>> from pyro_vae.shapes import CodeShapes
        >>> prior = UniformCodes(CodeShapes((8, 8), 8, codes=(2, 2), codebook_size=5))
        >>> prior().log_prob(torch.zeros(3, 2, 2, dtype=torch.long))  # -4 log 5
        tensor([-6.4378, -6.4378, -6.4378])
    """

    log_probs: Tensor

    def __init__(self, shapes: CodeShapes) -> None:
        super().__init__(shapes)
        logits = torch.full((*shapes.codes, shapes.codebook_size), -log(shapes.codebook_size))
        self.register_buffer("log_probs", logits, persistent=False)  # follows the module's device and precision

    def forward(self, encode: Any = None, c: Tensor | None = None) -> dist.TorchDistribution:
        """The uniform distribution over `codes`."""
        return dist.Categorical(logits=self.log_probs).to_event(len(self.shapes.codes))


class AutoregressiveCodes(CodePrior):
    r"""Each code given those before it, in reading order, by a small causal transformer.

    .. math:: p(k) = \prod_{i=1}^n p(k_i | k_1, \ldots, k_{i-1})

    Exact and normalised; a draw takes n runs of the network. It starts at the uniform distribution. Published VQ-VAEs
    use a PixelCNN; attention sees all earlier codes, for grids and for sequences.

    Args:
        shapes: the sizes of the autoencoder.
        width: units of the transformer, a multiple of `heads`.
        layers: how many layers of attention.
        heads: attention heads of each layer.
        dropout: share of units set to zero in training.

    Raises:
        UsageError: for options out of range.

    References:
        van den Oord et al. 2017, Neural discrete representation learning, section 3.3. Vaswani et al. 2017, Attention
        is all you need.

    Example:
        >>> prior = AutoregressiveCodes(CodeShapes((8, 8), 8, codes=(2, 2), codebook_size=5))
        >>> k = prior().sample(torch.Size([3]))
        >>> k.shape, prior().log_prob(k).shape
        (torch.Size([3, 2, 2]), torch.Size([3]))
    """

    def __init__(
        self, shapes: CodeShapes, width: int = 64, layers: int = 2, heads: int = 4, dropout: float = 0.0
    ) -> None:
        super().__init__(shapes)
        _check_transformer(width, layers, heads, dropout)
        self.entries = nn.Embedding(shapes.codebook_size + 1, width)  # the last entry is the start token
        self.places = nn.Parameter(0.02 * torch.randn(shapes.positions, width))
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.output = nn.Linear(width, shapes.codebook_size)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, encode: Any = None, c: Tensor | None = None) -> dist.TorchDistribution:
        """The distribution over `codes`."""
        return CodeSequence(self.logits, self.shapes.codes, self.shapes.codebook_size)

    def logits(self, earlier: Tensor) -> Tensor:
        """From the first m codes, `[N, m]`, to the log-odds of codes 1, ..., m + 1 (at most n).

        Args:
            earlier: codes in reading order.

        Returns:
            `[N, min(m + 1, n), K]`.
        """
        earlier = earlier.to(self.places.device)
        start = earlier.new_full((len(earlier), 1), self.shapes.codebook_size)
        seen = torch.cat([start, earlier], 1)[:, : self.shapes.positions]
        length = seen.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=seen.device).triu(1)
        h = self.entries(seen) + self.places[:length]
        return self.output(self.body(h, mask=later))


def _check_transformer(width: int, layers: int, heads: int, dropout: float) -> None:
    check_dropout(dropout)
    if layers < 1 or heads < 1 or width < heads or width % heads:
        raise UsageError(
            f"need layers >= 1, heads >= 1 and a width that is a multiple of heads, got layers={layers}, "
            f"heads={heads}, width={width}"
        )
