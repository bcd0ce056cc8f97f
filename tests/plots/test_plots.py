"""`pyro_vae.plots`: what is drawn is what came in, where it belongs, and the file is a whole PNG."""

import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread

from pyro_vae import plots
from pyro_vae.diagnostics import LatentStatistics
from pyro_vae.diagnostics.gaps import InferenceGaps
from pyro_vae.diagnostics.surgery import ElboSurgery
from pyro_vae.errors import FileError, UsageError
from pyro_vae.evidence import Evidence
from pyro_vae.inference.best_member import Refined
from pyro_vae.statistics.averages import Averaged
from pyro_vae.tasks.generation import Generated

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#8c8c8c"


def rows(elbo, valid=True):
    """A training whose ELBO is `elbo`; the validation bound is 2 nats below it."""
    return [
        {"epoch": i + 1, "train_elbo": v, "train_reconstruction": v + 5, "train_kl": 5.0 + i}
        | ({"valid_elbo": v - 2, "valid_reconstruction": v + 4, "valid_kl": 6.0 + i} if valid else {})
        for i, v in enumerate(elbo)
    ]


def evidence(k, num_particles=1000) -> Evidence:
    k = torch.tensor(k, dtype=torch.float64)
    return Evidence(k, k, k, k, k, num_particles=num_particles, seed=0)


def grid(n, *event, seed=0):
    return torch.rand(n, *event, generator=torch.Generator().manual_seed(seed))


def canvas(figure: Figure, panel: int = 0) -> np.ndarray:
    return figure.axes[panel].images[0].get_array()


def note(figure: Figure) -> str:
    return figure.get_supxlabel()


# ---- curves


def test_curves_draw_the_three_terms_of_both_splits():
    table = rows([-130.0, -110.0, -105.0, -100.0])
    figure = plots.curves(table)
    assert [axes.get_title() for axes in figure.axes] == [
        "ELBO, nats per datum",
        "E[log p(x|z)], nats per datum",
        "KL(q(z|x) || p(z)), nats per datum",
    ]
    for axes, term in zip(figure.axes, ("elbo", "reconstruction", "kl"), strict=True):
        for line, split in zip(axes.lines, ("train", "valid"), strict=False):
            assert list(line.get_xdata()) == [1, 2, 3, 4]
            assert list(line.get_ydata()) == [row[f"{split}_{term}"] for row in table]
        assert [to_hex(line.get_color()) for line in axes.lines[:2]] == [BLUE, ORANGE]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "training",
        "validation",
        "best -102.00, epoch 4",
    ]


def test_curves_without_validation_have_one_line():
    figure = plots.curves(rows([-3.0, -2.0, -1.0], valid=False))
    assert [len(axes.lines) for axes in figure.axes] == [1, 1, 1]


def test_the_first_epoch_does_not_spoil_the_scale_and_is_told():
    figure = plots.curves(rows([-50_000.0, -120.0, -110.0, -105.0, -100.0], valid=False))
    low, high = figure.axes[0].get_ylim()
    assert -125 < low < -120 and -100 < high < -95
    assert figure.axes[0].get_xlabel() == "epoch (1 value off the scale)"
    assert figure.axes[2].get_xlabel() == "epoch"


def test_a_spike_in_the_middle_does_not_spoil_the_scale():
    elbo = [-100.0 - 20 / (i + 1) for i in range(40)]
    elbo[25] = -1e9
    low, high = plots.curves(rows(elbo, valid=False)).axes[0].get_ylim()
    assert -125 < low < -100 < high < -95


def test_every_value_is_shown_where_all_are_near():
    figure = plots.curves(rows(list(np.linspace(-120, -100, 30))))
    for axes in figure.axes:
        low, high = axes.get_ylim()
        assert all(low <= y <= high for line in axes.lines for y in line.get_ydata())
        assert axes.get_xlabel() == "epoch"


@pytest.mark.parametrize("elbo", [[-1.0], [-1.0, -1.0], [-2.0] * 5, [float("nan")], [float("nan"), -1.0, float("inf")]])
def test_short_constant_and_broken_trainings_are_drawn(elbo, tmp_path):
    plots.save(plots.curves(rows(elbo)), tmp_path / "curves.png")


def test_values_that_are_not_finite_are_told_once():
    figure = plots.curves(rows([float("-inf"), -3.0, float("nan"), -2.0], valid=False))
    assert figure.axes[0].get_xlabel() == "epoch (2 values off the scale)"


def test_no_rows_are_refused():
    with pytest.raises(UsageError, match="expected the rows of a training"):
        plots.curves([])


# ---- images


@pytest.mark.parametrize("event", [(4, 6), (1, 4, 6), (3, 4, 6)])
def test_pixels_lie_in_their_tile(event):
    images = grid(5, *event)
    figure = plots.image_grid(images, columns=3, title="digits")
    drawn, factor, gap = canvas(figure), 8, round(0.08 * 32)
    assert drawn.shape == (2 * 32 + gap, 3 * 48 + 2 * gap, 3)
    for i in range(5):
        top, left = i // 3 * (32 + gap), i % 3 * (48 + gap)
        tile = drawn[top : top + 32 : factor, left : left + 48 : factor]
        expected = images[i].reshape(-1, 4, 6).expand(3, 4, 6).permute(1, 2, 0)
        np.testing.assert_allclose(tile, expected.numpy(), atol=1e-6)
    assert (drawn[32 + gap :, 2 * (48 + gap) :] == 1).all()  # no sixth image: white
    assert figure.get_suptitle() == "digits" and note(figure) == ""


def test_values_outside_the_unit_interval_are_scaled_by_the_figure_and_told():
    images = torch.tensor([[[-2.0, 0.0]], [[2.0, 6.0]]])
    figure = plots.image_grid(images, columns=1)
    assert sorted(set(np.unique(canvas(figure)).round(4).tolist())) == [0.0, 0.25, 0.5, 1.0]
    assert note(figure) == "values -2 to 6 from black to white"


@pytest.mark.parametrize(
    ("values", "limits"),
    [([0.2, 0.4], (0, 1)), ([-1e-8, 1 + 1e-7], (0, 1)), ([0, 255], (0, 255)), ([3.0, 3.0], (2.5, 3.5))],
)
def test_limits(values, limits):
    assert plots.value_limits(torch.tensor(values)) == limits


def test_limits_leave_out_what_is_not_finite():
    assert plots.value_limits(torch.tensor([float("nan"), -1.0, float("inf"), 2.0])) == (-1.0, 2.0)
    assert plots.value_limits(torch.full((3,), float("nan"))) == (0.0, 1.0)


def test_pixels_that_are_not_finite_are_orange_and_not_black():
    image = torch.zeros(1, 2, 2)
    image[0, 0, 1] = float("nan")
    drawn = canvas(plots.image_grid(image))
    assert to_hex(drawn[0, 47]) == ORANGE and to_hex(drawn[0, 0]) == "#000000"


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float64])
def test_any_type_of_number_is_drawn(dtype):
    images = grid(3, 4, 4).round().to(dtype)
    drawn = canvas(plots.reconstructions(images, images.float()))
    assert drawn[0, 0, 0] == drawn[0, 48 + 4, 0] == float(images[0, 0, 0])


def test_vectors_become_dots_from_left_to_right_that_are_not_joined():
    vectors = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
    axes = plots.image_grid(vectors, columns=2).axes[0]
    assert [(line.get_linestyle(), line.get_marker()) for line in axes.lines] == [("None", "o")]
    up, down = axes.lines[0].get_xydata().reshape(2, 3, 2)
    assert up[0, 1] > up[1, 1] < up[2, 1] and down[0, 1] < down[1, 1] > down[2, 1]  # y downwards
    assert np.diff(up[:, 0]) == pytest.approx([30, 30]) and down[0, 0] > up[2, 0]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    assert note(axes.figure) == "elements 0 to 2 from left to right, values 0 to 1 from bottom to top"


@pytest.mark.parametrize("vectors", [torch.tensor([[0.5]]), torch.tensor([[1.0, float("nan"), 2.0, 3.0]])])
def test_odd_vectors_are_drawn(vectors, tmp_path):
    plots.save(plots.image_grid(vectors), tmp_path / "lines.png")


@pytest.mark.parametrize("shape", [(3,), (0, 4, 4), (2, 2, 4, 4), (2, 3, 3, 4, 4), (2, 0)])
def test_what_is_no_image_is_refused(shape):
    with pytest.raises(UsageError, match="expected data"):
        plots.image_grid(torch.zeros(shape))


def test_no_column_is_refused():
    with pytest.raises(UsageError, match="columns must be at least 1, got 0"):
        plots.image_grid(grid(2, 4, 4), columns=0)


# ---- pairs, samples, manifolds


def test_originals_lie_left_of_their_reconstructions():
    x, x_mean = torch.zeros(5, 6, 6), torch.full((5, 6, 6), 0.5)
    figure = plots.reconstructions(x, x_mean, columns=2)
    drawn, gap = canvas(figure), round(0.08 * 48)
    assert drawn.shape == (3 * 48 + 2 * 3 * gap, 2 * (2 * 48 + gap) + 3 * gap, 3)
    assert (drawn[:48, :48] == 0).all() and (drawn[:48, 48 + gap : 96 + gap] == 0.5).all()
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["x", "E[x|z]"] * 2
    assert [label.get_text() for label in axes.get_yticklabels()] == ["datum 0", "datum 2", "datum 4"]
    for tick, value in zip(axes.get_xticks(), (0, 0.5, 0, 0.5), strict=True):
        assert drawn[24, int(tick), 0] == value


def drawn_of(classes, columns):
    """The texts in each panel of a picture of draws, and its title."""
    images = grid(len(classes), 8, 8)
    figure = plots.samples(Generated({}, images, images), columns, [str(label) for label in classes])
    suptitle = figure._suptitle  # pyright: ignore[reportAttributeAccessIssue]
    return [[text.get_text() for text in axes.texts] for axes in figure.axes], suptitle.get_text()


def test_classes_are_named_over_their_columns_or_over_each_tile():
    assert drawn_of([0, 1, 2] * 3, 3) == ([["0", "1", "2"]] * 2, "samples, class above, z ~ p(z)")
    each = [str(label % 3) for label in range(8)]
    assert drawn_of([label % 3 for label in range(8)], 4) == ([each] * 2, "samples, class above, z ~ p(z)")
    assert drawn_of([5] * 8, 4) == ([[]] * 2, "samples of class 5, z ~ p(z)")


def test_no_legend_lies_on_a_diagram():
    """The gaps' bars fill their axes: a legend within would lie on them."""
    figure = plots.inference_gaps({"train": gaps([3.0, 3.0], [3.0, 3.1]), "test": gaps([3.0, 3.0], [3.0, 3.1])})
    figure.canvas.draw()
    legend = figure.legends[0].get_window_extent()
    assert not any(legend.overlaps(axes.get_window_extent()) for axes in figure.axes)


def test_a_pair_of_vectors_shares_a_tile():
    figure = plots.reconstructions(grid(4, 9), grid(4, 9, seed=1))
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["x", "E[x|z]"]
    assert [to_hex(dots.get_color()) for dots in axes.lines] == [BLUE, ORANGE]
    assert [len(dots.get_xdata()) for dots in axes.lines] == [4 * 9, 4 * 9]


def test_pairs_share_one_scale_and_one_shape():
    assert note(plots.reconstructions(torch.zeros(2, 4, 4), torch.full((2, 4, 4), -3.0))).startswith("values -3 to 0")
    with pytest.raises(UsageError, match=r"\[2, 4, 4\] and \[3, 4, 4\]"):
        plots.reconstructions(grid(2, 4, 4), grid(3, 4, 4))


def test_samples_show_the_means_and_the_draws_in_two_panels():
    figure = plots.samples(Generated({"z": torch.zeros(6, 2)}, mean=torch.full((6, 4, 4), 0.25), x=torch.ones(6, 4, 4)))
    assert [axes.get_title() for axes in figure.axes] == ["mean E[x|z]", "draw x ~ p(x|z)"]
    assert canvas(figure, 0)[0, 0, 0] == 0.25 and canvas(figure, 1)[0, 0, 0] == 1


@pytest.mark.parametrize("event", [(5, 4), (1, 5, 4), (3, 5, 4)])
def test_a_manifold_has_no_gaps(event):
    tiles = grid(6, *event).reshape(2, 3, *event)
    drawn = canvas(plots.manifold(tiles))
    assert drawn.shape == (2 * 50, 3 * 40, 3)
    np.testing.assert_allclose(drawn[50, 80], tiles[1, 2, ..., 0, 0].expand(3).numpy(), atol=1e-6)


def test_a_manifold_of_vectors_is_drawn_and_less_is_refused(tmp_path):
    plots.save(plots.manifold(grid(9, 7).reshape(3, 3, 7)), tmp_path / "manifold.png")
    with pytest.raises(UsageError, match=r"expected a grid \[rows, columns, \*event\], got \[3, 3\]"):
        plots.manifold(grid(3, 3))


# ---- diagnostics


def test_latent_bars_are_sorted_and_coloured_by_activity():
    stats = LatentStatistics(torch.tensor([0.5, 0.0, 0.2]).double(), torch.tensor([0.4, 0.01, 1.5]).double())
    axes = plots.latent_kl(stats).axes[0]
    bars = sorted(axes.patches, key=lambda bar: bar.get_x())
    assert [bar.get_height() for bar in bars] == pytest.approx([1.5, 0.4, 0.01])
    assert [to_hex(bar.get_facecolor()) for bar in bars] == [BLUE, BLUE, GREY]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["2", "0", "1"]
    assert axes.get_title() == "2 of 3 latent dimensions active, KL 1.91 nats per datum in sum"


@pytest.mark.parametrize("size", [1, 500])
def test_any_number_of_latent_dimensions_is_drawn(size, tmp_path):
    figure = plots.latent_kl(LatentStatistics(torch.zeros(size).double(), torch.zeros(size).double()))
    plots.save(figure, tmp_path / "kl.png")
    assert len(figure.axes[0].patches) == size and len(figure.axes[0].get_xticks()) <= 60


def test_spreads_of_means_are_sorted_site_by_site():
    stats = LatentStatistics(torch.tensor([0.02, 0.5, 0.0, 0.001]).double(), None, {"z1": 2, "z2": 2})
    axes = plots.active_units(stats).axes[0]
    bars = sorted(axes.patches, key=lambda bar: bar.get_x())
    tops = [bar.get_y() + bar.get_height() for bar in bars]
    assert tops[:2] == pytest.approx([0.5, 0.02]) and tops[2] == pytest.approx(0.001) and tops[3] < 1e-4
    assert [to_hex(bar.get_facecolor()) for bar in bars] == [BLUE, BLUE, GREY, GREY]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["z1", "z2"]
    assert list(axes.lines[0].get_ydata()) == [0.01, 0.01] and axes.get_yscale() == "log"
    assert axes.get_title() == "2 of 4 latent dimensions active"


def estimates(*values, error=0.1) -> Averaged:
    return Averaged(torch.tensor(values).double(), torch.full((len(values),), error).double())


def gaps(approximation, amortisation) -> InferenceGaps:
    amortised, best = estimates(*amortisation), estimates(*[-90.0] * len(amortisation))
    log_p = estimates(*[-90.0 + gap for gap in approximation])
    refined = Refined(torch.zeros(2, 2, 2), {}, torch.ones(2).bool(), torch.ones(2).long())
    elbo = Averaged(best.values - amortised.values, best.standard_errors)
    return InferenceGaps(log_p, elbo, best, amortised, refined, torch.zeros(2).bool(), 0.01, 100, 0)


def test_gaps_are_bars_side_by_side_with_their_errors():
    figure = plots.inference_gaps({"train": gaps([1.0, 3.0], [0.5, 0.7]), "test": gaps([2.0, 2.0], [-0.1, -0.1])})
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([2.0, 2.0, 0.6, -0.1])
    assert [to_hex(bar.get_facecolor()) for bar in axes.patches] == [BLUE, BLUE, ORANGE, ORANGE]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["train\ntotal 2.60", "test\ntotal 1.90"]
    (low, _), (high, _) = axes.containers[1].errorbar.get_children()[-1].get_segments()[0]
    assert (low, high) == pytest.approx((0.0, 4.0))  # 2 standard errors of (1, 3) to each side of 2
    with pytest.raises(UsageError, match="at least one result"):
        plots.inference_gaps({})


@pytest.mark.parametrize(("information", "note"), [(0.5, ""), (2.5, ", reached: use more data")])
def test_surgery_shows_the_kl_its_parts_and_log_n(information, note):
    kl, zero = estimates(*[2.0, 4.0] * 10), estimates(*[0.0] * 20)
    first, second = estimates(*[information] * 20), estimates(*[3.0 - information] * 20)
    axes = plots.elbo_surgery(ElboSurgery(zero, kl, first, zero, second, num_particles=2, seed=0)).axes[0]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([3.0, information, 3.0 - information])
    assert axes.figure.legends[0].get_texts()[0].get_text() == f"log N = 3.00{note}"
    assert list(axes.lines[-1].get_xdata()) == pytest.approx([np.log(20)] * 2) and "of 20 data" in axes.get_title()


def test_pareto_bars_end_at_the_threshold():
    result = evidence([-0.1, 0.2, 0.3, 0.6, 0.66, 0.67, 0.9, 1.4])
    axes = plots.pareto_k(result).axes[0]
    counts = {BLUE: 0.0, ORANGE: 0.0}
    for bar in axes.patches:
        counts[to_hex(bar.get_facecolor())] += bar.get_height()
        left, right = bar.get_x(), bar.get_x() + bar.get_width()
        assert not left + 1e-9 < result.threshold < right - 1e-9
    assert counts == {BLUE: 3, ORANGE: 5}
    assert list(axes.lines[0].get_xdata()) == [result.threshold] * 2
    assert axes.get_title() == "Pareto k above 0.50 for 62.5% of 8 data, 1000 draws each"


def test_pareto_k_that_no_histogram_holds_is_told():
    inf, nan = float("inf"), float("nan")
    axes = plots.pareto_k(evidence([-inf, -inf, 0.1, nan, inf])).axes[0]
    assert sum(bar.get_height() for bar in axes.patches) == 1
    share, told = axes.get_title().split("\n")
    assert "for 20.0% of 5 data" in share
    assert told == "not shown: 2 at -inf (all weights equal), 1 at +inf, 1 nan (unknown, not to be trusted)"


@pytest.mark.parametrize("k", [[float("-inf")] * 3, [float("nan")], [0.3], [0.3, 0.3], [0.7, 50.0]])
def test_any_pareto_k_is_drawn(k, tmp_path):
    plots.save(plots.pareto_k(evidence(k, num_particles=5 if k[0] != k[0] else 100_000)), tmp_path / "k.png")


# ---- every figure


def test_a_saved_figure_is_a_whole_png_and_the_same_each_time(tmp_path):
    path = tmp_path / "new folder" / "grid.png"
    plots.save(plots.image_grid(grid(4, 8, 8), columns=2), path)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n") and b"IEND" in content[-12:]
    assert imread(path).shape[2] == 4 and imread(path)[..., :3].std() > 0.05
    plots.save(plots.image_grid(grid(4, 8, 8), columns=2), str(path))
    assert path.read_bytes() == content and [p.name for p in path.parent.iterdir()] == ["grid.png"]


def test_other_formats_and_places_that_cannot_be_written_are_refused(tmp_path):
    figure = plots.image_grid(grid(1, 4, 4))
    with pytest.raises(UsageError, match=r"ends in \.png, got .*grid\.pdf"):
        plots.save(figure, tmp_path / "grid.pdf")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="can't write"):
        plots.save(figure, tmp_path / "file" / "grid.png")


def test_drawing_changes_no_setting_of_matplotlib():
    before = dict(matplotlib.rcParams)
    figure = plots.curves(rows([-3.0, -2.0]))
    assert dict(matplotlib.rcParams) == before and figure.dpi == 150


def test_many_tiles_stay_a_figure_of_bounded_size():
    assert all(plots.image_grid(grid(3000, 8, 8), columns=2).get_size_inches() <= (14.5, 41))


def test_matplotlib_waits_until_a_figure_is_asked_for():
    code = (
        "import sys, torch; from pyro_vae import plots; assert 'matplotlib' not in sys.modules; "
        "plots.image_grid(torch.zeros(1, 2, 2)); assert 'matplotlib.figure' in sys.modules; "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


class TestColumnsOfUnlikeScales:
    """A table's columns may have any units: on one scale only the largest could be seen."""

    x = torch.tensor([[0.1, 500.0, 7.0], [0.2, 300.0, 7.0], [0.3, 400.0, 7.0]])

    def heights(self, figure, line=0):
        return figure.axes[0].lines[line].get_ydata().reshape(3, 3)

    def test_each_is_drawn_from_its_least_value_to_its_greatest(self):
        figure = plots.image_grid(self.x, columns=3)
        y = self.heights(figure)
        assert y[0, 0] > y[1, 0] > y[2, 0] and y[0, 1] < y[2, 1] < y[1, 1]  # downwards
        assert y[0, 0] == pytest.approx(y[1, 1]) and y[2, 0] == pytest.approx(y[0, 1])
        assert np.ptp(y[:, 2]) == 0 and y[2, 0] < y[0, 2] < y[0, 0]  # what does not vary lies in the middle
        assert "each on its own scale" in figure.get_supxlabel()

    def test_data_and_reconstruction_share_the_scale_of_an_element(self):
        figure = plots.reconstructions(self.x, self.x.flip(0), columns=3)
        values = [np.unique(self.heights(figure, line)[:, 0].round(6)) for line in (0, 1)]
        assert (values[0] == values[1]).all() and "each on its own scale" in figure.get_supxlabel()

    def test_elements_of_like_scale_keep_one(self):
        figure = plots.image_grid(torch.tensor([[-1.0, 3.0], [2.0, 0.0]]), columns=2)
        assert "values -1 to 3" in figure.get_supxlabel()
