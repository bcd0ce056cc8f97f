"""Vector quantisation: a codebook, its nearest entries, and the straight-through gradient estimator.

In a Pyro pair with quantised codes the latent site is an integer: the guide draws the index of the entry nearest to
the encoder's output, the model looks up that entry. An integer has no gradient. The effect handler `StraightThrough`
records the vectors that the guide quantises and passes them the gradient of the entries that the model looks up. The
programs themselves do not depend on how they are trained (`objectives.VQBound`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_vae.arguments.values import check_choice
from pyro_vae.errors import UsageError
from pyro_vae.process.pyro_internals import handlers
from pyro_vae.process.seeding import generator

Update = Literal["gradient", "ema"]


class Quantizer(nn.Module):
    r"""A codebook of K entries in D dimensions.

    .. math:: k(v) = \arg\min_j |v - e_j|^2

    The entries are parameters, trained by the codebook loss, or moving averages, with decay gamma, of the vectors that
    they quantised; n_j is the number of these in a batch and s_j their sum:

    .. math:: N_j \leftarrow \gamma N_j + (1 - \gamma) n_j, \quad
        m_j \leftarrow \gamma m_j + (1 - \gamma) s_j, \quad e_j \leftarrow m_j / N_j

    Args:
        size: K, at least 1.
        dim: D, at least 1.
        update: `"gradient"`, or `"ema"` for moving averages.
        decay: gamma, in [0, 1).
        restart: an entry used on (moving) average fewer times in a batch than this is reset to a random vector of the
            batch, drawn by torch's current generator; None for never. For `"ema"` only.

    Raises:
        UsageError: for options out of range.

    References:
        van den Oord et al. 2017, Neural discrete representation learning, eq. 2, 3 and appendix A.1.
    """

    codebook: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(
        self, size: int, dim: int, update: Update = "gradient", decay: float = 0.99, restart: float | None = None
    ) -> None:
        super().__init__()
        _check(size, dim, update, decay, restart)
        self.update, self.decay, self.restart = update, decay, restart
        entries = torch.randn(size, dim) / dim**0.5
        if update == "gradient":
            self.codebook = nn.Parameter(entries)
        else:
            self.register_buffer("codebook", entries)
            self.register_buffer("counts", torch.ones(size))
            self.register_buffer("sums", entries.clone())

    @torch.no_grad()
    def nearest(self, vectors: Tensor) -> Tensor:
        """The index of the nearest entry, the first in case of ties: `[*leading, D]` to `[*leading]`."""
        middle = self.codebook.mean(0)  # centring avoids cancellation
        entries, vectors = self.codebook - middle, vectors - middle
        return (entries.square().sum(-1) - 2 * (vectors @ entries.T)).argmin(-1)

    def quantize(self, vectors: Tensor) -> Tensor:
        """`nearest`, for a guide: an active `StraightThrough` records the vectors."""
        index = self.nearest(vectors)
        if (path := StraightThrough.active()) is not None:
            path.remember(self, vectors, index)
        return index

    def embed(self, index: Tensor) -> Tensor:
        """The entries at indices, `[*leading]` to `[*leading, D]`, for a model; see `StraightThrough`."""
        entries = self.codebook[index]
        path = StraightThrough.active()
        return entries if path is None else path.joined(self, entries)

    @torch.no_grad()
    def start_from(self, vectors: Tensor) -> None:
        """Set entries to random vectors of `[N, D]`, without replacement; if N < K, the last K - N do not change."""
        chosen = vectors[torch.randperm(len(vectors), generator=generator(0, "codebook"))[: len(self.codebook)]]
        self.codebook[: len(chosen)] = chosen
        if self.update == "ema":
            self.sums.copy_(self.codebook * self.counts.unsqueeze(-1))

    @torch.no_grad()
    def learn(self, vectors: Tensor, index: Tensor) -> None:
        """Update the averages with vectors `[*leading, D]` quantised to `[*leading]`; does nothing for `"gradient"`."""
        if self.update == "gradient":
            return
        vectors, index = vectors.detach().reshape(-1, vectors.shape[-1]), index.reshape(-1)
        counts = torch.zeros_like(self.counts).index_add_(0, index, torch.ones_like(vectors[:, 0]))
        sums = torch.zeros_like(self.sums).index_add_(0, index, vectors)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        if self.restart is not None:
            self._restart(vectors, self.restart)
        known = self.counts > _LEAST_COUNT
        means = self.sums / torch.where(known, self.counts, 1.0).unsqueeze(-1)
        self.codebook.copy_(torch.where(known.unsqueeze(-1), means, self.codebook))

    def _restart(self, vectors: Tensor, least: float) -> None:
        """Reset unused entries to random vectors, with a count of 1."""
        dead = self.counts < least
        drawn = vectors[torch.randint(len(vectors), self.counts.shape, device=vectors.device)]
        self.sums.copy_(torch.where(dead.unsqueeze(-1), drawn, self.sums))
        self.counts.copy_(torch.where(dead, 1.0, self.counts))

    def extra_repr(self) -> str:
        """The sizes."""
        size, dim = self.codebook.shape
        return f"size={size}, dim={dim}, update={self.update!r}"


_LEAST_COUNT = 1e-6
"""An entry whose average count is below this, after long disuse, keeps its value until it is used again."""


@dataclass(frozen=True)
class Quantized:
    """Vectors that a guide quantised.

    Args:
        quantizer: the quantiser.
        vectors: the encoder's output, `[*leading, D]`.
        index: the nearest entries, `[*leading]`.
    """

    quantizer: Quantizer
    vectors: Tensor
    index: Tensor

    @property
    def codebook_loss(self) -> Tensor:
        """The squared distance, summed, with a gradient for the entries alone."""
        return (self.vectors.detach() - self.quantizer.codebook[self.index]).square().sum()

    @property
    def commitment_loss(self) -> Tensor:
        """The same, with a gradient for the encoder alone."""
        return (self.vectors - self.quantizer.codebook[self.index].detach()).square().sum()


class StraightThrough(Messenger):
    r"""Effect handler around a guide and then a model: gradients pass quantisation as if it were the identity.

    .. math:: e = v + \mathrm{sg}(e_{k(v)} - v), \qquad \frac{\partial e}{\partial v} = I, \quad
        \frac{\partial e}{\partial e_k} = 0

    The values equal the entries, to the bit.

    References:
        Bengio et al. 2013, Estimating or propagating gradients through stochastic neurons. van den Oord et al. 2017.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[Quantizer, Quantized] = {}

    @staticmethod
    def active() -> "StraightThrough | None":
        """The innermost active handler of this class, or None."""
        return next((handler for handler in reversed(handlers()) if isinstance(handler, StraightThrough)), None)

    @property
    def seen(self) -> Mapping[Quantizer, Quantized]:
        """The recorded vectors, by quantiser."""
        return self._seen

    def remember(self, quantizer: Quantizer, vectors: Tensor, index: Tensor) -> None:
        """Record the vectors that a guide quantises."""
        self._seen[quantizer] = Quantized(quantizer, vectors, index)

    def joined(self, quantizer: Quantizer, entries: Tensor) -> Tensor:
        """The entries that a model looks up, with gradients for the quantised vectors."""
        if quantizer not in self._seen:
            return entries
        vectors = self._seen[quantizer].vectors
        return entries.detach() + (vectors - vectors.detach())

    def learn(self) -> None:
        """Update each codebook of moving averages once; nothing in evaluation mode or without gradients."""
        for seen in self._seen.values():
            if seen.quantizer.training and torch.is_grad_enabled():
                seen.quantizer.learn(seen.vectors, seen.index)


def _check(size: int, dim: int, update: str, decay: float, restart: float | None) -> None:
    check_choice("update", update, Update)
    if size < 1 or dim < 1 or not 0 <= decay < 1:
        raise UsageError(
            f"a codebook needs size >= 1, dim >= 1 and a decay in [0, 1), got size={size}, dim={dim}, decay={decay}"
        )
    if restart is not None and (update != "ema" or not restart > 0):
        raise UsageError(
            f"restart is a positive number of uses a batch, and needs update='ema' (gradients do not count uses), got "
            f"restart={restart}, update={update!r}"
        )
