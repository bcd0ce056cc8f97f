"""Tomczak & Welling 2018, Table 1, static MNIST: priors, two layers, and guides on a gated network 784-300-300-40.

    python examples/reproduce/vamp.py --data_root FOLDER --list
    python examples/reproduce/vamp.py --data_root FOLDER --only static-prior-vamp static-hvae-vamp           # hours
    python examples/reproduce/vamp.py --quick --only static-prior-vamp --out runs/quick                      # a minute

Priors: standard normal, a mixture of 500 normals, a flow of 3 affine maps (MAF), VampPrior with 500 pseudo-inputs that
start as training images. Guides, with the standard normal prior: mean-field (that is `static-prior-standard`), full
covariance, inverse autoregressive flow (2 steps), Householder (4 reflections). Two layers of 40: the guide draws
z1 given x and z2 given z1, and x depends on z1 alone; in the paper z2 comes first, and its decoder sees both.
`hvae-skip-vamp` is the paper's. `static-prior-vamp-dreg-5` begins with the weights of `static-prior-vamp` and goes on
by DReG with 5 draws. Rows with `shifted` are trained on images that are shifted by a pixel or none
(`fitted.save_shifted`), then on the images themselves by the ELBO and by DReG.

NLL is by K = 5000 on all 10,000 test images. The settings are ours: batches of 250 (every step encodes all
pseudo-inputs), Adam at 3e-3 falling by a cosine, KL warm-up over the first eighth; the weights of the best validation
ELBO. The paper's: batches of 100, normalised gradients at 5e-4, at most 2000 passes with early stopping, warm-up over
100 passes.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))

import fitted
import record
from fitted import Row, Table, part
from gated import BOTH, ONE, PASSES, SMALL, TRAINING, TWO, VAMP, dreg, on_shifted

NAME = "vamp"
TITLE = "Priors, two layers and guides on a gated network (Tomczak & Welling 2018, Table 1, static MNIST)"
MODELS: dict[str, tuple[tuple[str, ...], float | None]] = {
    "prior-vamp": ((*ONE, *VAMP), 85.57),
    "hvae-vamp": ((*TWO, *VAMP), 83.19),
    "prior-standard": (ONE, 88.56),
    "prior-mixture": ((*ONE, *part("prior", "MixtureOfNormals", components="500")), None),
    "prior-flow": ((*ONE, *part("prior", "FlowPrior")), None),
    "hvae-standard": (TWO, 86.05),
    "guide-iaf": ((*ONE, *part("guide", "InverseAutoregressiveFlow")), None),
    "guide-full": ((*ONE, *part("guide", "FullNormal")), None),
    "guide-householder": ((*ONE, *part("guide", "Householder")), None),
}
"""The options of each model, and the published NLL."""
ROWS = {
    f"static-{name}": Row("static", model, PASSES, TRAINING, published={"nll": nll, "passes": 2000} if nll else {})
    for name, (model, nll) in MODELS.items()
}
ROWS["static-prior-vamp-dreg-5"] = dreg(ROWS["static-prior-vamp"], "static-prior-vamp", "5")
ROWS |= on_shifted("static-prior-vamp", (*ONE, *VAMP), {"nll": 85.57, "passes": 2000})
ROWS |= on_shifted("static-hvae-skip-vamp", (*BOTH, *VAMP), {"nll": 83.19, "passes": 2000})


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Compute the rows that are asked for; returns and saves the result."""
    return fitted.main(options, NAME, TITLE, Table(ROWS, options, SMALL))


def parser() -> argparse.ArgumentParser:
    """The options."""
    return fitted.parser(__doc__, NAME)


if __name__ == "__main__":
    record.script(main, parser())
