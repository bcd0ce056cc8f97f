"""The pictures a fit and an evaluation save beside the run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pyro_vae import plots
from pyro_vae.cli.runs import first_rows
from pyro_vae.compiling import log_once
from pyro_vae.data import Dataset
from pyro_vae.diagnostics import latent_statistics
from pyro_vae.errors import UsageError
from pyro_vae.evidence import Evidence, log_marginal
from pyro_vae.tasks import manifold, reconstruct, sample
from pyro_vae.vae import VAE

_SHOWN = 32
_MEASURED = 10_000
"""Data over which the KL of each latent dimension is averaged: as many as MNIST has for validation."""
_CHECKED = 200
"""Data whose Pareto k a fit's own histogram shows; `evaluate` draws it for all."""


def save_pictures(vae: VAE, data: Dataset, run: Path, rows: Sequence[Mapping[str, Any]], seed: int) -> list[Path]:
    """Save everything a trained VAE has to show under `run/pictures`; returns the files."""
    held_out = next(name for name in ("valid", "test", "train") if getattr(data, name) is not None)
    device = next(vae.parameters()).device
    x = first_rows(data, held_out, _MEASURED).to(device)
    figures = {
        "curves": plots.curves(rows),
        "reconstructions": plots.reconstructions(x[:_SHOWN], reconstruct(vae, x[:_SHOWN], seed=seed)),
        "samples": plots.samples(sample(vae, 2 * _SHOWN, seed=seed)),
        **_of_the_guide(vae, x, seed),
    }
    if vae.shapes.latent == 2:
        figures["manifold"] = plots.manifold(manifold(vae))
    return [save_picture(figure, run / "pictures" / f"{name}.png") for name, figure in figures.items()]


def _of_the_guide(vae: VAE, x: Tensor, seed: int) -> dict[str, Any]:
    """What q(z|x) has to show; nothing for one without width or without moments, which has no such figures."""
    try:
        return {
            "latent_kl": plots.latent_kl(latent_statistics(vae, x)),
            "pareto_k": plots.pareto_k(log_marginal(vae.model, vae.guide, x[:_CHECKED], num_particles=1000, seed=seed)),
        }
    except UsageError as error:
        log_once(f"no pictures of the guide: {error}")
        return {}


def save_pareto_k(evidence: Evidence, run: Path, split: str) -> Path:
    """Save the histogram of an evaluation's Pareto k."""
    return save_picture(plots.pareto_k(evidence), run / "pictures" / f"pareto_k-{split}.png")


def save_picture(figure: Any, path: Path) -> Path:
    """Save one picture, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plots.save(figure, path)
    return path
