"""Tables and figures of measured results come from `docs/results` alone: nothing in them was written by hand."""

import importlib
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
sys.path.append(str(DOCS))

make = importlib.import_module("make_results")
shared = importlib.import_module("_results.shared")

CURVES = {
    "epochs": [2, 17],
    "samples": [120_000, 1_020_000],
    "test": [-150.0, -123.0],
    "test_error": [0.4, 0.3],
    "running": [-190.0, -125.0],
}
PART = {
    "command": "python a.py",
    "version": "0.1.0",
    "commit": "abc",
    "finished": "2026-01-02T03:04:05+00:00",
    "machine": "a CPU",
    "threads": 1,
    "seed": 0,
    "passes": 17,
    "passes_published": 4167,
    "samples": 1_020_000,
    "cpu_seconds": 90.0,
    "step": 0.02,
    "curves": CURVES,
    "values": {"test": {"value": -123.0, "error": 0.3}},
}
PLACE = "<!-- result {0}: begin (written by `make results`) -->\n<!-- result {0}: end -->\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A documentation with one page, one result, and the published curves, as `make results` leaves it."""
    path = tmp_path_factory.mktemp("docs")
    (path / "results").mkdir()
    shutil.copytree(DOCS / "results" / "published", path / "results" / "published")
    (path / "page.md").write_text(f"before\n\n{PLACE.format('aevb_figure2')}{PLACE.format('absent')}after\n")
    parts = {"mnist-20-aevb": PART, "mnist-20-adam": PART, "mnist-20-wide": PART}
    (path / "results" / "aevb_figure2.json").write_text(json.dumps({"parts": parts}))
    assert [written.name for written in make.rebuild(path)] == ["page.md", "aevb_figure2.png"]
    return path


@pytest.fixture
def docs(made, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "docs"))


def test_the_pages_are_what_the_results_say():
    """`make results` would change nothing."""
    for page, text in make.rebuilt(DOCS):
        assert page.read_text() == text, f"{page.name} differs from docs/results: run `make results`"


def test_the_pictures_are_drawn_from_the_results():
    old = [name for name in make.names(DOCS) if make.stale(DOCS, name)]
    assert not old, f"drawn from other files than those in docs/results: run `make results` ({', '.join(old)})"


def test_every_result_has_a_place():
    """A file without a place would be a result that nobody sees."""
    found = {path.relative_to(DOCS / "results").with_suffix("").as_posix() for path in DOCS.glob("results/**/*.json")}
    assert found <= set(make.names(DOCS)) and len(make.names(DOCS)) == len(set(make.names(DOCS)))


def test_a_table(docs):
    """The row of a curve: the published value at the same number of samples, and ours minus it."""
    page = (docs / "page.md").read_text()
    at = shared.between(shared.published_curves("aevb_figures.csv")["fig2-mnist", "20", "AEVB", "test"], 1_020_000)
    assert -124.5 < at < -123.5
    row = f"| 17 of 4,167 | 1.02e6 | {at:.1f} | -123.0 ± 0.3 | {-123.0 - at:+.1f} | {(-123.0 - at) / 0.3:+.1f} |"
    assert page.count(row) == 2 and "AEVB by Adam | 20 | 17 of 4,167 | 1.02e6 |  | -123.0 ± 0.3 |  |  |" in page
    assert page.startswith("before\n") and page.endswith("after\n") and "a CPU" in page and "(abc)" in page
    assert page.count("Not measured yet: `python examples/reproduce/absent.py --data_root FOLDER`") == 1


def test_an_edited_number_is_found(docs):
    assert make.rebuild(docs) == []
    page = docs / "page.md"
    good = page.read_text()
    page.write_text(good.replace("-123.0 ± 0.3", "-122.0 ± 0.3", 1))
    assert [text for _, text in make.rebuilt(docs)] == [good] and page.read_text() != good
    assert make.rebuild(docs) == [page] and page.read_text() == good


def test_another_result_is_another_page_and_another_picture(docs):
    path = docs / "results" / "aevb_figure2.json"
    before, drawn = (docs / "page.md").read_text(), make.drawn_from(make.picture(docs, "aevb_figure2"))
    path.write_text(path.read_text().replace('"value": -123.0', '"value": -121.5'))
    assert make.stale(docs, "aevb_figure2")
    make.rebuild(docs)
    assert "-121.5 ± 0.3" in (docs / "page.md").read_text() and "-121.5 ± 0.3" not in before
    assert make.drawn_from(make.picture(docs, "aevb_figure2")) == make.source(docs, "aevb_figure2") != drawn


def test_a_recorded_table(docs):
    rows = [["MLP", "87.40 ± 0.23"], ["ConvNet", "83.1 ± 0.2"]]
    result = {"columns": ["network", "NLL"], "rows": rows, "version": "0.1.0", "command": "`python a.py`"}
    (docs / "results" / "absent.json").write_text(json.dumps(result))
    make.rebuild(docs)
    page = (docs / "page.md").read_text()
    assert re.search(r"\| network \| NLL \|\n\| --- \| ---: \|\n\| MLP \| 87.40 ± 0.23 \|\n", page)


def test_figure3(docs):
    """Both estimates and their checks in a row; Monte Carlo EM in batches has no published value."""
    names = [f"{split}{end}" for split in ("test", "train") for end in ("", "_error", "_flagged")]
    curves = {"samples": [1e5, 1e7], **{name: [0.5, 0.25] for name in names}}
    part = {**PART, "samples": 1e7, "curves": {**curves, "test": [-160.0, -141.9]}}
    part["appendix_d"] = {"samples": 1e7, "value": -141.5, "error": 0.25, "flagged": 0.03}
    part["values"] = {"test": {"value": -141.9, "error": 0.25}, "train": {"value": -115.0, "error": 0.25}}
    longer = {**part, "samples": 2e7}  # made longer, and stopped before appendix D
    parts = {"n1000-mcem": part, "n1000-mcem-online": part, "n1000-aevb": longer}
    (docs / "results" / "aevb_figure3.json").write_text(json.dumps({"parts": parts}))
    (docs / "page.md").write_text(PLACE.format("aevb_figure3"))
    assert {path.name for path in make.rebuild(docs)} == {"page.md", "aevb_figure3.png"}
    published = shared.between(shared.published_curves("aevb_figures.csv")["fig3", "1000", "MCEM", "test"], 1e7)
    page = (docs / "page.md").read_text()
    assert -143 < published < -142
    assert f"| 1e7 | {published:.1f} | -141.9 ± 0.2 | {-141.9 - published:+.1f} |" in page
    assert page.count("-141.5 ± 0.2") == 2 and "| 25%, 3% |" in page and "| 25% |" in page
    assert "batches of 100 | 1,000 | 17 of 4,167 | 1e7 |  |" in page


def test_full_variational(docs):
    """The bound of the training data is that of training minus the divergence; without a posterior there is none."""
    more = {"predictive": [-141.0], "predictive_error": [0.5], "divergence": [30.0]}
    values = {split: {"value": -142.0, "error": 0.5} for split in ("test", "train")}
    full = {**PART, "curves": {**CURVES, **more}, "values": values}
    (docs / "results" / "full_variational.json").write_text(
        json.dumps({"parts": {"map": {**PART, "values": values}, "full": full}})
    )
    (docs / "page.md").write_text(PLACE.format("full_variational"))
    make.rebuild(docs)
    page = (docs / "page.md").read_text()
    assert "| -142.0 ± 0.5 | -142.0 ± 0.5 | -141.0 ± 0.5 | 30.0 | -155.0 |" in page
    assert "| -142.0 ± 0.5 | -142.0 ± 0.5 |  |  |  | 0.02 |" in page


def test_between_two_points():
    points = [(1e5, -200.0), (1e7, -100.0)]
    assert shared.between(points, 1e6) == pytest.approx(-150) and shared.between(points, 1e5) == -200
    assert shared.between(points, 9e4) is None and shared.between(points, 2e7) is None and shared.between([], 1) is None


def test_what_is_not_measured_names_the_script_that_is_there(tmp_path):
    docs, bench = tmp_path / "docs", tmp_path / "benchmarks"
    assert "`python examples/reproduce/absent.py --data_root FOLDER` writes" in make.content(docs, "absent")
    bench.mkdir()
    (bench / "absent.py").touch()
    assert "`python benchmarks/absent.py` writes" in make.content(docs, "absent")
