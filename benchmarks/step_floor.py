"""The floor under a training step in float32: its matrix products and Adam's update alone, at the reference sizes.

No images are read, no noise is drawn, nothing lies between the products: no torch program makes the step in less.
"""

from argparse import Namespace
from collections.abc import Callable

import torch
from common import PIXELS, Clock, print_training, training_arguments, training_parser
from torch import Tensor
from torch_common import keep_blocks, set_up


def main(argv: list[str] | None = None) -> None:
    """Time it and print the line; there is no loss."""
    args = training_arguments(training_parser(__doc__), argv)
    onednn = set_up(args)
    keep_blocks()
    clock = Clock()
    step = make(args)
    for _ in range(args.epochs + 1):
        for _ in range(args.num // args.batch):
            step()
            clock.step()
        clock.epoch()
    print_training("products and Adam alone", args, clock.rates(args.num), None, clock.first_step_s, onednn=onednn)


def make(args: Namespace) -> Callable[[], None]:
    """A step: of each layer the product forwards, that for its weights, and (but for the first) that for its input."""
    sizes = [(PIXELS, args.hidden), (args.hidden, 2 * args.latent), (args.latent, args.hidden), (args.hidden, PIXELS)]
    inputs = [torch.rand(args.batch, fan_in) for fan_in, _ in sizes]
    errors = [1e-3 * torch.randn(args.batch, fan_out) for _, fan_out in sizes]
    weights = [1e-2 * torch.randn(fan_out, fan_in) for fan_in, fan_out in sizes]
    moments = [[torch.zeros_like(weight) for weight in weights] for _ in range(2)]
    count = torch.zeros(())

    def step() -> None:
        for x, weight in zip(inputs, weights, strict=True):
            torch.mm(x, weight.T)
        gradients: list[Tensor] = []
        for layer in reversed(range(len(sizes))):
            gradients.insert(0, torch.mm(errors[layer].T, inputs[layer]))
            if layer:
                torch.mm(errors[layer], weights[layer])
        _adam(weights, gradients, *moments, count)

    return step


def _adam(
    weights: list[Tensor], gradients: list[Tensor], means: list[Tensor], squares: list[Tensor], count: Tensor
) -> None:
    count += 1
    torch._fused_adam_(
        weights,
        gradients,
        means,
        squares,
        [],
        [count] * len(weights),
        lr=1e-3,
        beta1=0.9,
        beta2=0.999,
        weight_decay=0.0,
        eps=1e-8,
        amsgrad=False,
        maximize=False,
    )


if __name__ == "__main__":
    main()
