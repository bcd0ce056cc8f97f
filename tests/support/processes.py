"""A process of `distributed/test_world.py`: `python -m tests.support.processes FOLDER PORT PORT PORT PORT`: JSON."""

import json
import os
import signal
import sys
import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import pyro
import torch
import torch.distributed as dist

from pyro_vae.autoencoders import VAE
from pyro_vae.distributed import ShardedNoise, connect
from pyro_vae.errors import PeerLost
from pyro_vae.guides import FullNormal
from pyro_vae.networks import MLP
from pyro_vae.objectives import ELBO
from pyro_vae.process.seeding import seeded

WAIT = 0.5
"""Seconds after which a silent process counts as lost, once both have met; meeting may take as long as it takes."""
ROWS = (7, 2, 1)


def collectives(world):
    """What every method returns on this process."""
    r = world.rank
    pair = [torch.full((2, 2), float(r + 1)), torch.tensor(10.0 * (r + 1), dtype=torch.float64)]
    for _ in range(2):  # twice: the buffer is used again
        world.sum_(pair)
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3).T * (r + 1))
    world.sum_([weight])
    world.barrier()
    return {
        "world": [world.rank, world.size, world.main, str(world.device)],
        "sum": [t.tolist() for t in (*pair, weight)],
        "buffers": len(world._flat),
        "gather": world.gather(torch.arange(3 * r, 3 * r + 3 - 2 * r)).tolist(),
        "gather_empty": world.gather(torch.zeros(r, 2, dtype=torch.bool)).tolist(),
        "gather_nothing": list(world.gather(torch.zeros(0, 3)).shape),
        "gather_half": world.gather(torch.full((2, 1), r + 0.5, dtype=torch.bfloat16)).flatten().tolist(),
        "broadcast": world.broadcast(bytes(range(256)) if r == 0 else None).hex(),
        "broadcast_nothing": world.broadcast(b"" if r == 0 else b"mine").hex(),
        "largest": [world.largest(r * 7), world.largest(-r)],
    }


def step(world, rows):
    """The loss and the gradients of one step on `rows` rows, summed over the processes."""
    small = partial(MLP, hidden=(8,))
    with seeded(0, "init"):
        vae = VAE((6,), 3, guide=FullNormal, encoder=small, decoder=small).double()
        x = torch.rand(rows, 6).round()
    loss = torch.zeros((), dtype=torch.float64)
    if len(x[world.rows(rows)]):
        with seeded(0, "step", 0), ShardedNoise(world, rows):
            loss = ELBO(num_particles=2)(vae.model, vae.guide, x[world.rows(rows)])
        loss.backward()
    totals = [loss.detach().clone(), *(torch.zeros_like(p) if p.grad is None else p.grad for p in vae.parameters())]
    world.sum_(totals)
    return [total.tolist() for total in totals]


def lose(world, last, timeout=600.0):
    """What a collective of the first process raises once `last` has happened to the other one."""
    world.barrier()
    if not world.main:
        last()
        return {}
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=timeout), dist.group.WORLD)
    try:
        world.sum_([tensor := torch.ones(3)])
    except PeerLost as error:
        return {"message": str(error), "kept": tensor.tolist()}
    return {}


def silent(world, noticed):
    """The second process stays, and takes no part, until the first one has noticed."""
    found = lose(world, partial(wait_for, noticed), WAIT)
    noticed.touch()
    return found


def wait_for(path):
    while not path.exists():
        time.sleep(0.01)


def timeout_of_the_group():
    """Seconds that every collective waits."""
    return dist.group.WORLD._get_backend(torch.device("cpu")).options._timeout.total_seconds()


def main(folder, *ports):
    result = {}
    os.environ["MASTER_PORT"] = ports[0]
    with connect("cpu") as world:
        result |= collectives(world) | {f"step{n}": step(world, n) for n in ROWS}
    result["left"] = not dist.is_initialized()
    os.environ["MASTER_PORT"] = ports[1]
    try:
        with connect("cpu"):
            raise KeyError("ours")
    except KeyError:
        result["left_after_error"] = not dist.is_initialized()
    os.environ["MASTER_PORT"] = ports[2]
    with connect("cpu", timeout=500) as world:
        result["timeout"] = timeout_of_the_group()
        result["silent"] = silent(world, Path(folder, "noticed"))
    os.environ["MASTER_PORT"] = ports[3]
    with connect("cpu") as world:
        if not world.main:
            print(json.dumps(result), flush=True)
        result["killed"] = lose(world, lambda: os.kill(os.getpid(), signal.SIGKILL))
    result["left_after_loss"] = not dist.is_initialized()
    print(json.dumps(result))


if __name__ == "__main__":
    torch.set_num_threads(1)
    pyro.enable_validation(False)
    main(*sys.argv[1:])
