"""The Pythons that run the systems: the project's own, and one for each set of peers, made when first needed.

A peer is never a dependency of the package: it lives under `.venvs/`, from a file of `requirements/`. An environment
that needs torch sees the project's packages behind its own (by a `.pth` file): torch is not installed twice, and is the
same build for all.
"""

import hashlib
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE / ".venvs"
_WITHOUT_TORCH = {"numpyro", "blackjax"}


class UnavailableError(Exception):
    """An environment can't be made; the message says why."""


@cache
def python(environment: str) -> Path:
    """The interpreter of an environment, which is made if it is not there or its requirements have changed.

    Raises:
        UnavailableError: if it can't be made.
    """
    if environment == "project":
        return Path(sys.executable)
    if not made(environment):
        _make(environment)
    return interpreter(environment)


def interpreter(environment: str) -> Path:
    """Where an environment's interpreter is, or would be."""
    return FOLDER / environment / "bin" / "python"


def made(environment: str) -> bool:
    """Whether an environment is there with its present requirements."""
    stamp = FOLDER / environment / "requirements"
    return stamp.exists() and stamp.read_text() == _wanted(environment)


def _make(environment: str) -> None:
    folder, requirements = FOLDER / environment, HERE / "requirements" / f"{environment}.txt"
    print(f"making the environment of {environment} (once)", file=sys.stderr, flush=True)
    _run(sys.executable, "-m", "venv", "--clear", folder)
    if environment not in _WITHOUT_TORCH:
        packages = subprocess.check_output(
            [interpreter(environment), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        )
        Path(packages.strip(), "project.pth").write_text(sysconfig.get_path("purelib") + "\n")
    _run(interpreter(environment), "-m", "pip", "install", "--quiet", "-r", requirements)
    (folder / "requirements").write_text(_wanted(environment))


def _wanted(environment: str) -> str:
    """What an environment depends on: its requirements and the Python that it is made from."""
    requirements = (HERE / "requirements" / f"{environment}.txt").read_text()
    return hashlib.sha256(f"{requirements}\n{sys.executable}\n{sys.version}".encode()).hexdigest()


def _run(*command: str | Path) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        last = (error.stderr or error.stdout).strip().splitlines()[-1:] or ["no message"]
        raise UnavailableError(f"{' '.join(map(str, command[1:4]))} failed: {last[0]}") from error
