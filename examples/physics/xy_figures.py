"""The pictures of `xy.py`."""

from math import pi
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pyro_vae.plots.base import BLUE, GREY, ORANGE, TEXT, dress, make_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LITERATURE = 0.8929
"""The Kosterlitz-Thouless temperature, J/k_B (Hasenbusch 2005)."""


def circles(z: Tensor, magnetisation: Tensor, temperature: Tensor) -> "Figure":
    """The codes of test states at a low, a middle and a high temperature, coloured by the magnetisation's direction.

    Args:
        z: `[T, chains, kept, 2]`.
        magnetisation: complex, `[T, chains, kept]`.
        temperature: `[T]`.
    """
    figure = make_figure(8.6, 3.2)
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    points: Any = None
    for axes, target in zip(panels, (temperature[0].item(), LITERATURE, temperature[-1].item()), strict=True):
        index = int((temperature - target).abs().argmin())
        chosen, angle = z[index].flatten(0, 1), magnetisation[index].angle().flatten()
        points = axes.scatter(*chosen.T, c=angle, cmap="twilight", vmin=-pi, vmax=pi, s=5, linewidths=0)
        dress(axes, f"T = {temperature[index]:.2f} J/k$_B$", "$z_1$ (prior sd)")
        axes.set_aspect("equal")
    panels[0].set_ylabel("$z_2$ (prior sd)", fontsize=TEXT)
    figure.colorbar(points, ax=panels, label="direction of the magnetisation (rad)")
    return figure


def transition(table: dict[str, Any], sizes: list[int]) -> "Figure":
    """Left: helicity modulus and alignment; right: heat capacity by log p(x|T) and by energies; ± 2 standard errors."""
    figure = make_figure(8.6, 3.5)
    left, right = figure.subplots(1, 2)
    t = table["temperature"]
    for size, colour in zip(sizes, (GREY, BLUE, ORANGE, "black"), strict=False):
        _points(left, t, table[f"helicity, L = {size}"], colour, f"helicity modulus, L = {size}")
    left.plot(t, 2 * np.array(t) / pi, color="black", lw=0.8, ls="--", label="2T/π")
    dress(left, "helicity modulus", "T (J/k$_B$)")
    left.set_ylabel("J", fontsize=TEXT)
    _points(right, t, table["heat capacity, variance"], ORANGE, "VAE: Var log p(x|T)")
    _points(right, t, table["heat capacity, energy"], GREY, "Var(E)/T², energies alone")
    dress(right, f"heat capacity, L = {sizes[0]}", "T (J/k$_B$)")
    right.set_ylabel("k$_B$ per spin", fontsize=TEXT)
    for axes in (left, right):
        axes.axvline(LITERATURE, color=GREY, lw=0.8, ls=":", label="T$_{KT}$")
        axes.legend(frameon=False, fontsize=TEXT)
    return figure


def _points(axes: "Axes", t: list[float], row: dict[str, Any], colour: str, label: str) -> None:
    errors = 2 * np.array(row["standard_error"])
    axes.errorbar(t, row["value"], errors, color=colour, fmt="o-", ms=3, lw=1, capsize=2, label=label)
