"""Speed of annealed importance sampling written by hand in PyTorch, as in Wu et al. 2017.

One pass of the decoder gives the likelihood and its gradient, which serve every temperature; the gradients of the prior
and of the guide are formulas.
"""

from argparse import Namespace
from itertools import count, pairwise
from math import log

import torch
from annealing import DOWN, FIRST_STEP, LARGEST_STEP, LEAST_STEP, TARGET, UP, annealing_parser, betas, decoder
from common import EvidenceProblem, Memory, evidence_problem, time_evidence
from torch import Tensor, from_numpy
from torch.nn.functional import softplus
from torch_common import keep_blocks, network, set_up


def main(argv: list[str] | None = None) -> None:
    """Time it and print the line."""
    args = annealing_parser(__doc__).parse_args(argv)
    args.decoder = decoder(args.latent)
    onednn = set_up(args)
    keep_blocks()
    problem = evidence_problem(args)
    x, seeds = from_numpy(problem.x), count(args.seed)

    def log_p(num: int) -> float:
        torch.manual_seed(next(seeds))
        return Annealed(problem, x[:num], args).log_p().mean().item()

    time_evidence("PyTorch by hand", args, log_p, Memory(), onednn=onednn)


class Annealed:
    """The chains of some images, `[chains, N, latent]`.

    At a point z: log f_0, log p(x, z) - log f_0, `[chains, N]`, and their gradients.
    """

    def __init__(self, problem: EvidenceProblem, x: Tensor, args: Namespace) -> None:
        self.x, self.args = x, args
        self.decoder = network(problem.decoder).requires_grad_(False)
        with torch.no_grad():
            loc, log_scale = network(problem.encoder)(x).chunk(2, -1)
        prior = args.start == "prior"
        self.loc = torch.zeros_like(loc) if prior else loc
        self.log_scale = torch.zeros_like(loc) if prior else log_scale

    def log_p(self) -> Tensor:
        """The lower bound of each image, `[N]`, nats."""
        shape = (self.args.chains, *self.loc.shape)
        point = self.at(self.loc + self.log_scale.exp() * torch.randn(shape))
        log_weights, step = torch.zeros(shape[:2]), torch.full((*shape[:2], 1), FIRST_STEP)
        accepted = torch.zeros(shape[:2])
        for number, (before, beta) in enumerate(pairwise(betas(self.args.temperatures)), 1):
            log_weights += (beta - before) * point[2]
            point, taken = self.transition(point, beta, step)
            accepted += taken
            factor = torch.where(accepted > TARGET * number, UP, DOWN).unsqueeze(-1)
            step = (step * factor).clamp(LEAST_STEP, LARGEST_STEP)
        return log_weights.double().logsumexp(0) - log(self.args.chains)

    def at(self, z: Tensor) -> tuple[Tensor, ...]:
        """`(z, log f_0, rise, gradient of log f_0, gradient of the rise)`."""
        z.requires_grad_()
        logits = self.decoder(z)
        likelihood = (self.x * logits).sum(-1) - softplus(logits).sum(-1)
        (slope,) = torch.autograd.grad(likelihood.sum(), z)
        z = z.detach()
        noise = (z - self.loc) * (-self.log_scale).exp()
        base = -(0.5 * noise.square() + self.log_scale).sum(-1)
        base_slope = -noise * (-self.log_scale).exp()
        return z, base, likelihood.detach() - 0.5 * z.square().sum(-1) - base, base_slope, slope - z - base_slope

    def transition(self, start: tuple[Tensor, ...], beta: float, step: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """A trajectory from each chain's point; the points after it, and which chains took it."""
        point, momentum = start, torch.randn_like(start[0])
        energy = momentum.square().sum(-1) / 2 - point[1] - beta * point[2]
        momentum = momentum + step / 2 * (point[3] + beta * point[4])
        for number in range(1, self.args.leapfrog + 1):
            point = self.at(point[0] + step * momentum)
            share = 1.0 if number < self.args.leapfrog else 0.5
            momentum = momentum + share * step * (point[3] + beta * point[4])
        change = energy - momentum.square().sum(-1) / 2 + point[1] + beta * point[2]
        taken = torch.rand_like(change).log() < change
        moved = (
            torch.where(taken.view(*taken.shape, *[1] * (new.dim() - 2)), new, old)
            for new, old in zip(point, start, strict=True)
        )
        return tuple(moved), taken.float()


if __name__ == "__main__":
    main()
