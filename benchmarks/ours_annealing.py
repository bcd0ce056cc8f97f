"""Speed of `pyro_vae`'s Markov chains: log p(x) by `ais`, or draws of the posterior by Hamiltonian Monte Carlo.

--sampler ais   --temperatures / --fewer steps from the guide to the posterior (the package's default: 250), each of
                --steps gradients (2)
--sampler hmc   half of --temperatures draws of each chain, after as many of warm-up

Both cost in proportion to --temperatures, and more or less so to --chains.
"""

from argparse import Namespace
from collections.abc import Callable
from itertools import count

from annealing import annealing_parser, decoder
from common import Memory, evidence_problem, time_evidence
from ours_evidence import make
from torch import Tensor, from_numpy
from torch_common import Warnings, set_up

from pyro_vae import VAE, ais
from pyro_vae.evidence import Annealing
from pyro_vae.inference import HMC, posterior


def main(argv: list[str] | None = None) -> None:
    """Time it and print the line."""
    parser = annealing_parser(__doc__)
    parser.add_argument("--sampler", choices=["ais", "hmc"], default="ais")
    parser.add_argument("--compile", action="store_true", help="run AIS as a compiled graph; hmc has none")
    args = parser.parse_args(argv)
    args.decoder = decoder(args.latent)
    onednn = set_up(args)
    warned, problem = Warnings(), evidence_problem(args)
    run = {"ais": _ais, "hmc": _hmc}[args.sampler](make(problem), from_numpy(problem.x), args)
    time_evidence(f"ours, {args.sampler}", args, run, Memory(), onednn=onednn, warnings=warned.messages)


def _ais(vae: VAE, x: Tensor, args: Namespace) -> Callable[[int], float]:
    number = max(1, round(args.temperatures / args.fewer))
    how = Annealing(number, args.chains, args.steps, args.start)
    seeds = count(args.seed)
    options = {"annealing": how, "compile": args.compile}
    return lambda num: ais(vae.model, vae.guide, x[:num], seed=next(seeds), **options).mean


def _hmc(vae: VAE, x: Tensor, args: Namespace) -> Callable[[int], float]:
    half = args.temperatures // 2
    num_draws, settings = half * args.chains, HMC(num_chains=args.chains, num_warmup=half, num_leapfrog=4)

    def run(num: int) -> float:
        posterior(vae.model, vae.guide, x[:num], method="hmc", num_draws=num_draws, hmc=settings)
        return 0.0

    return run


if __name__ == "__main__":
    main()
