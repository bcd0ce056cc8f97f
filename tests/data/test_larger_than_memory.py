"""Data larger than the memory that a process may have: passed over once, trained on, resumed to the bit, evaluated."""

import json
import os
import shutil
import subprocess
import sys

import pytest


def run(folder, side, rows, mib, large, stop=0):
    """The process's report. What it stores goes to `folder`, which has room, and so do its scratch files."""
    numbers = map(str, (side, rows, mib, large, stop))
    words = [sys.executable, "-m", "tests.support.large_pass", str(folder), *numbers]
    environment = {**os.environ, "PYRO_VAE_DATA": str(folder / "own"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit counts memory without mapped files on Linux alone")
@pytest.mark.parametrize(
    ("side", "size", "mib", "large"),
    [(32, 5 * 10**7, 150, 2**23), pytest.param(64, 2 * 10**9, 500, 2**28, marks=pytest.mark.slow)],
    ids=["50 MB", "2 GB"],
)
def test_a_pass_a_training_and_its_resumption(tmp_path, side, size, mib, large):
    """A `DataLoader` of bytes, whose floats take four times as much, under a hard limit on memory.

    The training that was stopped in its first epoch, and goes on in another process, ends with the bits of the one that
    was not.
    """
    rows = size // side**2
    steps = -(-(rows - rows // 7) // 500)
    try:
        whole = run(tmp_path / "whole", side, rows, mib, large)
        stopped = run(tmp_path / "parts", side, rows, mib, large, stop=steps // 2 + steps)
        assert "stopped by signal 15 at epoch 2" in stopped["stopped"]
        resumed = run(tmp_path / "parts", side, rows, mib, large)
    finally:
        for folder in ("whole", "parts"):
            shutil.rmtree(tmp_path / folder, ignore_errors=True)
    print(f"{size / 1e9:.2f} GB: at most {max(r['most'] for r in (whole, stopped, resumed)):.0f} MiB above the imports")
    assert resumed["weights"] == whole["weights"] and resumed["log_p"] == whole["log_p"]
    assert max(report["most"] for report in (whole, stopped, resumed)) < mib
