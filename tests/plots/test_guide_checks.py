"""`pyro_vae.plots.guide_checks`: what is drawn is what came in."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from pyro_vae import plots
from pyro_vae.diagnostics import ConformalScaling, EvidenceCheck, HMCComparison, LocalC2ST
from pyro_vae.diagnostics.against_hmc import Off

ORANGE, BLUE, GREY = "#d55e00", "#0072b2", "#8c8c8c"
GENERATOR = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


def points(axes):
    return {to_hex(line.get_color()): line for line in axes.lines if line.get_marker() == "o"}


def test_local_c2st(tmp_path):
    null = normal(39, 5).square() * 0.01
    statistic = torch.tensor([0.25, 0.0, 2**-10, 0.5, 2**-9]).double()
    result = LocalC2ST(statistic, torch.zeros(5), null, 0.6, 100, 50, seed=0)
    figure = plots.local_c2st(result)
    drawn = points(figure.axes[0])
    assert list(drawn[ORANGE].get_xdata()) == [4, 5] and list(drawn[ORANGE].get_ydata()) == [0.25, 0.5]
    assert list(drawn[BLUE].get_ydata()) == [0.0, 2**-10, 2**-9]
    assert "2 of 5 data flagged" in figure.axes[0].get_title()
    plots.save(figure, tmp_path / "local.png")


def test_hmc_comparison(tmp_path):
    error = torch.full((6, 2), 0.01).double()
    offs = Off(normal(6, 2) * 0.01 + 1, error), Off(normal(6, 2) * 0.01, error), Off(normal(6, 1) * 0.01, error[:, :1])
    figure = plots.hmc_comparison(HMCComparison(*offs, torch.zeros(6, dtype=torch.bool), 0.1, 500, seed=0))
    assert [axes.get_title() for axes in figure.axes] == [
        "mean: 100% of the data flagged", "sd: 0% of the data flagged", "correlation: 0% of the data flagged",
    ]  # fmt: skip
    bars = [[p for p in axes.patches if p.get_height() not in (0, 1)] or axes.patches for axes in figure.axes]
    assert to_hex(bars[0][-1].get_facecolor()) == ORANGE and to_hex(bars[1][-1].get_facecolor()) == BLUE
    plots.save(figure, tmp_path / "hmc.png")


def test_conformal_scaling(tmp_path):
    levels = torch.tensor([0.5, 0.9]).double()
    scores = torch.arange(1, 100).double()[None, :, None] / torch.tensor([50.0, 90.0])[:, None, None] * torch.ones(3)
    scores = scores * torch.tensor([1.5, 1.0, 3.0]).double()
    result = ConformalScaling(levels, scores, torch.ones(2, 3).double(), ("all together", "z[0]", "z[1]"), 20, seed=0)
    figure = plots.conformal_scaling(result)
    drawn = points(figure.axes[0])
    np.testing.assert_allclose(drawn[GREY].get_ydata() if len(drawn[GREY].get_ydata()) else [1, 1], [1, 1])
    np.testing.assert_allclose(drawn[ORANGE].get_ydata(), [3, 3])
    squares = next(line for line in figure.axes[0].lines if line.get_marker() == "s")
    np.testing.assert_allclose(squares.get_ydata(), [1.5, 1.5])
    plots.save(figure, tmp_path / "scaling.png")


@pytest.mark.parametrize(("shift", "colour"), [(0.0, BLUE), (-3.0, ORANGE)])
def test_evidence_check(shift, colour, tmp_path):
    result = EvidenceCheck(normal(80) + shift, normal(120), torch.zeros(80), "log p(x)", (0.0, 0.0), 50, seed=0)
    figure = plots.evidence_check(result)
    assert result.verdict in figure.axes[0].get_title() and figure.axes[0].get_xlabel() == "log p(x), nats"
    assert colour in {to_hex(patch.get_edgecolor()) for patch in figure.axes[0].patches}
    plots.save(figure, tmp_path / "evidence.png")
