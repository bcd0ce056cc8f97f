"""Training speed of `pyro_vae.fit` with other parts than the reference problem's: what compiling each of them gains.

`twins.py` is each of them by hand. To time another part, add a line to `PARTS` and to `systems.PARTS_TIMED`, and its
twin to `twins.TWINS`.
"""

from argparse import Namespace
from functools import partial

from common import training_arguments, training_parser
from ours import EVENT, MODES, Problem, make, time_fit
from torch import Tensor, nn
from torch_common import half_observed, tenth_of_labels

from pyro_vae import VQVAE, HierarchicalVAE, SemiSupervisedVAE
from pyro_vae.guides import FullNormal, InverseAutoregressiveFlow
from pyro_vae.networks import MLP, ConvNet, ResNet
from pyro_vae.objectives import ELBO, IWAE, DReG, SemiSupervisedELBO, VQBound
from pyro_vae.priors import MixtureOfNormals, VampPrior

_CONVNET = partial(ConvNet, channels=(16, 32), hidden=(128,))
_RESNET = partial(ResNet, channels=(16, 32), blocks=1, hidden=(128,))


def _tanh(*hidden: int) -> partial[MLP]:
    return partial(MLP, hidden=hidden, activation="tanh")


def _two_layers(args: Namespace) -> nn.Module:
    """Codes of twice the latent size below, of the latent size above; a fifth of the units between them."""
    outer, upper = _tanh(args.hidden), _tanh(args.hidden // 5)
    return HierarchicalVAE(
        EVENT,
        (2 * args.latent, args.latent),
        encoder=outer,
        decoder=outer,
        upper_encoder=upper,
        upper_decoder=upper,
    )


def _quantized(args: Namespace) -> nn.Module:
    """16 positions, 64 entries in 16 dimensions."""
    return VQVAE(EVENT, encoder=_tanh(args.hidden), decoder=_tanh(args.hidden))


def _semi_supervised(args: Namespace) -> nn.Module:
    network = _tanh(args.hidden)
    return SemiSupervisedVAE(EVENT, 10, args.latent, classifier=network, encoder=network, decoder=network)


def _labels(args: Namespace) -> dict[str, Tensor]:
    return {"y": tenth_of_labels(args)}


def _observed(args: Namespace) -> dict[str, Tensor]:
    return {"mask": half_observed(args).unflatten(-1, EVENT)}


PARTS = {
    "DiagonalNormal": Problem(),
    "FullNormal": Problem(partial(make, guide=FullNormal)),
    "ELBO(num_particles=5)": Problem(objective=ELBO(num_particles=5)),
    "ELBO(analytic_kl=True)": Problem(objective=ELBO(analytic_kl=True)),
    "IWAE(5)": Problem(objective=IWAE(5)),
    "IWAE(50)": Problem(objective=IWAE(50)),
    "DReG(5)": Problem(objective=DReG(5)),
    "DReG(50)": Problem(objective=DReG(50)),
    "InverseAutoregressiveFlow": Problem(partial(make, guide=InverseAutoregressiveFlow)),
    "MixtureOfNormals prior": Problem(partial(make, prior=partial(MixtureOfNormals, components=10))),
    "VampPrior(50)": Problem(partial(make, prior=partial(VampPrior, components=50))),
    "VampPrior(500)": Problem(partial(make, prior=partial(VampPrior, components=500))),
    "ConvNet(16, 32)": Problem(partial(make, encoder=_CONVNET, decoder=_CONVNET)),
    "ResNet(16, 32)": Problem(partial(make, encoder=_RESNET, decoder=_RESNET)),
    "HierarchicalVAE, two layers": Problem(_two_layers),
    "VQVAE": Problem(_quantized, VQBound()),
    "SemiSupervisedVAE, a tenth labelled": Problem(_semi_supervised, SemiSupervisedELBO(), _labels),
    "IWAE(5), half the pixels missing": Problem(objective=IWAE(5), inputs=_observed),
}


def main(argv: list[str] | None = None) -> None:
    """Time one part and print the line."""
    parser = training_parser(__doc__)
    parser.add_argument("--part", choices=PARTS, default="DiagonalNormal")
    parser.add_argument("--mode", choices=MODES, default="compiled")
    args = training_arguments(parser, argv)
    time_fit(f"{args.part}, {args.mode}", args, PARTS[args.part])


if __name__ == "__main__":
    main()
