"""Training speed of NumPyro: `SVI` with `Trace_ELBO`, jitted, a whole shuffled epoch in one `lax.fori_loop`."""

from argparse import Namespace
from collections.abc import Callable
from typing import Any

from common import PIXELS, Clock, images, make_layers, print_training, training_arguments, training_parser, use_cores


def main(argv: list[str] | None = None) -> None:
    """Time it and print the line."""
    args = training_arguments(training_parser(__doc__, torch=False), argv)
    use_cores(args.threads)  # before jax is imported
    from jax import numpy as jnp
    from jax import random

    x = jnp.asarray(images(args.num, args.seed))
    clock = Clock()
    state, epoch = make(args, x)
    key = random.PRNGKey(args.seed)
    steps = args.num // args.batch
    epoch(state, key, 1)[1].block_until_ready()  # the same program, told to stop after one step
    clock.step()
    for number in range(args.epochs + 1):
        state, total = epoch(state, random.fold_in(key, number), steps)
        loss = float(total) / args.num
        clock.epoch()
    print_training("NumPyro", args, clock.rates(args.num), loss, clock.first_step_s)


def make(args: Namespace, x: Any) -> tuple[Any, Callable[..., Any]]:
    """The first state, and the jitted `(state, key, steps) -> (state, summed loss)`."""
    import jax
    import numpyro
    from jax import lax, random
    from numpyro.infer import SVI, Trace_ELBO

    encoder = make_layers([PIXELS, args.hidden, 2 * args.latent], args.seed + 1)
    decoder = make_layers([args.latent, args.hidden, PIXELS], args.seed + 2)
    svi = SVI(*programs(encoder, decoder, args.latent), numpyro.optim.Adam(1e-3), Trace_ELBO())

    @jax.jit
    def epoch(state: Any, key: Any, steps: int) -> tuple[Any, Any]:
        order = random.permutation(key, len(x))

        def step(i: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            state, total = carry
            rows = x[lax.dynamic_slice_in_dim(order, i * args.batch, args.batch)]
            state, loss = svi.update(state, rows)
            return state, total + loss

        return lax.fori_loop(0, steps, step, (state, 0.0))

    return svi.init(random.PRNGKey(args.seed), x[: args.batch]), epoch


def programs(encoder: Any, decoder: Any, latent: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """Model and guide with these starting weights."""
    import numpyro
    import numpyro.distributions as dist
    from jax import numpy as jnp

    def model(x: Any) -> None:
        weights = numpyro.param("decoder", _arrays(decoder))
        with numpyro.plate("data", x.shape[0]):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(latent), 1.0).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=run(weights, z)).to_event(1), obs=x)

    def guide(x: Any) -> None:
        weights = numpyro.param("encoder", _arrays(encoder))
        with numpyro.plate("data", x.shape[0]):
            loc, log_scale = jnp.split(run(weights, x), 2, -1)
            numpyro.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))

    return model, guide


def run(layers: Any, x: Any) -> Any:
    """A perceptron with tanh between its layers."""
    from jax import numpy as jnp

    *hidden, (weight, bias) = layers
    for w, b in hidden:
        x = jnp.tanh(x @ w + b)
    return x @ weight + bias


def _arrays(layers: Any) -> Any:
    from jax import numpy as jnp

    return [(jnp.asarray(weight), jnp.asarray(bias)) for weight, bias in layers]


if __name__ == "__main__":
    main()
