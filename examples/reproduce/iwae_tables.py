"""Burda et al. 2016, Tables 1 to 3: VAE and IWAE with one and two layers, k = 1, 5, 50, and DReG beside them.

    python examples/reproduce/iwae_tables.py --data_root FOLDER --list
    python examples/reproduce/iwae_tables.py --data_root FOLDER --only static-1-dreg-5 static-1-dreg-50    # hours
    python examples/reproduce/iwae_tables.py --quick --only static-1-iwae-5 --out runs/quick               # a minute

A row `DATA-LAYERS-OBJECTIVE-k` is a network of the paper's size (784-200-200-50, or 784-200-200-100-100-100-50); its
NLL is by K = 5000 on all 10,000 test images. The settings are ours: SiLU units (chosen on validation images; tanh
between the two layers), batches of 100, Adam at 2e-3 falling by a cosine, KL warm-up over the first eighth. To save
hours all rows but those with k = 1 begin with the weights of the row with k = 1, and go on by their own objective, at
1e-3 falling by a cosine. So `DATA-1-iwae-50` is also the first line of Table 2, and `DATA-1-back` its second: that row
continued as a VAE. The weights that are evaluated are those of the epoch with the best validation value of the
objective.

On static images the limit is over-fitting, so some rows (`softened`) train the same model anew on images that the row
with k = 1 has softened, binarised afresh at each visit (`fitted.save_softened`), and only then go on by IWAE or DReG on
the images themselves.

The paper's own: tanh, batches of 20, 3280 passes, no warm-up, each row from the beginning.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))

import fitted
import record
from fitted import Row, Table, part

NAME = "iwae_tables"
TITLE = "VAE and IWAE with one and two layers (Burda et al. 2016, Tables 1 to 3)"
PUBLISHED: dict[str, dict[str, tuple[float, str]]] = {
    "static": {
        "1-vae-1": (88.71, "19"),
        "1-vae-5": (88.83, "19"),
        "1-vae-50": (89.05, "20"),
        "1-iwae-5": (87.63, "22"),
        "1-iwae-50": (87.10, "24"),
        "2-vae-1": (88.08, "16+5"),
        "2-vae-5": (87.63, "17+5"),
        "2-vae-50": (87.86, "17+6"),
        "2-iwae-5": (86.17, "21+5"),
        "2-iwae-50": (85.32, "24+7"),
    },
    "dynamic": {
        "1-vae-1": (86.76, "19"),
        "1-vae-5": (86.47, "20"),
        "1-vae-50": (86.35, "20"),
        "1-iwae-5": (85.54, "22"),
        "1-iwae-50": (84.78, "25"),
        "1-back": (86.02, "23"),
        "2-vae-1": (85.33, "16+5"),
        "2-vae-5": (85.01, "17+5"),
        "2-vae-50": (84.78, "17+5"),
        "2-iwae-5": (83.89, "21+5"),
        "2-iwae-50": (82.90, "26+7"),
    },
}
"""NLL, nats, and active units; DReG is compared with IWAE's."""
PASSES = {"1": 400, "5": 100, "50": 20, "back": 100}
"""Of each training, by k."""
OBJECTIVES = {"vae": "ELBO", "iwae": "IWAE", "dreg": "DReG"}


WIDE = tuple(word for name in ("encoder", "decoder") for word in part(name, "MLP", hidden="[200, 200]"))
BETWEEN = tuple(
    word
    for name in ("upper_encoder", "upper_decoder")
    for word in part(name, "MLP", hidden="[100, 100]", activation="tanh")  # bounded; codes are not
)
MODELS: dict[str, tuple[str, ...]] = {
    "1": ("--vae.latent_dim", "50", *WIDE),
    "2": ("--vae", "HierarchicalVAE", "--vae.latent_dims", "[100, 50]", *WIDE, *BETWEEN),
}
SMALL = {"[200, 200]": "[16]", "[100, 100]": "[8]", "[100, 50]": "[4, 2]", "50": "4"}
AGAIN = ("--optimizer.lr", "1e-3")


def _row(data: str, layers: str, objective: str, k: str) -> Row:
    nll, active = PUBLISHED[data][f"{layers}-{'vae' if objective == 'vae' else 'iwae'}-{k}"]
    published = {"nll": nll, "active_units": active, "passes": 3280}
    if k == "1":
        return Row(data, MODELS[layers], PASSES[k], published=published)
    training = ("--objective", OBJECTIVES[objective], "--objective.num_particles", k, *AGAIN)
    return Row(data, MODELS[layers], PASSES[k], training, f"{data}-{layers}-vae-1", published)


def _back(data: str) -> Row:
    nll, active = PUBLISHED[data].get("1-back", (None, None))
    published = {"nll": nll, "active_units": active, "passes": 2 * 3280} if nll else {}
    return Row(data, MODELS["1"], PASSES["back"], ("--objective", "ELBO", *AGAIN), f"{data}-1-iwae-50", published)


def _softened(first: str, objective: str, k: str) -> dict[str, Row]:
    """The model of a row trained on images that it has softened, and then by another objective on the images."""
    name = f"{first.removesuffix('-vae-1')}-softened"
    data, layers, _ = name.split("-")
    row = _row(data, layers, "vae", "1")
    after = replace(_row(data, layers, objective, k), after=name)
    return {name: replace(row, teacher=first), f"{name}-{objective}-{k}": after}


ROWS: dict[str, Row] = {
    f"{data}-{layers}-{objective}-{k}": _row(data, layers, objective, k)
    for layers in MODELS
    for data in PUBLISHED
    for k in ("1", "5", "50")
    for objective in (OBJECTIVES if k != "1" else ("vae",))
} | {f"{data}-1-back": _back(data) for data in PUBLISHED}
ROWS |= _softened("static-1-vae-1", "iwae", "50") | _softened("static-2-vae-1", "dreg", "5")
"""In the order in which they are computed, where `--only` does not name some."""


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Compute the rows that are asked for; returns and saves the result."""
    return fitted.main(options, NAME, TITLE, Table(ROWS, options, SMALL))


def parser() -> argparse.ArgumentParser:
    """The options."""
    return fitted.parser(__doc__, NAME)


if __name__ == "__main__":
    record.script(main, parser())
