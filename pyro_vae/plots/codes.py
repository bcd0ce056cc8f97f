"""Codes of data as points, and what moved codes decode to."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vae.errors import UsageError
from pyro_vae.plots.base import BLUE, GREY, TEXT, dress, make_figure
from pyro_vae.plots.images import labelled_grid
from pyro_vae.tasks.codes import Edited, Paths, Traversal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CLASSES = 10
"""The most classes that have a colour each."""


def codes(mean: Tensor, sd: Tensor, labels: Tensor | None = None, dims: tuple[int, int] | None = None) -> "Figure":
    """Draw the codes of data in two coordinates, coloured by class, with how wide q(z|x) is on average.

    Args:
        mean: E[z|x], `[N, L]`; a single coordinate is drawn against its standard deviation.
        sd: the standard deviation of each coordinate under q(z|x), `[N, L]`.
        labels: classes `[N]`, -1 where not known; None for one colour.
        dims: which two coordinates; None for those whose means have the greatest variance in units of the mean
            variance under q.

    Returns:
        The figure; the cross in the corner is one standard deviation of q(z|x) to each side, averaged over the data.

    Raises:
        UsageError: if the arrays do not fit.

    Example:
        >>> type(codes(torch.randn(20, 2), torch.ones(20, 2), labels=torch.arange(20) % 3)).__name__
        'Figure'
    """
    if mean.dim() != 2 or mean.shape != sd.shape or len(mean) == 0:
        raise UsageError(f"expected means and standard deviations [N, L], got {list(mean.shape)} and {list(sd.shape)}")
    first, second = _two_of(mean, sd) if dims is None else dims
    alone = mean.shape[1] == 1
    x, y = mean[:, first], sd[:, 0] if alone else mean[:, second]
    figure = make_figure(5.2, 4.4)
    axes = figure.subplots()
    _scatter(axes, x, y, labels)
    if not alone:
        _cross(axes, sd[:, first].mean().item(), sd[:, second].mean().item())
        axes.set_aspect("equal", adjustable="datalim")
    dress(axes, f"codes of {len(mean)} data, E[z|x]", f"coordinate {first}")
    axes.set_ylabel("sd[z|x]" if alone else f"coordinate {second}", fontsize=TEXT)
    return figure


def _two_of(mean: Tensor, sd: Tensor) -> tuple[int, int]:
    """The two coordinates that tell most of the data apart."""
    ratio = mean.double().var(0, correction=0) / sd.double().square().mean(0).clamp(min=1e-12)
    best = ratio.argsort(descending=True, stable=True)[:2].tolist()
    return best[0], best[-1]


def _scatter(axes: "Axes", x: Tensor, y: Tensor, labels: Tensor | None) -> None:
    style: dict[str, Any] = {"s": max(2.0, min(14.0, 8000 / len(x))), "linewidths": 0, "alpha": 0.8}
    known = labels is not None and len(labels.unique()) <= _CLASSES + 1
    if labels is None or not known:
        coloured: dict[str, Any] = {"color": BLUE} if labels is None else {"c": labels.double(), "cmap": "viridis"}
        axes.scatter(x, y, **style, **coloured)
        return
    for place, label in enumerate(sorted(set(labels.tolist()))):
        own, colour = labels == label, GREY if label < 0 else f"C{place - int((labels < 0).any())}"
        axes.scatter(x[own], y[own], color=colour, label="?" if label < 0 else f"{label:g}", **style)
    axes.legend(fontsize=7, frameon=False, markerscale=2, loc="upper left", bbox_to_anchor=(1, 1), title="class")


def _cross(axes: "Axes", right: float, up: float) -> None:
    """How wide q(z|x) is, in the lower left corner."""
    low, bottom = axes.get_xlim()[0], axes.get_ylim()[0]
    axes.errorbar(low, bottom, xerr=right, yerr=up, color="black", lw=1, capsize=2)


def traversal(found: Traversal, num: int = 20) -> "Figure":
    """Draw a row for each coordinate of the code, the one with the highest KL first.

    Args:
        found: as `tasks.traverse` gives it, of data that can be drawn.
        num: the most rows.

    Returns:
        The figure: the coordinate and its KL to the left, the steps in standard deviations above.

    Raises:
        UsageError: if the data have no picture.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> from pyro_vae.tasks import traverse
        >>> found = traverse(VAE((8, 8), latent_dim=2), torch.rand(5, 8, 8).round(), steps=5)
        >>> type(traversal(found)).__name__
        'Figure'
    """
    found = found.first(num)
    numbers = zip(found.dims.tolist(), found.kl.tolist(), strict=True)
    rows = [f"z[{dim}]  {kl:.2f} nats" for dim, kl in numbers]
    columns = [f"{step:+.3g}" for step in found.steps.tolist()]
    return labelled_grid(found.x, rows, columns, f"E[x|z], one coordinate moved {found.along}")


def interpolations(paths: Paths, num: int = 12) -> "Figure":
    """Draw a row for each path between two codes.

    Args:
        paths: as `tasks.interpolate` gives them, of data that can be drawn.
        num: the most rows.

    Returns:
        The figure: the length of each path to the left.

    Raises:
        UsageError: if the data have no picture.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> from pyro_vae.tasks import interpolate
        >>> paths = interpolate(VAE((8, 8), latent_dim=2), torch.zeros(3, 2), torch.ones(3, 2), steps=5)
        >>> type(interpolations(paths)).__name__
        'Figure'
    """
    rows = [f"length {length:.3g}" for length in paths.length[:num].tolist()]
    steps = paths.x.shape[1]
    columns = ["z0", *[""] * (steps - 2), "z1"]
    return labelled_grid(paths.x[:num], rows, columns, f"E[x|z] along {paths.kind} paths from z0 to z1")


def edits(found: Edited, x: Tensor, num: int = 12) -> "Figure":
    """Draw a row for each datum: as it came, and edited by each strength.

    Args:
        found: as `tasks.edit` gives it, of data that can be drawn.
        x: the data, `[N, *event]`.
        num: the most rows.

    Returns:
        The figure.

    Raises:
        UsageError: if the data have no picture.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> from pyro_vae.tasks import edit
        >>> x = torch.zeros(5, 8, 8)
        >>> found = edit(VAE((8, 8), latent_dim=2), x, torch.ones(2), [0.0, 2.0])
        >>> type(edits(found, x)).__name__
        'Figure'
    """
    images = torch.cat([x.cpu().to(found.x.dtype).unsqueeze(0), found.x]).transpose(0, 1)[:num]
    columns = ["x", *(f"{s:+g} v" for s in found.strengths.tolist())]
    return labelled_grid(images, [""] * len(images), columns, "data x, and E[x|z + s v]")
