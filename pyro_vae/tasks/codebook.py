"""Which entries of its codebook a trained `VQVAE` uses."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.arguments.checked import checked
from pyro_vae.autoencoders import VQVAE
from pyro_vae.errors import UsageError
from pyro_vae.inference.programs import evaluation_mode
from pyro_vae.process.isolation import isolated


@dataclass(frozen=True, eq=False)
class CodebookUsage:
    """How often the codes of data are each of the codebook's entries.

    Args:
        counts: by entry, over all data and positions, `[K]`, int64.
    """

    counts: Tensor

    @property
    def usage(self) -> float:
        """Share of the entries that are used at all."""
        return (self.counts > 0).double().mean().item()

    @property
    def perplexity(self) -> float:
        """The exponential of the entropy of the shares: K if all entries are used equally, 1 if only one is used."""
        shares = self.counts.double() / self.counts.sum()
        return torch.special.entr(shares).sum().exp().item()

    def __repr__(self) -> str:
        used = f"{int((self.counts > 0).sum())} of {len(self.counts)} entries"
        return f"CodebookUsage({used}, perplexity {self.perplexity:.1f}, {int(self.counts.sum())} codes)"


@isolated
@checked
def codebook_usage(vqvae: VQVAE, x: Tensor, batch: int = 1000, mask: Tensor | None = None) -> CodebookUsage:
    r"""Count the codes of data.

    .. math:: \mathrm{perplexity} = \exp\Big(-\sum_j \hat p_j \log \hat p_j\Big)

    for the shares of the entries over all data and positions. Evaluation mode.

    Args:
        vqvae: the autoencoder; left as it is.
        x: data `[N, *event]`.
        batch: data in one run of the encoder, at least 1.
        mask: True where an element of x was observed, `[N, *event]`; None where all were.

    Returns:
        A `CodebookUsage`, on the CPU.

    Raises:
        UsageError: if `batch` is not positive.
        DataError: if the data do not fit the autoencoder, or there are none.

    Example:
        >>> usage = codebook_usage(VQVAE((8, 8), codes=(4,), codebook_size=16), torch.zeros(5, 8, 8))
        >>> int(usage.counts.sum()), usage.usage <= 4 / 16
        (20, True)
    """
    if batch < 1:
        raise UsageError(f"batch must be at least 1, got {batch}")
    vqvae.likelihood.check(vqvae.likelihood.filled(x, mask))
    size, device = vqvae.shapes.codebook_size, next(vqvae.parameters()).device
    counts = torch.zeros(size, dtype=torch.long)
    with evaluation_mode(vqvae):
        for start in range(0, len(x), batch):
            rows = slice(start, start + batch)
            observed = None if mask is None else mask[rows].to(device)
            k = vqvae.encode(x[rows].to(device), observed).sample().reshape(-1)
            counts += torch.bincount(k, minlength=size).cpu()
    return CodebookUsage(counts)
