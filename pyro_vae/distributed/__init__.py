"""Several processes on one batch: who they are, their sums, their noise, their errors.

    with connect("cpu") as world, ShardedNoise(world, len(x)):  # under torchrun; elsewhere a world of one process
        loss = objective(model, guide, x[world.rows(len(x))])

Every process holds all the weights and computes on its own rows of each batch. Its draws are its rows of the draws that
one process would make, so that after `World.sum_` of the gradients the result is that of one process, up to the order
in which floats are added.

    world.py        World, connect
    noise.py        ShardedNoise
    agreement.py    errors on which all processes agree
"""

from pyro_vae.distributed.noise import ShardedNoise
from pyro_vae.distributed.world import World, connect

__all__ = ["ShardedNoise", "World", "connect"]
