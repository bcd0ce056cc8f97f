"""Speed of log p(x) written by hand in JAX: one image a call, chunks of samples in a `lax.scan`."""

from collections.abc import Callable
from math import gcd, log
from typing import Any

from common import EvidenceProblem, Memory, evidence_parser, evidence_problem, time_evidence, use_cores


def main(argv: list[str] | None = None) -> None:
    """Time it and print the line."""
    parser = evidence_parser(__doc__, torch=False)
    parser.add_argument("--rows", type=int, default=500, help="samples in a chunk, cut to a divisor of K")
    parser.set_defaults(warm_up=2)
    args = parser.parse_args(argv)
    use_cores(args.threads)  # before jax is imported
    from jax import random

    problem = evidence_problem(args)
    args.rows = gcd(args.rows, args.particles)
    estimate = make(problem, args.particles, args.rows)

    def log_p(num: int) -> float:
        keys = random.split(random.PRNGKey(args.seed), num)
        return sum(float(estimate(keys[i], problem.x[i])) for i in range(num)) / num

    time_evidence("JAX by hand", args, log_p, Memory())


def make(problem: EvidenceProblem, particles: int, rows: int) -> Callable[[Any, Any], Any]:
    """The jitted `(key, image) -> log p(x)`."""
    import jax
    from jax import lax, random
    from jax import numpy as jnp
    from jax.scipy.special import logsumexp
    from numpyro_svi import run

    encoder, decoder = jax.device_put((problem.encoder, problem.decoder))

    @jax.jit
    def estimate(key: Any, x: Any) -> Any:
        loc, log_scale = jnp.split(run(encoder, x), 2)

        def chunk(total: Any, key: Any) -> tuple[Any, None]:
            noise = random.normal(key, (rows, problem.latent))
            z = loc + jnp.exp(log_scale) * noise
            logits = run(decoder, z)
            log_weights = logits @ x - jax.nn.softplus(logits).sum(-1) + 0.5 * (noise**2 - z**2).sum(-1)
            return jnp.logaddexp(total, logsumexp(log_weights)), None

        total, _ = lax.scan(chunk, -jnp.inf, random.split(key, particles // rows))
        return total + log_scale.sum() - log(particles)

    return estimate


if __name__ == "__main__":
    main()
