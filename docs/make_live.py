"""Makes the models of the live pages in docs/learn: trains them on the packaged digits, as the pages themselves do.

    .venv/bin/python docs/make_live.py             # some seconds each; writes docs/live/NAME.json
    .venv/bin/python docs/make_live.py digits      # one of them

Only what is computed is in the files: weights, data and their codes. The scripts of a page are those of the package
when the site is built.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from pyro_vae import VAE, fit, load_data
from pyro_vae.data import Dataset
from pyro_vae.explore.answers import Answers
from pyro_vae.explore.export import exported_start
from pyro_vae.explore.subject import Explored
from pyro_vae.networks import MLP

TARGET = Path(__file__).parent / "live"
SHOWN = 200
"""Test digits in a page."""


def digits() -> tuple[VAE, Dataset]:
    """The model of pages 1 and 4."""
    torch.manual_seed(0)
    data = load_data("digits", binarize="threshold")
    network = partial(MLP, hidden=(64,))
    vae = VAE(data.event_shape, latent_dim=2, encoder=network, decoder=network)
    adam = partial(torch.optim.Adam, lr=0.01)
    fit(vae, data, epochs=30, optimizer=adam, compile=False, progress=False)
    return vae, data


def small_encoder() -> tuple[VAE, Dataset]:
    """The model of page 7, whose encoder has 16 hidden units."""
    torch.manual_seed(0)
    data = load_data("digits", binarize="static")
    small, large = partial(MLP, hidden=(16,)), partial(MLP, hidden=(64, 64))
    vae = VAE(data.event_shape, latent_dim=2, encoder=small, decoder=large)
    fit(vae, data, epochs=25, batch_size=50, progress=False)
    return vae, data


MODELS: dict[str, Callable[[], tuple[VAE, Dataset]]] = {"digits": digits, "small-encoder": small_encoder}


def main() -> None:
    """The command."""
    TARGET.mkdir(exist_ok=True)
    for name in sys.argv[1:] or MODELS:
        vae, data = MODELS[name]()
        x, labels = data.split("test")[:SHOWN], data.labels["test"][:SHOWN]
        words = {"p(x|z)": vae.likelihood, "p(z)": vae.prior, "q(z|x)": vae.posterior}
        facts = {"run": data.name, **{word: type(part).__name__ for word, part in words.items()}}
        shown = Explored(vae, x, labels=labels, facts={**facts, "data": f"{len(x)} of test"})
        start, weights = exported_start(Answers(shown))
        path = TARGET / f"{name}.json"
        path.write_text(f"{json.dumps(start, allow_nan=False)}\n")
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB, {weights}")


if __name__ == "__main__":
    main()
