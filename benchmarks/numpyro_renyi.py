"""Speed of log p(x) by NumPyro's `RenyiELBO(alpha=0)`, jitted, one image a call."""

from common import Memory, evidence_parser, evidence_problem, time_evidence, use_cores


def main(argv: list[str] | None = None) -> None:
    """Time it and print the line."""
    parser = evidence_parser(__doc__, torch=False)
    parser.set_defaults(warm_up=2)
    args = parser.parse_args(argv)
    use_cores(args.threads)  # before jax is imported
    import jax
    from jax import random
    from numpyro.infer import RenyiELBO
    from numpyro_svi import programs

    problem = evidence_problem(args)
    model, guide = programs(problem.encoder, problem.decoder, problem.latent)
    elbo = RenyiELBO(alpha=0, num_particles=args.particles)
    loss = jax.jit(lambda key, weights, x: elbo.loss(key, weights, model, guide, x))
    weights = {"encoder": jax.device_put(problem.encoder), "decoder": jax.device_put(problem.decoder)}

    def log_p(num: int) -> float:
        keys = random.split(random.PRNGKey(args.seed), num)
        return -sum(float(loss(keys[i], weights, problem.x[i : i + 1])) for i in range(num)) / num

    time_evidence("NumPyro RenyiELBO", args, log_p, Memory())


if __name__ == "__main__":
    main()
