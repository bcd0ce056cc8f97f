"""What pythae prints for the problem of `other_libraries.py`, as JSON; runs in pythae's own environment.

`get_nll` is printed as it is returned: despite its name it is log p(x). It takes draws by the hundred, so n_samples = 5
gives 100. The loss of `IWAE` is printed with its sign changed, and once more with the constant -D/2 log(2 pi) of the
normal density, which pythae leaves out there.
"""

import argparse
import json
from math import log, pi
from typing import Any

import numpy as np
import torch
from pythae.models import IWAE, VAE, IWAEConfig, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor


class Encoder(BaseEncoder):
    """An affine mean, and variances that do not depend on x."""

    def __init__(self, arrays: dict[str, Tensor]) -> None:
        super().__init__()
        self.arrays = arrays

    def forward(self, x: Tensor) -> ModelOutput:
        """Mean and log variance."""
        mean = x @ self.arrays["gain"].T + self.arrays["mean_at_zero"]
        return ModelOutput(embedding=mean, log_covariance=self.arrays["log_variance"].expand_as(mean))


class Decoder(BaseDecoder):
    """An affine mean."""

    def __init__(self, arrays: dict[str, Tensor]) -> None:
        super().__init__()
        self.arrays = arrays

    def forward(self, z: Tensor) -> ModelOutput:
        """The mean of x."""
        return ModelOutput(reconstruction=z @ self.arrays["weight"].T + self.arrays["bias"])


@torch.no_grad()
def main(options: argparse.Namespace) -> dict[str, list[float]]:
    """The values of all repetitions."""
    with np.load(options.problem) as file:
        arrays = {name: torch.from_numpy(array).double() for name, array in file.items()}
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(options.seed)
    x, found = arrays["x"], {}
    sizes: dict[str, Any] = {"input_dim": x.shape[1:], "latent_dim": arrays["weight"].shape[1]}
    parts = {"encoder": Encoder(arrays), "decoder": Decoder(arrays)}
    vae = VAE(VAEConfig(**sizes, reconstruction_loss="mse"), **parts)
    for k in options.particles:
        iwae = IWAE(IWAEConfig(**sizes, reconstruction_loss="mse", number_samples=k), **parts)
        losses = [-iwae({"data": x}).loss.item() for _ in range(options.repetitions)]
        found[f"IWAE's loss, K = {k}"] = losses
        constant = -0.5 * x.shape[1] * log(2 * pi)
        found[f"IWAE's loss and the constant, K = {k}"] = [loss + constant for loss in losses]
        found[f"get_nll, K = {k}"] = [float(vae.get_nll(x, n_samples=k)) for _ in range(options.repetitions)]
    return found


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", help="arrays of the model and the guide, an .npz")
    parser.add_argument("--particles", type=int, nargs="+", required=True)
    parser.add_argument("--repetitions", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    return parser


if __name__ == "__main__":
    print(json.dumps(main(parser().parse_args())))
