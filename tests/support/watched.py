"""A process of `training/test_telling.py`, under torchrun: a training with a tracker and `on_epoch`; JSON in FOLDER."""

import json
import os
import sys
from pathlib import Path

import torch

from pyro_vae.autoencoders import VAE
from pyro_vae.errors import PyroVaeError
from pyro_vae.process.seeding import seeded
from pyro_vae.training.fitting import fit

told = []


class Listening:
    """Keeps the steps."""

    def settings(self, settings):
        told.append("settings")

    def numbers(self, numbers, step):
        told.append(step)

    def figure(self, name, figure, step): ...


def main(folder):
    found = {}
    for name, answer in (("ended", True), ("refused", 3)):

        def look(row, answer=answer):
            told.append(f"epoch {row['epoch']}")
            return answer if row["epoch"] == 2 else None

        told.clear()
        with seeded(0, "init"):
            vae = VAE((4,), 2)
        try:
            how = {"epochs": 4, "batch_size": 20, "run": folder / name, "progress": False}
            history = fit(vae, torch.ones(40, 4), tracker=Listening, on_epoch=look, **how)
            outcome = [len(history.rows), history.stopped_early]
        except PyroVaeError as error:
            outcome = str(error)
        found[name] = [outcome, list(told)]
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
