"""The pages of docs/howto on data: their cells run, one after another, as the site's build runs them."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

HOWTO = Path(__file__).parents[2] / "docs" / "howto"
PAGES = {"torch-data": "torch", "images": "PIL", "parquet": "pyarrow", "hugging-face": "datasets", "anndata": "anndata"}
"""Each page, and the module without which it can't run."""


@pytest.mark.parametrize("page", PAGES)
def test_cells_run(page, tmp_path, monkeypatch):
    if importlib.util.find_spec(PAGES[page]) is None:
        pytest.skip(f"{PAGES[page]} is not installed")
    monkeypatch.setenv("PYRO_VAE_DATA", str(tmp_path / "own"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    torch.manual_seed(0)
    cells = re.findall(r"```\{code-cell\}\n(.*?)```", (HOWTO / f"{page}.md").read_text(), re.DOTALL)
    assert cells
    namespace: dict = {}
    for cell in cells:
        exec(compile(cell, page, "exec"), namespace)
    assert namespace["data"].size("train") > 0
