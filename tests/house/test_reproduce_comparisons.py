"""The comparisons in `examples/reproduce`, on a small setting: what they save, and what must be true of it."""

import importlib
import json
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REPRODUCE, BENCHMARKS = ROOT / "examples" / "reproduce", ROOT / "benchmarks"


@pytest.fixture
def reproduce(tmp_path):
    """A script as a function of its name; returns the parts of its result, and tries its text and its picture.

    Neighbours are found as when a script runs; modules that other tests have imported by the same names come back.
    """
    names = {path.stem for folder in (REPRODUCE, BENCHMARKS) for path in folder.glob("*.py")}
    before, held = list(sys.path), {name: sys.modules.pop(name) for name in names & set(sys.modules)}
    sys.path[:] = [str(REPRODUCE), *before, str(ROOT / "docs")]
    yield lambda name: _parts(name, tmp_path)
    sys.path[:] = before
    for name in names & set(sys.modules):
        del sys.modules[name]
    sys.modules.update(held)


def _parts(name, folder):
    script = runpy.run_path(str(REPRODUCE / f"{name}.py"))
    where = ["--quick", "--runs", str(folder / "runs"), "--out", str(folder)]
    result = script["main"](script["parser"]().parse_args(where))
    assert json.loads((folder / f"{name}.json").read_text()) == result
    for part in result["parts"].values():
        assert {"command", "version", "machine", "threads", "seed", "data", "cpu_seconds"} <= set(part)
        assert all(entry.get("error", 0) >= 0 for entry in part["values"].values())
    _shown(name, result)
    return result["parts"]


def _shown(name, result):
    """The text has a table, and every panel of the picture, if there is one, the names of its axes."""
    page = importlib.import_module(f"_results.{name}")
    assert "| --- |" in page.text(result)
    if not hasattr(page, "draw"):
        return
    figure = page.draw(result)
    assert figure.axes and all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)


def test_rainforth(reproduce, tmp_path):
    """The guide's gradient tends to its exact limit for both objectives, and only IWAE's ratio falls.

    The limits are at 4 standard errors, of fixed draws.
    """
    parts = reproduce("rainforth")
    assert list(parts) == ["K1", "K4", "K16", "slopes"]
    values = {k: {name: entry["value"] for name, entry in parts[k]["values"].items()} for k in parts}
    assert values["K1"]["IWAE encoder"] > 1.5 * values["K4"]["IWAE encoder"] > 2 * values["K16"]["IWAE encoder"]
    assert values["K16"]["DReG encoder"] > values["K1"]["DReG encoder"] > 3 * values["K1"]["IWAE encoder"]
    for name, (low, high) in {"DReG": (0.93, 1.01), "IWAE": (0.7, 1.3)}.items():
        share = parts["K16"]["values"][f"{name} encoder, share of the limit"]
        assert low < share["value"] + 4 * share["error"] and share["value"] - 4 * share["error"] < high
    assert values["slopes"]["IWAE encoder"] < -0.2 < values["slopes"]["DReG encoder"]
    assert reproduce("rainforth") == parts


def test_other_libraries(reproduce):
    """Against exact values, at 5 standard errors of few repetitions; pythae where its environment is there.

    A weight for a batch, or for each datum, bounds log p(x) from below; a subsampled plate does not.
    """
    parts = reproduce("other_libraries")
    exact, elbo_gap, _ = (entry["value"] for entry in parts["exact"]["values"].values())
    ours, pyro = parts["ours"]["values"], parts["pyro"]["values"]
    bound = {k: ours[f"bound, K = {k}"]["value"] for k in (5, 150)}
    assert exact - elbo_gap < bound[5] < bound[150] < exact
    for k in (5, 150):
        assert pyro[f"RenyiELBO, K = {k}"]["value"] == pytest.approx(bound[k], abs=1e-4)
        plate = pyro[f"RenyiELBO, 10 of 100 data in the plate, K = {k}"]
        assert plate["value"] - 5 * plate["error"] > bound[k]
        assert pyro[f"vectorized_importance_weights, 10 data at a time, K = {k}"]["value"] < bound[k]
    assert pyro["RenyiELBO, 10 of 100 data in the plate, K = 150"]["value"] > exact
    if "pythae" in parts:
        loss = parts["pythae"]["values"]["IWAE's loss and the constant, K = 150"]
        assert loss["value"] - 5 * loss["error"] > exact


def test_spoiled_guides(reproduce):
    """Shares of two repetitions; the factor of a guide of 0.8 times the width, at 5 standard errors."""
    parts = reproduce("spoiled_guides")
    assert list(parts) == ["exact", "narrow", "wide", "biased", "uncorrelated", "one class"]
    assert all(part["values"]["HPD"]["value"] in (0, 0.5, 1) for part in parts.values())
    factor = parts["narrow"]["values"]["factor at 90 %"]
    assert abs(factor["value"] - 1.25) < 5 * factor["error"]


def test_two_sided(reproduce):
    """Few data: at 4 standard errors of a share of 99 %; guides that are far too narrow are flagged as a whole."""
    parts = reproduce("two_sided")
    assert len(parts) == 8
    for name, part in parts.items():
        values = {what: entry["value"] for what, entry in part["values"].items()}
        if name.endswith("bracket"):
            assert values["overlap"] > 0.8 and values["width of the interval"] >= 0
            continue
        healthy = [key for key in values if key.endswith(", inside") and float(key[4:].split(",")[0]) < 0.5]
        assert len(healthy) == 3 and all(values[key] > 0.95 for key in healthy)
        narrowest = next(key for key in reversed(values) if key.endswith(", flagged"))
        assert values[narrowest] > 0.95


def test_two_sided_mnist(reproduce):
    """Annealing agrees with importance sampling for each guide, at 4 standard errors of the draws."""
    parts = reproduce("two_sided_mnist")
    assert len(parts) == 4
    for guide in ("mean-field", "IAF"):
        drawn, annealed = (parts[f"{guide}, {method}"]["values"] for method in ("importance sampling", "AIS"))
        errors = [entry["lower"]["monte_carlo_error"] for entry in (drawn, annealed)]
        assert abs(drawn["lower"]["value"] - annealed["lower"]["value"]) < 4 * sum(errors)
        for entry in (drawn, annealed):
            assert 0 <= entry["upper"]["value"] - entry["lower"]["value"] < entry["width of the means"]["value"]


def test_score_function(reproduce):
    """Without a baseline the score function is far noisier; without the score, the draws are the least noisy."""
    parts = reproduce("score_function")
    assert list(parts) == ["latent-2", "latent-20"]
    for part in parts.values():
        for moment in ("at the start", "trained"):
            ratio = {name: part["values"][f"{name}, {moment}"]["value"] for name in ("score", "score, baseline")}
            best = part["values"][f"sticking the landing, {moment}"]["value"]
            assert ratio["score"] > 10 * ratio["score, baseline"] > 10 * best > 0


def test_beta_vae(reproduce):
    """A larger beta gives a smaller rate; the ELBO is minus rate and distortion, and below log p(x) of all data."""
    parts = reproduce("beta_vae")
    rates = [part["values"]["rate"]["value"] for part in parts.values()]
    assert list(parts) == ["digits-0.1", "digits-1", "digits-10"] and rates == sorted(rates, reverse=True)
    for part in parts.values():
        values = {name: entry["value"] for name, entry in part["values"].items()}
        assert values["ELBO"] == pytest.approx(-values["rate"] - values["distortion"], abs=1e-3)
        assert values["log p(x)"] > values["ELBO"] and part["passes"] == 3


def test_collapse(reproduce):
    """Free bits keep all dimensions in use, near the nats that are free; the curves are sorted."""
    parts = reproduce("collapse")
    assert list(parts) == [f"digits-{way}" for way in ("none", "warm-up", "free-bits", "cyclical")]
    for part in parts.values():
        kl = part["curves"]["KL of each dimension"]
        assert len(kl) == 30 and kl == sorted(kl, reverse=True)
        assert sum(kl) == pytest.approx(part["values"]["rate"]["value"], rel=0.2)
    assert parts["digits-free-bits"]["values"]["active units"] == {"value": 30.0, "error": 0.0}
    assert parts["digits-free-bits"]["curves"]["KL of each dimension"][0] < 0.2


def test_continuous_bernoulli(reproduce):
    """Trained by the density that scores it, a model is better; the difference is that of the two values."""
    parts = reproduce("continuous_bernoulli")
    log_p = [parts[f"digits-{part}"]["values"]["log p(x)"]["value"] for part in ("continuous", "bernoulli")]
    gain = parts["digits-difference"]["values"]["gain"]
    assert gain["value"] == pytest.approx(log_p[0] - log_p[1], abs=1e-2) and gain["value"] > 5 * gain["error"] > 0


@pytest.mark.usefixtures("reproduce")
def test_aevb_figures45(tmp_path):
    """The two manifolds and the samples are drawn, and drawn again from what is saved."""
    script = runpy.run_path(str(REPRODUCE / "aevb_figures45.py"))
    words = ["--quick", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path), "--pictures", str(tmp_path)]
    result = script["main"](script["parser"]().parse_args(words))
    shown = importlib.import_module("_results.aevb_figures45").text(result)
    names = ["aevb-manifold-frey.png", "aevb-manifold-mnist.png", "aevb-samples.png"]
    before = [(tmp_path / name).read_bytes() for name in names]
    assert all(name in shown for name in names)
    assert list(result["parts"]) == ["frey-2", "mnist-2", "mnist-5", "mnist-10", "mnist-20"]
    assert script["main"](script["parser"]().parse_args(words)) == result
    assert [(tmp_path / name).read_bytes() for name in names] == before
