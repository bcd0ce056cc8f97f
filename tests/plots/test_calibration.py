"""`pyro_vae.plots.calibration`: what is drawn is what came in."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from pyro_vae import plots
from pyro_vae.diagnostics.calibration import Calibration
from pyro_vae.diagnostics.comparison import Compared, Comparison
from pyro_vae.diagnostics.predictive import PredictiveCheck
from pyro_vae.errors import UsageError

ORANGE, BLUE, GREY = "#d55e00", "#0072b2", "#8c8c8c"


def calibration(bad=1, n=300) -> Calibration:
    generator = np.random.default_rng(0)
    even, narrow = generator.integers(0, 20, (n, 3)), generator.choice([0, 1, 18, 19], (n, bad))
    names = ("a", "b", "log q(z|x)", *(f"narrow{i}" for i in range(bad)))
    return Calibration(torch.from_numpy(np.concatenate([even, narrow], 1)), names, 19, seed=0)


def legend(figure, panel=0):
    return [text.get_text() for text in figure.axes[panel].get_legend().get_texts()]


class TestRanks:
    def test_lines_and_band(self, tmp_path):
        result = calibration()
        figure = plots.rank_ecdf(result)
        lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 21]
        assert [to_hex(line.get_color()) for line in lines] == [GREY] * 3 + [ORANGE]
        for line, index in zip(lines, (0, 1, 2, 3), strict=True):
            np.testing.assert_allclose(line.get_ydata(), result.difference[:, index])
        band = figure.axes[0].collections[0].get_paths()[0].vertices
        assert band[:, 1].max() == pytest.approx(result.band[1].max().item())
        assert legend(figure) == ["calibrated: 95% of all lines at once", "narrow0: too narrow"]
        assert "1 of 4 quantities leave the band" in figure.axes[0].get_title()
        plots.save(figure, tmp_path / "ranks.png")

    def test_none_flagged(self):
        result = calibration()
        good = Calibration(result.ranks[:, :3], result.names[:3], 19, seed=0)
        figure = plots.rank_ecdf(good)
        assert "no quantity leaves the band" in figure.axes[0].get_title() and len(legend(figure)) == 1

    def test_many_flagged_are_counted(self):
        told = legend(plots.rank_ecdf(calibration(bad=12)))
        assert len(told) == 9 and told[-1] == "narrow7: too narrow and 4 more"


class TestCoverage:
    def test_points(self, tmp_path):
        result = calibration().coverage((0.5, 0.9))
        figure = plots.coverage(result)
        points = {to_hex(line.get_color()): line for line in figure.axes[0].lines if line.get_marker() == "o"}
        np.testing.assert_allclose(np.sort(points[ORANGE].get_ydata()), result.shares[result.flagged].sort().values)
        np.testing.assert_allclose(np.sort(points[BLUE].get_ydata()), result.shares[~result.flagged].sort().values)
        assert "2 of 8 shares flagged" in figure.axes[0].get_title()
        plots.save(figure, tmp_path / "coverage.png")

    def test_no_level(self):
        with pytest.raises(UsageError, match="no level to draw"):
            plots.coverage(calibration().coverage(()))


def check(columns=5) -> PredictiveCheck:
    replicated = torch.randn(200, columns, generator=torch.Generator().manual_seed(0)).double()
    replicated[:, 1] = 1.0
    observed = torch.tensor([0.0, 1.0, 9.0, 0.5, -0.5])[:columns].double()
    return PredictiveCheck(observed, replicated, tuple("abcde")[:columns], "guide", 0.0, 0)


def test_predictive_check(tmp_path):
    figure = plots.predictive_check(check())
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == 5 and len(figure.axes) == 8
    assert [axes.lines[-1].get_xdata()[0] for axes in shown] == [0.0, 1.0, 9.0, 0.5, -0.5]
    assert [to_hex(axes.lines[-1].get_color()) for axes in shown] == ["#000000"] * 2 + [ORANGE] + ["#000000"] * 2
    assert sum(patch.get_height() for patch in shown[0].patches) == 200 and not shown[1].patches
    assert shown[2].get_title() == f"c\nT(x) = 9, two-sided p = {2 / 201:.3f}, flagged"
    plots.save(figure, tmp_path / "check.png")


def model(name, difference, error):
    return Compared(name, -80 + difference, 0.5, difference, error, 0.01, 0.0, 0.0, 0.5)


def test_comparison(tmp_path):
    result = Comparison((model("best", 0.0, 0.0), model("near", -0.1, 0.2), model("far", -2.0, float("nan"))), 10)
    figure = plots.comparison(result)
    axes = figure.axes[0]
    points = [line for line in axes.lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in points] == [0.0, -0.1, -2.0]
    assert [to_hex(line.get_color()) for line in points] == ["#000000", BLUE, BLUE]  # an unknown error tells nothing
    assert [text.get_text() for text in axes.get_yticklabels()] == ["best  -80.00", "near  -80.10", "far  -82.00"]
    bars = [segment[:, 0] for bar in axes.collections for segment in bar.get_segments()]
    np.testing.assert_allclose(bars, [[-0.5, 0.3]])
    plots.save(figure, tmp_path / "comparison.png")
