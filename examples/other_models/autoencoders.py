"""The autoencoder and the denoising autoencoder: a code and a reconstruction, and no distribution over data."""

import torch
from torch import Tensor

from other_models.common import Budget, Data, Trained, bit_log_prob, descend, layers, size


def train(data: Data, budget: Budget, masked: float = 0.0) -> Trained:
    """Learn x -> code -> logits of x by cross-entropy; `masked` is the share of pixels that the encoder sees as 0.

    Neither has a log p(x): nothing says how codes are distributed, and nothing normalises the reconstruction error over
    all x. So there is nothing to draw from either; missing pixels are filled by repeated reconstruction.
    """
    encoder, decoder = layers(64, budget.hidden, budget.latent), layers(budget.latent, budget.hidden, 64)
    both = torch.nn.Sequential(encoder, decoder)

    def loss(x: Tensor) -> Tensor:
        return -bit_log_prob(both(x * (torch.rand_like(x) >= masked)), x).mean()

    descend(both, loss, data, budget.epochs)
    both.requires_grad_(False)

    def reconstruct(x: Tensor) -> Tensor:
        return both(x).sigmoid()

    return Trained(
        name="denoising autoencoder" if masked else "autoencoder",
        family="none",
        parameters=size(both),
        reconstruct=reconstruct,
        encode=encoder,
        impute=lambda x, mask: by_repetition(reconstruct, x, mask, data.grey.mean(0)),
        anomaly=lambda x: -bit_log_prob(both(x), x),
    )


def by_repetition(reconstruct, x: Tensor, mask: Tensor, start: Tensor, times: int = 30) -> Tensor:
    """Fill what is missing with `start`, then with the reconstruction of the whole, again and again."""
    filled = torch.where(mask, x, start)
    for _ in range(times):
        filled = torch.where(mask, x, reconstruct(filled))
    return filled
