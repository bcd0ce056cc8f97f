"""Training speed of loops written by hand in PyTorch, without Pyro.

--kind usual     as people write it: default Adam, `binary_cross_entropy_with_logits`, `x[index]`, `loss.item()`
--kind best      fused Adam, the Bernoulli density in one pass, `index_select`, blocks kept by glibc, no item()
--kind compiled  best, with the loss under `torch.compile`
--bf16           the networks under autocast, weights and loss in float32
"""

from argparse import Namespace
from collections.abc import Callable

import torch
from common import Clock, print_training, training_arguments, training_parser
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus
from torch_common import batches, keep_blocks, networks, set_up, training_images


class Loss(nn.Module):
    """The negative ELBO summed over the batch, KL in closed form (AEVB's estimator B)."""

    def __init__(self, args: Namespace) -> None:
        super().__init__()
        self.encoder, self.decoder = networks(args)
        self.fast, self.bf16 = args.kind != "usual", args.bf16

    def forward(self, x: Tensor) -> Tensor:
        """For a batch `[B, 784]`."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            loc, log_scale = self.encoder(x).float().chunk(2, -1)
            scale = log_scale.exp()
            logits = self.decoder(loc + scale * torch.randn_like(scale)).float()
        kl = (0.5 * (loc.square() + scale.square() - 1) - log_scale).sum()
        if self.fast:
            return kl + softplus(logits).sum() - (x * logits).sum()
        return kl + binary_cross_entropy_with_logits(logits, x, reduction="sum")


def main(argv: list[str] | None = None) -> None:
    """Time it and print the line."""
    parser = training_parser(__doc__)
    parser.add_argument("--kind", choices=["usual", "best", "compiled"], default="best")
    parser.add_argument("--bf16", action="store_true")
    args = training_arguments(parser, argv)
    onednn = set_up(args)
    if args.kind != "usual":
        keep_blocks()
    x = training_images(args)
    clock = Clock()
    loss = (usual if args.kind == "usual" else best)(Loss(args), x, args, clock)
    system = f"PyTorch, {args.kind}{', bf16' if args.bf16 else ''}"
    print_training(system, args, clock.rates(args.num), loss, clock.first_step_s, onednn=onednn)


def usual(loss: nn.Module, x: Tensor, args: Namespace, clock: Clock) -> float:
    """Train as tutorials do; returns the mean loss per image of the last epoch."""
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3)
    for _ in range(args.epochs + 1):
        total = 0.0
        for index in torch.randperm(len(x)).split(args.batch):
            optimizer.zero_grad()
            batch_loss = loss(x[index]) / args.batch
            batch_loss.backward()
            optimizer.step()
            total += batch_loss.item() * args.batch
            clock.step()
        clock.epoch()
    return total / len(x)


def best(module: nn.Module, x: Tensor, args: Namespace, clock: Clock) -> float:
    """Train as fast as an eager loop goes; returns the mean loss per image of the last epoch."""
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3, fused=True)
    loss: Callable[[Tensor], Tensor] = torch.compile(module) if args.kind == "compiled" else module
    for _ in range(args.epochs + 1):
        total = torch.zeros(())
        for rows in batches(x, args.batch):
            optimizer.zero_grad(set_to_none=True)
            batch_loss = loss(rows) / args.batch
            batch_loss.backward()
            optimizer.step()
            total += batch_loss.detach()
            clock.step()
        mean = total.item() * args.batch / len(x)
        clock.epoch()
    return mean


if __name__ == "__main__":
    main()
