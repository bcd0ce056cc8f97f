"""The pictures of `ising.py`."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from exact_ising import CRITICAL, thermodynamics
from ising_vae import Measured
from torch import Tensor

from pyro_vae.plots.base import BLUE, GREY, ORANGE, TEXT, dress, make_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WAYS = {"fluctuations": BLUE, "variance": ORANGE}
"""The ways to the heat capacity that are drawn as curves."""


def order(of: Measured, temperature: Tensor, size: int) -> "Figure":
    """The code of each test state against its magnetisation, and the mean absolute values of both against T."""
    figure = make_figure(8.2, 3.4)
    left, right = figure.subplots(1, 2)
    of_state = temperature.reshape(-1, 1, 1).expand_as(of.code)
    drawn = torch.randperm(of.code.numel(), generator=torch.Generator().manual_seed(0))[:3000]
    values = [value.flatten()[drawn] for value in (of.magnetisation, of.code, of_state)]
    points = left.scatter(values[0], values[1], c=values[2], s=4, cmap="viridis", linewidths=0)
    dress(left, f"{len(drawn)} test states, L = {size}", "magnetisation per spin")
    left.set_ylabel("E[z|x, T], widest coordinate (prior sd)", fontsize=TEXT)
    figure.colorbar(points, ax=left, label="T (J/k$_B$)")
    _means(right, of, temperature)
    return figure


def _means(axes: "Axes", of: Measured, temperature: Tensor) -> None:
    drawn = {"|magnetisation|": (of.magnetisation, GREY), "|decoded from the code|": (of.decoded, BLUE)}
    for name, (values, colour) in drawn.items():
        each = values.abs().mean(2)
        error = 2 * each.std(1) / each.shape[1] ** 0.5
        axes.errorbar(temperature, each.mean(1), error, color=colour, label=name, lw=1.2, capsize=2)
    _mark_transition(axes)
    dress(axes, "mean of absolute values, ± 2 standard errors", "T (J/k$_B$)")
    axes.set_ylabel("per spin", fontsize=TEXT)
    axes.legend(frameon=False, fontsize=TEXT)


def thermodynamic(row: dict[str, Any], size: int) -> "Figure":
    """Cross entropy of the VAE and heat capacities, with ± 2 standard errors, on the exact curves of the same torus."""
    figure = make_figure(8.2, 3.4)
    left, right = figure.subplots(1, 2)
    t, fine = row["temperature"], torch.linspace(row["temperature"][0], row["temperature"][-1], 200)
    exact = thermodynamics(fine, size)
    _with_exact(left, (fine, exact.entropy), "exact entropy")
    _points(left, t, row, "cross_entropy", BLUE, "VAE: −E[log p(x|T)]")
    dress(left, f"entropy, L = {size}", "T (J/k$_B$)")
    left.set_ylabel("nats per spin", fontsize=TEXT)
    _with_exact(right, (fine, exact.heat_capacity), "exact heat capacity")
    for way, colour in WAYS.items():
        _points(right, t, row, f"heat capacity, {way}", colour, f"VAE: {way}")
    dress(right, f"heat capacity, L = {size}", "T (J/k$_B$)")
    right.set_ylabel("k$_B$ per spin", fontsize=TEXT)
    right.margins(y=0.5)  # room for the legend
    right.set_ylim(bottom=0)
    for axes in (left, right):
        _mark_transition(axes)
        axes.legend(frameon=False, fontsize=TEXT)
    return figure


def _with_exact(axes: "Axes", curve: tuple[Tensor, Tensor], name: str) -> None:
    axes.plot(*curve, color="black", lw=1, label=name)


def _points(axes: "Axes", t: list[float], row: dict[str, Any], name: str, colour: str, label: str) -> None:
    errors = 2 * np.array(row["standard_errors"][name])
    axes.errorbar(t, row["values"][name], errors, color=colour, fmt="o", ms=3, lw=1, capsize=2, label=label)


def _mark_transition(axes: "Axes") -> None:
    axes.axvline(CRITICAL, color=GREY, lw=0.8, ls=":", label="T$_c$ of the infinite lattice")


def limits(found: dict[str, Any], sizes: list[int]) -> "Figure":
    """The peak of each lattice against 1/L, and the limit, with 95 % intervals."""
    figure = make_figure(5.6, 3.6)
    axes = figure.subplots()
    for shift, (way, colour) in enumerate({**WAYS, "energy": GREY}.items()):
        names = [*(str(size) for size in sizes), "limit"]
        places = np.array([*(1 / size for size in sizes), 0.0]) + 0.0015 * (shift - 1)
        rows = [found[way][name] for name in names]
        values = np.array([row["value"] for row in rows])
        errors = np.abs(np.array([[row["low"], row["high"]] for row in rows]).T - values)
        label = "energies alone" if way == "energy" else f"VAE: {way}"
        axes.errorbar(places, values, errors, color=colour, fmt="o", ms=4, capsize=2, lw=1, label=label)
    axes.axhline(CRITICAL, color="black", lw=0.8, ls=":", label="exact T$_c$")
    dress(axes, "peaks of the heat capacity, limit at 1/L = 0; 95 % intervals", "1/L")
    axes.set_ylabel("T (J/k$_B$)", fontsize=TEXT)
    axes.legend(frameon=False, fontsize=TEXT)
    return figure
