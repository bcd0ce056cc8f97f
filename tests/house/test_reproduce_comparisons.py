"""The comparisons in `examples/reproduce`, on a small setting: what they save, and what must be true of it."""

import json
import runpy
import sys
from pathlib import Path

import pytest

REPRODUCE = Path(__file__).parents[2] / "examples" / "reproduce"


@pytest.fixture
def reproduce(tmp_path):
    """A script as a function of its name; returns the parts of its result, whose picture it draws too."""
    before, modules = list(sys.path), set(sys.modules)
    yield lambda name, *words: _parts(name, tmp_path, words)
    sys.path[:] = before
    for name in set(sys.modules) - modules:
        if str(REPRODUCE) in str(getattr(sys.modules[name], "__file__", None)) or name in ("machine", "environments"):
            del sys.modules[name]


def _parts(name, folder, words):
    script = runpy.run_path(str(REPRODUCE / f"{name}.py"))
    where = ["--quick", "--runs", str(folder / "runs"), "--out", str(folder), *words]
    result = script["main"](script["parser"]().parse_args(where))
    assert json.loads((folder / f"{name}.json").read_text()) == result
    for part in result["parts"].values():
        assert {"command", "version", "machine", "threads", "seed", "data", "cpu_seconds"} <= set(part)
        assert all(entry.get("error", 0) >= 0 for entry in part["values"].values())
    axes = script["draw"](result).axes
    assert axes and all(ax.get_xlabel() and (ax.get_ylabel() or not ax.get_yticks().size) for ax in axes)
    return result["parts"]


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
