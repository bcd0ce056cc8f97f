"""Training speed of `pyro_vae.fit` with other parts than the reference problem's: what compiling each of them gains.

To time another part, add a line to `PARTS`.
"""

from functools import partial
from typing import Any

from common import training_arguments, training_parser
from ours import MODES, time_fit

from pyro_vae.guides import FullNormal, InverseAutoregressiveFlow
from pyro_vae.networks import ConvNet
from pyro_vae.objectives import ELBO, IWAE, DReG
from pyro_vae.priors import MixtureOfNormals, VampPrior

_CONVNET = partial(ConvNet, channels=(16, 32), hidden=(128,))
PARTS: dict[str, dict[str, Any]] = {
    "DiagonalNormal": {},
    "FullNormal": {"guide": FullNormal},
    "ELBO(num_particles=5)": {"objective": ELBO(num_particles=5)},
    "ELBO(analytic_kl=True)": {"objective": ELBO(analytic_kl=True)},
    "IWAE(5)": {"objective": IWAE(5)},
    "DReG(5)": {"objective": DReG(5)},
    "InverseAutoregressiveFlow": {"guide": InverseAutoregressiveFlow},
    "MixtureOfNormals prior": {"prior": partial(MixtureOfNormals, components=10)},
    "VampPrior(50)": {"prior": partial(VampPrior, components=50)},
    "ConvNet(16, 32)": {"encoder": _CONVNET, "decoder": _CONVNET},
}
"""Arguments of `ours.time_fit`: an objective, or parts of the VAE."""


def main(argv: list[str] | None = None) -> None:
    """Time one part and print the line."""
    parser = training_parser(__doc__)
    parser.add_argument("--part", choices=PARTS, default="DiagonalNormal")
    parser.add_argument("--mode", choices=MODES, default="compiled")
    args = training_arguments(parser, argv)
    time_fit(f"{args.part}, {args.mode}", args, **PARTS[args.part])


if __name__ == "__main__":
    main()
