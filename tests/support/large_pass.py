"""Trains on a loader of more data than the process may hold: `python -m ... FOLDER SIDE ROWS MIB LARGE STOP`.

In a subprocess, since its memory is limited: above what it has after its imports and a small rehearsal, by MIB MiB, not
counting mapped files, which the system can take back. Images are SIDE x SIDE bytes. A split of LARGE elements is large.
STOP is the step at which it gets SIGTERM; 0 for none. It prints a line of JSON: the most memory beyond the rehearsal,
MiB, and a fingerprint of the weights.
"""

import json
import resource
import signal
import sys
import threading
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from pyro_vae import VAE, fit, load_data, log_marginal, store_data
from pyro_vae.data import storage
from pyro_vae.data.fingerprint import fingerprint
from pyro_vae.errors import Stopped
from pyro_vae.likelihoods import Normal
from pyro_vae.networks import MLP
from pyro_vae.process.seeding import generator, seeded
from tests.support.stopping import signals_at


class Synthetic(TorchDataset):
    """Images that are drawn from their number, so that no file has them."""

    def __init__(self, side, rows):
        self.side, self.rows = side, rows
        self.noise = torch.randint(256, (side * side + 997,), generator=generator(0, "noise"), dtype=torch.uint8)

    def __len__(self):
        return self.rows

    def __getitem__(self, index):
        start = index * 31 % 997
        return self.noise[start : start + self.side**2].reshape(self.side, self.side) + index % 7, index % 10


def memory(name):
    """A line of /proc/self/status, bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


@contextmanager
def watched(found):
    """Keeps the most anonymous memory of the process in `found`."""
    done = threading.Event()

    def watch():
        while not done.wait(0.05):
            found["most"] = max(found["most"], memory("RssAnon"))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def work(folder, side, rows, stop):
    """Pass, store, train, evaluate."""
    loader = DataLoader(Synthetic(side, rows), batch_size=500)
    path = store_data(loader, folder / "data", key="synthetic", progress=False)
    data = load_data(path, valid_size=rows // 7)
    with seeded(0, "weights"):
        small = partial(MLP, hidden=(8,))
        vae = VAE(data.event_shape, 2, likelihood=Normal, encoder=small, decoder=small, standardize=True)
    with signals_at({stop: signal.SIGTERM}):
        fit(vae, data, epochs=2, batch_size=500, run=folder / "run", progress=False, compile=False, save_every=1e9)
    x = data.split("valid")
    rows = torch.arange(0, len(x), len(x) // 50)
    return vae, log_marginal(vae.model, vae.guide, x[rows], num_particles=20).mean


def main(folder, side, rows, mib, large, stop):
    """See the module."""
    folder, storage.LARGE = Path(folder), large
    work(folder / "rehearsal", side, 2100, 0)
    before, found = memory("RssAnon"), {"most": 0}
    limit = memory("VmData") + mib * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    with watched(found):
        try:
            vae, log_p = work(folder / "large", side, rows, stop)
        except Stopped as error:
            print(json.dumps({"most": (found["most"] - before) / 2**20, "stopped": str(error)}))
            return
    weights = fingerprint(*vae.state_dict().values())
    print(json.dumps({"most": (found["most"] - before) / 2**20, "weights": weights, "log_p": log_p}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
