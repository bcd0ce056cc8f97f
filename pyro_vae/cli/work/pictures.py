"""The pictures that `fit` saves in the run directory."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pyro_vae import plots
from pyro_vae.autoencoders import Autoencoder
from pyro_vae.cli.work.draws import Drawn, cycled, full_rows, of_each_class
from pyro_vae.cli.work.saved_runs import Chosen, choose
from pyro_vae.data import Dataset
from pyro_vae.diagnostics import latent_statistics
from pyro_vae.errors import UsageError
from pyro_vae.evidence import log_marginal
from pyro_vae.messages import log_once
from pyro_vae.runs.files import write
from pyro_vae.tasks.generation import manifold, reconstruct, sample

_SHOWN = 32
_MEASURED = 10_000
"""Number of data over which the KL of each latent dimension is averaged, e.g. all validation data of MNIST."""
_CHECKED = 100
"""Number of data in the histogram of Pareto k that `fit` draws; `evaluate` draws one of all data."""


def save_pictures(
    vae: Autoencoder,
    data: Dataset,
    run: Path,
    rows: Sequence[Mapping[str, Any]],
    seed: int,
    tell: Callable[[Mapping[str, Any]], object] | None = None,
) -> list[Path]:
    """Save all pictures of a trained VAE under `run/pictures`, then tell `tell` of them; returns the files."""
    held_out = next(name for name in ("valid", "test", "train") if getattr(data, name) is not None)
    device = next(vae.parameters()).device
    measured, shown = (choose(data, held_out, num, device) for num in (_MEASURED, _SHOWN))
    figures = {"curves": plots.curves(rows), **_of_the_guide(vae, measured, seed)}
    if plots.drawable(data.event_shape):
        figures |= _of_data(vae, data, shown, seed)
    else:
        log_once(f"no pictures of data of shape {data.event_shape}: they are no images with 1 or 3 channels")
    paths = [_save_in_run(figure, run, name) for name, figure in figures.items()]
    if tell is not None:
        tell(figures)
    return paths


def _of_data(vae: Autoencoder, data: Dataset, shown: Chosen, seed: int) -> dict[str, Any]:
    """Pictures of data, their reconstructions, and draws of the model."""
    num, how = _drawn(vae, data, 2 * _SHOWN)
    drawn = sample(vae, num, seed=seed, **how.given)
    figures = {
        "reconstructions": plots.reconstructions(shown.x, reconstruct(vae, shown.x, seed=seed, **shown.inputs)),
        "samples": plots.samples(drawn, columns=how.columns, labels=how.labels),
    }
    return figures | _of_the_code(vae)


def _of_the_code(vae: Autoencoder) -> dict[str, Any]:
    """The picture of the decoded latent plane, for a code of two dimensions."""
    if vae.code_site is None or vae.shapes.latent != 2 or vae.shapes.context is not None:
        return {}
    return {"manifold": plots.manifold(manifold(vae))}


def _of_the_guide(vae: Autoencoder, measured: Chosen, seed: int) -> dict[str, Any]:
    """Pictures of q(z|x); none for a guide that is a point or has no moments."""
    figures, checked = {}, choose(measured.data, measured.split, _CHECKED, measured.x.device)
    try:
        latent = latent_statistics(vae, measured.x, **measured.inputs)
        if latent.kl is not None:
            figures["latent_kl"] = plots.latent_kl(latent)
        evidence = log_marginal(vae.model, vae.guide, checked.x, num_particles=1000, seed=seed, **checked.inputs)
        return {**figures, "pareto_k": plots.pareto_k(evidence)}
    except UsageError as error:
        log_once(f"no pictures of the guide: {error}")
        return {}


def _drawn(vae: Autoencoder, data: Dataset, num: int) -> tuple[int, Drawn]:
    """The number of draws (`num` or more), and their inputs: each class in turn, or the first contexts of train."""
    if classes := _num_classes(vae, data):
        num = full_rows(classes, num)
        return num, of_each_class(vae, classes, num)
    if "c" not in data.inputs:
        return num, Drawn({})
    train = data.widen_inputs(data.given("train", slice(num)))["c"]
    return num, Drawn({"c": cycled(train, num).cpu()})


def _num_classes(vae: Autoencoder, data: Dataset) -> int:
    """The number of classes; 0 if the context is not one-hot labels."""
    if vae.classes:
        return vae.classes
    shape = data.input_shapes.get("c", ())
    context = data.inputs["c"]["train"] if len(shape) == 1 and data.labels else torch.empty(0)
    return shape[0] if len(context) and bool((context.sum(-1) == 1).all()) else 0


def _save_in_run(figure: Any, run: Path, name: str) -> Path:
    write(run, f"pictures/{name}.png", plots.encoded(figure))
    return run / "pictures" / f"{name}.png"
