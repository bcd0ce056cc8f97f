"""Speed of log p(x) by Pyro's `RenyiELBO(alpha=0)`, whose value with K particles is the importance-sampling estimate.

--vectorized  all particles at once, one image a call (more images a call are no faster and need more memory)
--looped      one particle after the other, 100 images a call
"""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from common import EvidenceProblem, Memory, evidence_parser, evidence_problem, time_evidence
from pyro.infer import RenyiELBO
from torch import Tensor
from torch_common import chunks, network, set_up


def main(argv: list[str] | None = None) -> None:
    """Time it and print the line."""
    parser = evidence_parser(__doc__)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--vectorized", action="store_true", default=True)
    how.add_argument("--looped", action="store_false", dest="vectorized")
    args = parser.parse_args(argv)
    onednn = set_up(args)
    pyro.enable_validation(False)
    problem = evidence_problem(args)
    model, guide = programs(problem)
    x = torch.from_numpy(problem.x)
    elbo = RenyiELBO(alpha=0, num_particles=args.particles, vectorize_particles=args.vectorized, max_plate_nesting=1)

    @torch.no_grad()
    def log_p(num: int) -> float:
        return -sum(elbo.loss(model, guide, x[rows]) for rows in chunks(num, 1 if args.vectorized else 100)) / num

    if args.vectorized:
        args.warm_up = 2
    name = f"Pyro RenyiELBO, {'vectorized' if args.vectorized else 'looped'}"
    time_evidence(name, args, log_p, Memory(), onednn=onednn)


def programs(problem: EvidenceProblem) -> tuple[Callable[[Tensor], None], Callable[[Tensor], None]]:
    """Model and guide as a Pyro user writes them."""
    encoder, decoder = network(problem.encoder), network(problem.decoder)

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            prior = dist.Normal(torch.zeros(problem.latent), torch.ones(problem.latent))
            z = pyro.sample("z", prior.to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            loc, log_scale = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return model, guide


if __name__ == "__main__":
    main()
