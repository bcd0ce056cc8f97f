"""Training speed of each part of `our_parts.py` written by hand in plain torch: the best eager loop.

The same model, sizes and estimator; fused Adam, logits, `index_select`, blocks kept by glibc, no item() in the loop.
"""

from argparse import Namespace
from collections.abc import Callable
from functools import partial

import torch
from common import Clock, print_training, training_arguments, training_parser
from torch import Tensor, nn
from torch_common import half_observed, keep_blocks, set_up, tenth_of_labels, training_images
from twin_models import Quantized, SemiSupervised, TwoLayers
from twin_networks import convolutions, residual
from twin_vae import ClosedForm, DoublyReparameterized, Elbo, Full, InverseAutoregressive, Iwae, Mixture, Vamp

TWINS: dict[str, Callable[[Namespace], nn.Module]] = {
    "DiagonalNormal": Elbo,
    "FullNormal": partial(Elbo, guide=Full),
    "ELBO(num_particles=5)": partial(Elbo, particles=5),
    "ELBO(analytic_kl=True)": ClosedForm,
    "IWAE(5)": partial(Iwae, particles=5),
    "IWAE(50)": partial(Iwae, particles=50),
    "DReG(5)": partial(DoublyReparameterized, particles=5),
    "DReG(50)": partial(DoublyReparameterized, particles=50),
    "InverseAutoregressiveFlow": partial(Elbo, guide=InverseAutoregressive),
    "MixtureOfNormals prior": partial(Elbo, prior=Mixture),
    "VampPrior(50)": partial(Elbo, prior=partial(Vamp, components=50)),
    "VampPrior(500)": partial(Elbo, prior=partial(Vamp, components=500)),
    "ConvNet(16, 32)": partial(Elbo, networks=convolutions),
    "ResNet(16, 32)": partial(Elbo, networks=residual),
    "HierarchicalVAE, two layers": TwoLayers,
    "VQVAE": Quantized,
    "SemiSupervisedVAE, a tenth labelled": SemiSupervised,
    "IWAE(5), half the pixels missing": partial(Iwae, particles=5),
}
"""By the names of `our_parts.PARTS`."""


def main(argv: list[str] | None = None) -> None:
    """Time one twin and print the line."""
    parser = training_parser(__doc__)
    parser.add_argument("--part", choices=TWINS, default="DiagonalNormal")
    args = training_arguments(parser, argv)
    onednn = set_up(args)
    keep_blocks()
    tensors = data(args.part, args)
    clock = Clock()
    twin: nn.Module = TWINS[args.part](args)
    loss = train(twin, tensors, args, clock)
    print_training(f"{args.part}, by hand", args, clock.rates(args.num), loss, clock.first_step_s, onednn=onednn)


def data(part: str, args: Namespace) -> tuple[Tensor, ...]:
    """What a twin is called with, for all images."""
    x = training_images(args)
    if part.endswith("a tenth labelled"):
        return x, tenth_of_labels(args)
    if part.endswith("half the pixels missing"):
        observed = half_observed(args).float()
        return x * observed, observed
    return (x,)


def train(twin, tensors: tuple[Tensor, ...], args: Namespace, clock: Clock) -> float:
    """Train as fast as an eager loop goes; returns the mean reported loss per image of the last epoch."""
    twin.start(tensors[0])
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-3, fused=True)
    for _ in range(args.epochs + 1):
        total = torch.zeros(())
        for index in torch.randperm(args.num).split(args.batch):
            optimizer.zero_grad(set_to_none=True)
            loss, reported = twin(*(tensor.index_select(0, index) for tensor in tensors))
            (loss / args.batch).backward()
            optimizer.step()
            total += reported.detach()
            clock.step()
        mean = total.item() / args.num
        clock.epoch()
    return mean


if __name__ == "__main__":
    main()
