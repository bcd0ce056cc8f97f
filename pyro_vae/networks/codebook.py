"""Vector quantisation: a codebook, the nearest of its entries, and gradients that pass straight through the choice.

A Pyro pair with quantised codes draws whole numbers: the guide the index of the entry nearest to what the encoder gave,
the model an index to look up. No gradient passes such a draw. `StraightThrough` is the effect handler under which one
does: it remembers what the guide quantised, and joins it to what the model looks up. So the programs stay what they
are, and how they are trained is an objective's business (`objectives.VQBound`).
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

    Its entries are parameters, which the codebook loss trains, or moving averages of what they stood for, with decay
    gamma, for n_j vectors with the sum s_j in a batch:

    .. math:: N_j \leftarrow \gamma N_j + (1 - \gamma) n_j, \quad
        m_j \leftarrow \gamma m_j + (1 - \gamma) s_j, \quad e_j \leftarrow m_j / N_j

    Args:
        size: K, at least 1.
        dim: D, at least 1.
        update: `"gradient"`, or `"ema"` for moving averages.
        decay: gamma, in [0, 1).
        restart: an entry used on (moving) average fewer times a batch than this starts again at one of the batch's
            vectors, drawn from the generator of the moment; None for never. For `"ema"` only.

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
        """The index of the nearest entry, the first of them where several are: `[*leading, D]` to `[*leading]`."""
        middle = self.codebook.mean(0)  # distances far from zero would be lost in rounding
        entries, vectors = self.codebook - middle, vectors - middle
        return (entries.square().sum(-1) - 2 * (vectors @ entries.T)).argmin(-1)

    def quantize(self, vectors: Tensor) -> Tensor:
        """`nearest`, for a guide: a handler `StraightThrough` remembers the vectors."""
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
        """Take entries from among vectors `[N, D]`, without replacement; the last keep theirs where N is below K."""
        chosen = vectors[torch.randperm(len(vectors), generator=generator(0, "codebook"))[: len(self.codebook)]]
        self.codebook[: len(chosen)] = chosen
        if self.update == "ema":
            self.sums.copy_(self.codebook * self.counts.unsqueeze(-1))

    @torch.no_grad()
    def learn(self, vectors: Tensor, index: Tensor) -> None:
        """Move the averages by a batch: vectors `[*leading, D]` quantised to `[*leading]`; nothing for `"gradient"`."""
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
        """Start unused entries again, as if each had been used once."""
        dead = self.counts < least
        drawn = vectors[torch.randint(len(vectors), self.counts.shape, device=vectors.device)]
        self.sums.copy_(torch.where(dead.unsqueeze(-1), drawn, self.sums))
        self.counts.copy_(torch.where(dead, 1.0, self.counts))

    def extra_repr(self) -> str:
        """The sizes."""
        size, dim = self.codebook.shape
        return f"size={size}, dim={dim}, update={self.update!r}"


_LEAST_COUNT = 1e-6
"""An entry whose average has decayed because it was unused for long keeps its value until it is used again."""


@dataclass(frozen=True)
class Quantized:
    """What a guide quantised.

    Args:
        quantizer: by what.
        vectors: what the encoder gave, `[*leading, D]`.
        index: the nearest entries, `[*leading]`.
    """

    quantizer: Quantizer
    vectors: Tensor
    index: Tensor

    @property
    def codebook_loss(self) -> Tensor:
        """The squared distance as a function of the entries alone, summed."""
        return (self.vectors.detach() - self.quantizer.codebook[self.index]).square().sum()

    @property
    def commitment_loss(self) -> Tensor:
        """The same as a function of the encoder alone."""
        return (self.vectors - self.quantizer.codebook[self.index].detach()).square().sum()


class StraightThrough(Messenger):
    r"""Effect handler around a guide and then a model: gradients pass each quantised vector as if it were not.

    .. math:: e = v + \mathrm{sg}(e_{k(v)} - v), \qquad \frac{\partial e}{\partial v} = I, \quad
        \frac{\partial e}{\partial e_k} = 0

    The values are those of the entries, to the bit.

    References:
        Bengio et al. 2013, Estimating or propagating gradients through stochastic neurons. van den Oord et al. 2017.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[Quantizer, Quantized] = {}

    @staticmethod
    def active() -> "StraightThrough | None":
        """The innermost handler of this kind, if there is one."""
        return next((handler for handler in reversed(handlers()) if isinstance(handler, StraightThrough)), None)

    @property
    def seen(self) -> Mapping[Quantizer, Quantized]:
        """The recorded vectors, by quantiser."""
        return self._seen

    def remember(self, quantizer: Quantizer, vectors: Tensor, index: Tensor) -> None:
        """Record what a guide quantises."""
        self._seen[quantizer] = Quantized(quantizer, vectors, index)

    def joined(self, quantizer: Quantizer, entries: Tensor) -> Tensor:
        """The entries that a model looks up, as a function of the vectors they stand for."""
        if quantizer not in self._seen:
            return entries
        vectors = self._seen[quantizer].vectors
        return entries.detach() + (vectors - vectors.detach())

    def learn(self) -> None:
        """Update the codebooks that are moving averages, each once; not in evaluation nor without gradients."""
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
