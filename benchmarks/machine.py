"""The machine that measures: what it is, and what else it does meanwhile."""

import hashlib
import os
import platform
import re
import resource
import subprocess
import time
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


@cache
def describe() -> dict[str, Any]:
    """CPU, memory, system and the versions of what is compared; no name of the machine."""
    return {
        "cpu": cpu_model(),
        "cores": cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "torch": version("torch"),
        "pyro": version("pyro-ppl"),
        "package": package(),
    }


def slug() -> str:
    """The CPU and its number of cores as the name of a file: results of another machine are another file."""
    return re.sub(r"[^a-z0-9]+", "-", f"{cpu_model()}, {cores()} cores".lower())


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_model() -> str:
    """Its name, family and model, and which of the wide instructions it has."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in info.read_text().split("\n\n")[0].splitlines() if ":" in line)
    found = {key.strip(): value.strip() for key, value in fields.items()}
    flags = set(found.get("flags", "").split())
    wide = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_tile") if flag in flags]
    name = found.get("model name", platform.machine())
    number = f" (family {found['cpu family']}, model {found['model']})" if "cpu family" in found else ""
    return f"{name}{number}, {' '.join(wide)}" if wide else f"{name}{number}"


def package() -> str:
    """A digest of the package's source: all runs of one suite must have the same."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "pyro_vae").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def commit() -> str:
    """The commit checked out; empty without git."""
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return asked.stdout.strip()


class Others:
    """How many cores other processes use, on average, from its making on (Linux)."""

    def __init__(self) -> None:
        self.start = time.perf_counter(), _busy(), _own()

    def cores(self) -> float | None:
        """The number so far; None where the system does not tell."""
        began, busy, own = self.start
        now = _busy()
        if busy is None or now is None:
            return None
        seconds = time.perf_counter() - began
        return max(0.0, round(((now - busy) - (_own() - own)) / seconds, 3))


def _busy() -> float | None:
    """Busy seconds of all cores since the machine started, time stolen by its host included."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, system, _idle, _wait, *interrupts = map(int, stat.read_text().splitlines()[0].split()[1:9])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    """Seconds of this process and of its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
