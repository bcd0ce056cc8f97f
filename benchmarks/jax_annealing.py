"""Speed of annealed importance sampling with the transitions of a library for JAX: NumPyro's HMC or BlackJAX's.

Neither library has the estimator itself. The loop over temperatures is a `lax.scan` of one chain's transitions,
vectorised over chains and images, in one jitted function.
"""

# pyright: reportMissingImports=false
from argparse import Namespace
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
from annealing import DOWN, FIRST_STEP, LARGEST_STEP, LEAST_STEP, TARGET, UP, annealing_parser, betas, decoder
from common import EvidenceProblem, Memory, evidence_problem, time_evidence, use_cores

Transition = Callable[[Any, Any, Any, Any], tuple[Any, Any]]
"""Of the key, z, the log-density and the step size: z after it, and the probability of acceptance."""


def main(argv: list[str] | None = None) -> None:
    """Time it and print the line."""
    parser = annealing_parser(__doc__, torch=False)
    parser.add_argument("--library", choices=["numpyro", "blackjax"], default="numpyro")
    args = parser.parse_args(argv)
    args.decoder = decoder(args.latent)
    use_cores(args.threads)  # before jax is imported
    from jax import random

    problem, seeds = evidence_problem(args), count(args.seed)
    bound = make(problem, {"numpyro": by_numpyro, "blackjax": by_blackjax}[args.library](args.leapfrog), args)
    args.warm_up = args.images  # the function is compiled for this number

    def log_p(num: int) -> float:
        return float(bound(problem.x[:num], random.PRNGKey(next(seeds))).mean())

    time_evidence(f"{args.library} HMC", args, log_p, Memory())


def make(problem: EvidenceProblem, transition: Transition, args: Namespace) -> Callable[[Any, Any], Any]:
    """The jitted `(images, key) -> lower bound of each, [N]`."""
    import jax
    from jax import lax, random
    from jax import numpy as jnp
    from jax.scipy.stats import norm
    from numpyro_svi import run

    encoder, layers = problem.encoder, problem.decoder
    grid = np.asarray(betas(args.temperatures), np.float32)

    def start(x: Any) -> tuple[Any, Any]:
        if args.start == "prior":
            return jnp.zeros(args.latent), jnp.ones(args.latent)
        loc, log_scale = jnp.split(run(encoder, x), 2, -1)
        return loc, jnp.exp(log_scale)

    def chain(key: Any, x: Any) -> Any:
        loc, scale = start(x)

        def base(z: Any) -> Any:
            return norm.logpdf(z, loc, scale).sum()

        def rise(z: Any) -> Any:
            logits = run(layers, z)
            return (x * logits - jax.nn.softplus(logits)).sum() + norm.logpdf(z).sum() - base(z)

        def move(carry: Any, at: Any) -> tuple[Any, None]:
            z, log_weight, step, accepted = carry
            number, before, beta, key = at
            log_weight = log_weight + (beta - before) * rise(z)
            z, accept = transition(key, z, lambda z: base(z) + beta * rise(z), step)
            accepted = accepted + accept
            step = jnp.clip(step * jnp.where(accepted > TARGET * number, UP, DOWN), LEAST_STEP, LARGEST_STEP)
            return (z, log_weight, step, accepted), None

        first, rest = random.split(key)
        z = loc + scale * random.normal(first, loc.shape)
        keys = random.split(rest, args.temperatures)
        numbers = jnp.arange(1, args.temperatures + 1)
        return lax.scan(move, (z, 0.0, FIRST_STEP, 0.0), (numbers, grid[:-1], grid[1:], keys))[0][1]

    @jax.jit
    def bound(x: Any, key: Any) -> Any:
        keys = random.split(key, (args.chains, len(x)))
        log_weights = jax.vmap(jax.vmap(chain), (0, None))(keys, x)
        return jax.nn.logsumexp(log_weights, 0) - jnp.log(args.chains)

    return bound


def by_numpyro(leapfrog: int) -> Transition:
    """A step of `numpyro.infer.hmc.hmc`."""
    from numpyro.infer.hmc import hmc

    def transition(key: Any, z: Any, log_density: Any, step: Any) -> tuple[Any, Any]:
        init, sample = hmc(lambda z: -log_density(z), algo="HMC")
        fixed = {"adapt_step_size": False, "adapt_mass_matrix": False, "trajectory_length": None}
        state = sample(init(z, 0, step, num_steps=leapfrog, rng_key=key, **fixed))
        return state.z, state.accept_prob

    return transition


def by_blackjax(leapfrog: int) -> Transition:
    """A step of `blackjax.hmc`."""
    from blackjax.mcmc import hmc
    from jax import numpy as jnp

    kernel = hmc.build_kernel()

    def transition(key: Any, z: Any, log_density: Any, step: Any) -> tuple[Any, Any]:
        state = hmc.init(z, log_density)
        state, info = kernel(key, state, log_density, step, jnp.ones_like(z), leapfrog)
        return state.position, info.acceptance_rate

    return transition


if __name__ == "__main__":
    main()
