"""Every recipe trains and is of use, on the packaged digits, by the one option that names it."""

from pathlib import Path

import pytest

from pyro_vae.runs.loading import load, read_metrics
from tests.cli.test_cli import call
from tests.support.suites import slow_but

RECIPES = sorted((Path(__file__).parents[2] / "examples" / "recipes").glob("*.yaml"))


def test_there_are_recipes():
    assert len(RECIPES) >= 12


LONG = {"hvae_vamp", "ladder", "vamp"}
"""Their parts are trained by other recipes and by the tests of priors and autoencoders."""
QUICK = [path for path in RECIPES if path.stem not in LONG]


@pytest.mark.parametrize("recipe", slow_but(QUICK, RECIPES), ids=lambda path: path.stem)
def test_trains(recipe, tmp_path):
    """A second epoch improves the reconstruction of held-out data, and the other commands take the run."""
    few = "--data digits --epochs 2 --batch_size 50 --pictures false --quiet"
    result = call("fit", f"--config {recipe} {few} --run {tmp_path}")
    assert result.code == 0, result.err
    first, last = [float(row["valid_reconstruction"]) for row in read_metrics(tmp_path)]
    assert last > first
    assert load(tmp_path).shapes.event == (8, 8)
    for command in ("evaluate --num_particles 20 --num_data 5 --quiet", "sample --num 10", "reconstruct", "info"):
        name, *options = command.split()
        assert call(name, tmp_path, *options).code == 0
