"""Part 1 of `gpu.py`: runs the checks of `gpu_checks.py`, and the tests that are marked `cuda`."""

import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

from gpu_checks import Check, first_checks, more_checks
from gpu_settings import Row, Settings, one_line

from pyro_vae.testing import NotApplicable

ROOT = Path(__file__).parents[1]
_FEW = 5.0
"""Seconds that must be left for a check to begin."""


def checked(settings: Settings) -> Iterator[Row]:
    """The outcome of every check and test."""
    yield from _outcomes(settings, first_checks())
    yield from tests(settings, marked(ROOT / "tests"))
    if not settings.quick:
        yield from _outcomes(settings, more_checks())


def _outcomes(settings: Settings, checks: Iterable[tuple[str, Check]]) -> Iterator[Row]:
    left_out = 0
    for name, check in checks:
        if settings.left < _FEW:
            left_out += 1
        else:
            yield {"what": "check", "name": name, **outcome(check, settings.device)}
    if left_out:
        yield {"cut": f"{left_out} checks were not begun"}


def outcome(check: Check, device: str) -> Row:
    """`passed` with the difference found, `skipped` or `failed` with the reason."""
    try:
        return {"outcome": "passed", **check(device)}
    except NotApplicable as reason:
        return {"outcome": "skipped", "reason": one_line(reason)}
    except Exception as error:  # whatever a device may answer
        return {"outcome": "failed", "reason": one_line(error)}


# ---- tests of pytest


def marked(folder: Path) -> list[Path]:
    """The files with tests that need a GPU."""
    return [path for path in sorted(folder.rglob("test_*.py")) if "mark.cuda" in path.read_text()]


def tests(settings: Settings, files: list[Path]) -> Iterator[Row]:
    """The outcome of each test that is marked `cuda`; one row if pytest is not there."""
    if find_spec("pytest") is None:
        yield {"what": "test", "name": "tests marked cuda", "outcome": "skipped", "reason": "pytest is not installed"}
        return
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = ["-q", "-p", "no:cacheprovider", "-o", "addopts=", "-m", "cuda", f"--junitxml={report}"]
        command = [sys.executable, "-m", "pytest", *options, *map(str, files)]
        try:
            ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=max(1.0, settings.left))
        except subprocess.TimeoutExpired:
            yield {"cut": "the tests marked cuda: no time was left"}
            return
        if not report.exists():
            yield {"failed": f"pytest: {(ran.stderr or ran.stdout).strip()[-300:]}"}
            return
        yield from map(_of_case, ElementTree.parse(report).iter("testcase"))


def _of_case(case: ElementTree.Element) -> Row:
    row = {"what": "test", "name": f"{case.get('classname')}::{case.get('name')}"}
    for tag, result in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
        found = case.find(tag)
        if found is not None:
            return {**row, "outcome": result, "reason": (found.get("message") or "")[:300]}
    return {**row, "outcome": "passed"}
