"""A process of `training/test_several_processes.py`: `python -m tests.support.trainings FOLDER`, JSON in FOLDER.

The first two, which are given a MASTER_PORT, end with a training in which process 1 stops; those that torchrun starts
afterwards resume it.
"""

import contextlib
import io
import json
import os
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

import pyro
import torch
from torch import nn

from pyro_vae.autoencoders import VAE
from pyro_vae.cli import main
from pyro_vae.compiling import recording as compiling
from pyro_vae.data import Dataset, load_data
from pyro_vae.distributed import connect
from pyro_vae.errors import PyroVaeError
from pyro_vae.evidence import log_marginal
from pyro_vae.guides import FullNormal
from pyro_vae.likelihoods import ContinuousBernoulli, Normal
from pyro_vae.networks import MLP
from pyro_vae.objectives import ELBO, Objective
from pyro_vae.process.seeding import seeded
from pyro_vae.runs.directory import Run
from pyro_vae.schedules import Cosine, Linear
from pyro_vae.training.fitting import fit
from pyro_vae.training.shares import Summing
from tests.support.networks import Dropping
from tests.support.stopping import signals_at, stop_before_a_sum

BATCH = 20
SMALL = partial(MLP, hidden=(8,))
COMMAND = (
    "fit --data digits --epochs 2 --batch_size 101 --vae.latent_dim 2 --vae.encoder.hidden [8] "
    "--vae.decoder.hidden [8] --pictures false --quiet --json --run"
)
LONG = (
    "fit --data digits --epochs 4 --batch_size 50 --vae.encoder.hidden [8] --vae.decoder.hidden [8] "
    "--save_every 0.1 --pictures false --run"
)


def digits(n=61):
    """Of which an epoch's last batch is one datum, so that one of two processes has none of it."""
    grey = load_data("digits")
    return Dataset("digits", grey.split("train")[:n], grey.split("valid")[:30], binarization="dynamic")


def make(seed=0, **parts):
    with seeded(seed, "init"):
        return VAE((8, 8), 3, **{"guide": FullNormal, "encoder": SMALL, "decoder": SMALL, **parts}).double()


def settings(**others):
    """All that a step may have to do."""
    plain = {
        "epochs": 3,
        "batch_size": BATCH,
        "log_every": 2,
        "progress": False,
        "compile": False,
        "start_at_mean": True,
    }
    adam = partial(torch.optim.Adam, lr=5e-3)
    regular = {"weight_prior": 1.0, "clip_norm": 0.5, "optimizer": adam, "lr_schedule": Cosine()}
    return {**plain, **regular, "objective": ELBO(beta=Linear(0.2, 1, epochs=2)), **others}


def dequantized():
    """The noise in the data is drawn for whole batches, whoever reads which rows."""
    grey, vae = load_data("digits"), make(likelihood=ContinuousBernoulli)
    data = Dataset("digits", grey.train[:61], grey.valid[:30], divisor=16, dequantize=True)
    return outcome(vae, fit(vae, data, **settings()))


def weights(vae):
    return [value.tolist() for value in vae.state_dict().values()]


def outcome(vae, history):
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in history.rows]
    return {"weights": weights(vae), "rows": rows, "best": history.best_epoch, "mode": history.mode}


def trained(seed=0, data=None, **others):
    vae = make(seed)
    return outcome(vae, fit(vae, digits() if data is None else data, **settings(**others)))


def recorded():
    """By graphs that are run as they are, which takes no compiler."""
    compiled, compiling._compiled = compiling._compiled, lambda graph, *_: (graph, "graph")
    try:
        return trained(compile=True)
    finally:
        compiling._compiled = compiled


class Counting(Dataset):
    """Notes how many rows are read."""

    seen = []  # noqa: RUF012 - of all copies

    def batch(self, index, *key):
        self.seen.append(len(index))
        return super().batch(index, *key)


def own_rows():
    """How many rows a process reads for each batch, and what comes of it, where nothing is drawn for all."""
    data = Counting("digits", digits().train, binarization="threshold")
    result = trained(data=data, epochs=1, start_at_mean=False)
    return result | {"seen": data.seen[-4:]}


def evidence(world):
    vae = make().float()
    estimate = log_marginal(vae.model, vae.guide, digits(120).split("train"), num_particles=50, world=world)
    names = ("log_p", "standard_error", "ess", "pareto_k", "elbo", "upper", "upper_standard_error")
    names += ("tail_start", "tail_excess")
    return [getattr(estimate, name).tolist() for name in names]


def failure(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except PyroVaeError as error:
        return {"class": type(error).__name__, "message": str(error), "shared": error.shared}
    return None


class BatchNormed(MLP):
    def __init__(self, in_shape, out_shape):
        super().__init__(in_shape, out_shape, hidden=(8,))
        self.norm = nn.BatchNorm1d(64)

    def forward(self, x):
        return super().forward(self.norm(x.flatten(1)).reshape(x.shape))


class Centred(MLP):
    """Couples the rows of a batch by an operation that has no name."""

    def forward(self, x):
        return super().forward(x - x.mean(0))


class MeanLoss(Objective):
    """A loss that is not a sum over the batch."""

    def __call__(self, model, guide, x):
        return ELBO()(model, guide, x) / len(x)


def refusals(rank):
    def attempt(data=None, seed=0, encoder=SMALL, **others):
        return failure(fit, make(seed, encoder=encoder), digits() if data is None else data, **settings(**others))

    broken = digits(40).train.double()
    broken[-1] = 1e307  # not in the first batch, which is checked
    return {
        "batch norm": attempt(encoder=BatchNormed),
        "dropout": attempt(encoder=Dropping),
        "coupled rows": attempt(encoder=partial(Centred, hidden=(8,))),
        "mean": attempt(objective=MeanLoss()),
        "small batch": attempt(batch_size=1),
        "other data": attempt(data=digits(61 + rank)),
        "not finite": failure(
            fit,
            make(likelihood=Normal),
            Dataset("broken", broken),
            epochs=1,
            batch_size=BATCH,
            compile=False,
            progress=False,
        ),
    }


def unused(world):
    """Parameters that no process uses, that one uses, and that both use."""
    parameters = [nn.Parameter(torch.full((2,), float(i))) for i in range(3)]
    used = parameters[1:] if world.main else parameters[2:]
    own = torch.tensor(1.0), used, [torch.full((2,), 10.0 + world.rank) for _ in used]
    sums = [Summing(world, parameters)(part, [1.0, 0.5]) for part in (own, own if world.main else None)]
    kept = [[next(i for i, q in enumerate(parameters) if q is p) for p in s.parameters] for s in sums]
    return [[s.loss, k, list(s.numbers)] for s, k in zip(sums, kept, strict=True)]


def stopped(world, path):
    """A signal to one process stops both; both go on, or one alone with a copy."""
    first = failure(fit_and_signal, world, path)
    world.barrier()
    if world.main:
        shutil.copytree(path, path.with_name("copy"))
    world.barrier()
    return {"stopped": first, "resumed": trained(run=path)}


def fit_and_signal(world, path):
    with signals_at({} if world.main else {5: signal.SIGTERM}):
        trained(run=path)


def call(*words):
    """The command: its exit code, and what it prints."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([part for word in words for part in str(word).split()])
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def commands(world, folder):
    with contextlib.ExitStack() as stack:
        if world.main:
            stack.callback(Run(folder / "locked", {}).close)
        world.barrier()
        locked = call(COMMAND, folder / "locked")
        world.barrier()
    results = {"locked": locked, "fit": call(COMMAND, folder / "command")}
    results["evaluate"] = call("evaluate", folder / "command", "--num_particles 60 --json --quiet")
    results["nothing"] = call("evaluate", folder / "nothing")
    results["mistyped"] = call("evaluate", folder / "command", "--num_particle 3")
    return results


def everything(world, folder):
    return {
        "eager": trained(seed=world.rank),  # the weights of process 0 are those of all
        "graph": recorded(),
        "dequantized": dequantized(),
        "own rows": own_rows(),
        "evidence": evidence(world),
        "refusals": refusals(world.rank),
        "unused": unused(world),
        **stopped(world, folder / "stopped"),
        **commands(world, folder),
        "progress": trained(epochs=1, progress=True) and None,
    }


def twice():
    """Two trainings, each of which joins and leaves; and what runs beside Python after them."""
    ends = [trained(epochs=1)["weights"] for _ in range(2)]
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return {"same": ends[0] == ends[1], "left": sorted(name for name in names if "gloo" in name)}


def first(rank, folder):
    """Everything in one group, and then the training that is broken off."""
    with connect("cpu") as world:
        (folder / f"{rank}.json").write_text(json.dumps(everything(world, folder)))
    if rank == 1:
        stop_before_a_sum(folder / "broken")
    return main([*LONG.split(), str(folder / "broken")])


def again(rank, folder):
    """Two trainings in groups of torchrun's, and the resumption."""
    (folder / f"again{rank}.json").write_text(json.dumps(twice()))
    return main([*LONG.split(), str(folder / "broken"), "--json"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    pyro.enable_validation(False)
    program = again if "TORCHELASTIC_RUN_ID" in os.environ else first
    sys.exit(program(int(os.environ["RANK"]), Path(sys.argv[1])))
