"""Gated networks of 300 units with latent variables of 40 dimensions, in one layer or two (Tomczak & Welling 2018)."""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

from fitted import Row, part

PASSES = 200
GATED = tuple(word for name in ("encoder", "decoder") for word in part(name, "GatedMLP", hidden="[300, 300]"))
ONE = ("--vae.latent_dim", "40", *GATED)
UPPER = tuple(
    word
    for name in ("upper_encoder", "upper_decoder")
    for word in part(name, "MLP", hidden="[300]", activation="tanh")  # bounded; codes are not
)
TWO = ("--vae", "HierarchicalVAE", "--vae.latent_dims", "[40, 40]", *GATED, *UPPER)
BOTH = (
    *("--vae", "HierarchicalVAE", "--vae.latent_dims", "[40, 40]", "--vae.top_down", "true", "--vae.skip", "true"),
    *(*GATED, *part("upper_decoder", "GatedMLP", hidden="[300, 300]")),
)
"""Two layers as in the paper: the guide draws z2 given x, then z1 given both, and x depends on both."""
VAMP = part("prior", "VampPrior", components="500")
SMALL = {"[300, 300]": "[16]", "[300]": "[8]", "[40, 40]": "[4, 2]", "40": "4", "500": "20"}
TRAINING = ("--batch_size", "250", "--optimizer.lr", "3e-3")
SLOWER = ("--batch_size", "250", "--optimizer.lr", "2e-3")
AGAIN = ("--batch_size", "250", "--optimizer.lr", "1e-3")
SHIFTED_EPOCHS = 12
"""Of nine passes each."""
DREG_PASSES = {"5": 40, "50": 10}
"""Of DReG, by the number of draws."""


def dreg(before: Row, name: str, k: str, passes: int | None = None) -> Row:
    """A row that begins with the weights of another one and goes on by DReG, on the images themselves.

    Args:
        before: the other row.
        name: of the other row.
        k: draws for each image.
        passes: how many; None for those of `DREG_PASSES`.
    """
    objective = ("--objective", "DReG", "--objective.num_particles", k)
    return again(before, name, passes or DREG_PASSES[k], objective)


def again(before: Row, name: str, passes: int, objective: tuple[str, ...]) -> Row:
    """A row that begins with the weights of another one and goes on on the images themselves.

    Args:
        before: the other row.
        name: of the other row.
        passes: how many.
        objective: its options; named, since the default ELBO begins with KL warm-up.
    """
    return replace(before, epochs=passes, training=(*objective, *AGAIN), after=name, teacher=None, shifted=False)


def on_shifted(name: str, model: tuple[str, ...], published: dict[str, float], data: str = "static") -> dict[str, Row]:
    """The rows of a model that is trained on shifted images, then on the images by the ELBO, and then by DReG.

    Args:
        name: of the rows, before `-shifted`.
        model: its options.
        published: as `Row` has it.
        data: likewise.
    """
    first = Row(data, model, SHIFTED_EPOCHS, SLOWER, published=published, shifted=True)
    then = again(first, f"{name}-shifted", 30, ("--objective", "ELBO"))
    last = dreg(then, f"{name}-shifted-elbo", "5", passes=10)
    return {f"{name}-shifted": first, f"{name}-shifted-elbo": then, f"{name}-shifted-elbo-dreg-5": last}
