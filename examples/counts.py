r"""Counts of genes in cells: a negative binomial VAE beside a Poisson one, with library sizes and two batches.

Cells are simulated, so the truth is known: four groups, a library size for each cell, two batches that shift each gene,
and counts that vary more than Poisson's,

    x_g | group, batch, s ~ NB(mean s exp(a_g + d_{group, g} + e_{batch, g}), theta),   var = mean + mean^2 / theta.

The VAE is given the context c = (batch, log s), as a model of single cells is: the batch and the log library size. Its
decoder adds log s to the log means; its encoder sees log(1 + x). Held-out log p(x|c) is compared with that of the
process itself, which is a sum over four groups; and k-means on the codes should find the groups, and not the batches.

    python examples/counts.py            # half a minute
"""

import argparse
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import logsumexp
from scipy.stats import nbinom
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from torch import Tensor

from pyro_vae import VAE, clustering_scores, fit, log_marginal, seeded
from pyro_vae.data import Dataset
from pyro_vae.evidence import Evidence
from pyro_vae.likelihoods import NegativeBinomial, Poisson
from pyro_vae.networks import MLP
from pyro_vae.schedules import Cosine
from pyro_vae.statistics.averages import standard_error

GROUPS, BATCHES, THETA = 4, 2, 2.0


class LogCounts(MLP):
    """An encoder of counts: its first `genes` inputs are x and become log(1 + x); the context follows as it is."""

    def __init__(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...], genes: int, **options: Any) -> None:
        super().__init__(in_shape, out_shape, **options)
        self.genes = genes

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., genes + context]` to the parameters of q(z|x, c)."""
        return super().forward(torch.cat([x[..., : self.genes].log1p(), x[..., self.genes :]], -1))


class WithLibrary(MLP):
    """A decoder of log means per unit of library size: it adds its last input, log s, to all outputs."""

    def forward(self, z: Tensor) -> Tensor:
        """Map `[..., latent + context]` to log means `[..., *out_shape]`."""
        log_size = z[..., -1].reshape(*z.shape[:-1], *(1 for _ in self.out_shape))
        return super().forward(z) + log_size


@dataclass(frozen=True)
class Cells:
    """Simulated cells.

    Args:
        x: counts, `[N, genes]`.
        c: the context (one-hot batch, log library size), `[N, 3]`.
        group: the planted group, `[N]`.
        log_p: the exact log p(x|c) of the process, `[N]`, nats.
    """

    x: Tensor
    c: Tensor
    group: Tensor
    log_p: Tensor


def simulate(num: int, genes: int, seed: int) -> Cells:
    """Cells of the process above."""
    draw = np.random.default_rng(seed)
    base = draw.normal(0.5, 0.8, genes)
    of_group, of_batch = draw.normal(0, 0.6, (GROUPS, genes)), draw.normal(0, 0.4, (BATCHES, genes))
    group, batch, log_size = draw.integers(GROUPS, size=num), draw.integers(BATCHES, size=num), draw.normal(0, 0.4, num)
    means = np.exp(base + of_group[:, None] + of_batch[batch] + log_size[:, None])  # [groups, N, genes]
    x = draw.poisson(draw.gamma(THETA, means[group, np.arange(num)] / THETA))
    c = np.column_stack([np.eye(BATCHES)[batch], log_size])
    as_floats = (torch.tensor(values, dtype=torch.float32) for values in (x, c))
    return Cells(*as_floats, torch.as_tensor(group), torch.as_tensor(log_density(x, means)))


def log_density(x: np.ndarray, means: np.ndarray) -> np.ndarray:
    """The exact log p(x|c) of cells `[N, genes]`, given the means of each group, `[groups, N, genes]`; `[N]`, nats."""
    each = nbinom.logpmf(x, THETA, THETA / (THETA + means)).sum(-1)
    return logsumexp(each, axis=0) - np.log(GROUPS)


def train(likelihood: Any, cells: Cells, num_train: int, options: argparse.Namespace) -> VAE:
    """A VAE with this likelihood, trained on the first cells."""
    genes = cells.x.shape[1]
    encoder = partial(LogCounts, genes=genes, hidden=(options.hidden,))
    decoder = partial(WithLibrary, hidden=(options.hidden,))
    with seeded(options.seed, "init"):
        vae = VAE((genes,), options.latent, likelihood=likelihood, encoder=encoder, decoder=decoder, context=(3,))
    data = Dataset("cells", cells.x[:num_train], inputs={"c": {"train": cells.c[:num_train]}})
    settings = {"epochs": options.epochs, "batch_size": 50, "seed": options.seed, "keep": "last", "device": "cpu"}
    adam = partial(torch.optim.Adam, lr=3e-3)
    fit(vae, data, optimizer=adam, lr_schedule=Cosine(), start_at_mean=True, progress=False, **settings)
    return vae


def codes(vae: VAE, cells: Cells) -> np.ndarray:
    """Means of q(z|x, c), `[N, latent]`."""
    with torch.no_grad():
        return vae.encode(cells.x, c=cells.c).mean.numpy()


def principal(cells: Cells, latent: int) -> np.ndarray:
    """PCA of log(1 + x / s): the usual first look, which knows library sizes and no batches."""
    return PCA(latent, random_state=0).fit_transform((cells.x / cells.c[:, -1:].exp()).log1p().numpy())


def agreement(z: np.ndarray, cells: Cells, seed: int) -> dict[str, dict[str, float]]:
    """Adjusted Rand index of k-means on codes with the groups and with the batches; errors by the bootstrap."""
    found = torch.as_tensor(KMeans(GROUPS, n_init=10, random_state=seed).fit_predict(z)).long()
    draws = np.random.default_rng(seed).integers(len(z), size=(200, len(z)))
    result = {}
    for name, labels in (("groups", cells.group), ("batches", cells.c[:, 1].long())):
        resampled = [clustering_scores(found[rows], labels[rows]).ari for rows in torch.as_tensor(draws)]
        value = clustering_scores(found, labels).ari
        result[name] = {"value": value, "error": float(np.std(resampled))}
    return result


def row(evidence: Evidence, exact: Tensor) -> dict[str, Any]:
    """Held-out log p(x|c), its errors, and how far it is below that of the process, paired by cell."""
    below = exact - evidence.log_p
    return {**evidence.summary(), "below_truth": below.mean().item(), "below_truth_error": standard_error(below)}


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Train and measure both; returns, prints and saves the table."""
    cells = simulate(options.cells, options.genes, options.seed)
    held_out = options.cells // 3
    num_train = options.cells - held_out
    x, c, exact = (values[num_train:] for values in (cells.x, cells.c, cells.log_p))
    result: dict[str, Any] = {"truth": {"log_p": exact.mean().item(), "standard_error_data": standard_error(exact)}}
    result["PCA"] = {"agreement": agreement(principal(cells, options.latent), cells, options.seed)}
    log_p = {}
    for name, likelihood in (("negative binomial", NegativeBinomial), ("Poisson", Poisson)):
        vae = train(likelihood, cells, num_train, options)
        found = log_marginal(vae.model, vae.guide, x, c=c, num_particles=options.num_particles, seed=options.seed)
        log_p[name] = found.log_p
        result[name] = row(found, exact) | {"agreement": agreement(codes(vae, cells), cells, options.seed)}
        if name == "negative binomial":
            result[name]["theta"] = vae.likelihood.log_dispersion.exp().median().item()
    difference = log_p["negative binomial"] - log_p["Poisson"]
    result["difference"] = {"value": difference.mean().item(), "error": standard_error(difference)}
    print(table(result, options, held_out))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1))
    return result


def table(result: dict[str, Any], options: argparse.Namespace, held_out: int) -> str:
    """The rows in Markdown, and the protocol."""
    lines = [
        "| model | log p(x given c), nats | below the truth | ARI, groups | ARI, batches |",
        "|---|---:|---:|---:|---:|",
    ]
    truth = result["truth"]
    lines.append(f"| the process itself | {truth['log_p']:.2f} ± {truth['standard_error_data']:.2f} | 0 | — | — |")
    for name in ("negative binomial", "Poisson"):
        found = result[name]
        least = "≥ " * bool(found["standard_error_monte_carlo_is_at_least"])
        errors = f"{found['standard_error_data']:.2f} ± {least}{found['standard_error_monte_carlo']:.3f}"
        below = f"{found['below_truth']:.2f} ± {found['below_truth_error']:.2f}"
        lines.append(f"| {name} VAE | {found['log_p']:.2f} ± {errors} | {below} | {_ari(found)} |")
    lines.append(f"| PCA of log(1 + x / s) | — | — | {_ari(result['PCA'])} |")
    return "\n".join([*lines, "", *notes(result, options, held_out)])


def notes(result: dict[str, Any], options: argparse.Namespace, held_out: int) -> list[str]:
    """The paired difference and the protocol."""
    difference, found = result["difference"], result["negative binomial"]
    flagged = " and ".join(f"{result[name]['unreliable']:.1%}" for name in ("negative binomial", "Poisson"))
    return [
        f"Negative binomial minus Poisson: {difference['value']:+.2f} ± {difference['error']:.2f} nats a cell, paired.",
        f"Median of theta: {found['theta']:.2f} learned, {THETA:g} simulated.",
        f"{options.cells} simulated cells of {options.genes} genes, {held_out} held out; {options.epochs} epochs, K = "
        f"{options.num_particles}, flagged {flagged}, seed {options.seed}; {GROUPS} clusters on all cells.",
    ]


def _ari(found: dict[str, Any]) -> str:
    each = (found["agreement"][name] for name in ("groups", "batches"))
    return " | ".join(f"{value['value']:.3f} ± {value['error']:.3f}" for value in each)


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1500, help="simulated cells, a third of them held out")
    parser.add_argument("--genes", type=int, default=60)
    parser.add_argument("--latent", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--num_particles", type=int, default=1000, help="K")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="a .json for the table")
    return parser


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(parser().parse_args())
