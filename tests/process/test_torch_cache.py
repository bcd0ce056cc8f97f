"""Torch's folder for compiled code: where it can't be made, another is taken, and nothing else changes."""

import logging
import os
import sys
from pathlib import Path

import pytest

from pyro_vae.errors import FileError
from pyro_vae.process.torch_cache import VARIABLE, ensure_cache


@pytest.fixture(autouse=True)
def _first_import(monkeypatch):
    """As if torch's compiler had not been imported yet."""
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)


def test_a_folder_that_can_be_used_is_kept(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "new" / "cache"))
    ensure_cache()
    assert os.environ[VARIABLE] == str(tmp_path / "new" / "cache") and not caplog.records
    assert not list((tmp_path / "new" / "cache").iterdir())


@pytest.mark.parametrize("place", ["/dev/null/x", "/proc/none", "FILE"])
def test_one_that_can_not_is_replaced_with_a_remark(tmp_path, monkeypatch, caplog, place):
    (tmp_path / "file").write_text("")
    place = place.replace("FILE", str(tmp_path / "file"))
    monkeypatch.setenv(VARIABLE, place)
    with caplog.at_level(logging.WARNING, "pyro_vae"):
        ensure_cache()
    assert Path(os.environ[VARIABLE]).is_dir() and os.environ[VARIABLE] != place
    assert f"can't write {place}" in caplog.text and os.environ[VARIABLE] in caplog.text


def test_no_folder_at_all(monkeypatch):
    monkeypatch.setenv(VARIABLE, "/dev/null/x")
    monkeypatch.setattr("tempfile.tempdir", "/dev/null")
    with pytest.raises(FileError, match="a temporary folder"):
        ensure_cache()
