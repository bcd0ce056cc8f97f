"""The file that `gpu.py` writes: what was measured, on what, part by part; whole at every moment."""

import json
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import machine
from gpu_settings import Row


class Record:
    """The results so far.

    Args:
        path: of the file.
        protocol: what is true of all parts.
        parts: names of all parts, in the order of the file.
        asked: those that are to run; the rows of the others stay, where the file there is has the same protocol.
    """

    def __init__(self, path: Path, protocol: dict[str, Any], parts: Sequence[str], asked: Sequence[str]) -> None:
        self.path = path
        before = json.loads(path.read_text()) if path.exists() else {"parts": {}}
        same = _without_date(before.get("protocol", {})) == _without_date(protocol)
        kept = before["parts"] if same else {}
        self.parts = {name: kept[name] for name in parts if name in kept and name not in asked}
        self.protocol, self.order = protocol, parts

    def begin(self, part: str, budget_s: float) -> None:
        """Forget an earlier run of a part."""
        self.parts[part] = {"budget_s": budget_s, "rows": [], "note": "it was not ended"}
        self.save()

    def add(self, part: str, rows: list[Row]) -> None:
        """Add rows, and save them."""
        if rows:
            self.parts[part]["rows"] += rows
            self.save()

    def end(self, part: str, seconds: float, note: str) -> None:
        """How long it took, and what became of it; an empty text if it ran to its end."""
        self.parts[part] |= {"seconds": round(seconds, 1), "note": note}
        self.save()

    def save(self) -> None:
        """Write a draft beside the file, and put it in its place."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".tmp")
        parts = {name: self.parts[name] for name in self.order if name in self.parts}
        draft.write_text(json.dumps({"protocol": self.protocol, "parts": parts}, indent=1) + "\n")
        draft.replace(self.path)

    def problems(self) -> list[str]:
        """What failed: checks, measurements and parts, a line each."""
        rows = [row for part in self.parts.values() for row in part["rows"]]
        failed = [f"{row['name']}: {row['reason']}" for row in rows if row.get("outcome") == "failed"]
        broken = [f"{name}: {part['note']}" for name, part in self.parts.items() if "failed" in part["note"]]
        return failed + [row["failed"] for row in rows if "failed" in row] + broken


def _without_date(protocol: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in protocol.items() if name != "begun"}


def protocol(device: str, quick: bool, seed: int) -> dict[str, Any]:
    """The device, the versions, the CPU, and what was computed on."""
    import torch

    on_gpu = torch.device(device).type == "cuda"
    found = torch.cuda.get_device_properties(device) if on_gpu else None
    return {
        "device": found.name if found else "CPU",
        "device_memory_gib": round(found.total_memory / 2**30, 1) if found else None,
        "capability": f"{found.major}.{found.minor}" if found else None,
        "driver": driver() if on_gpu else None,
        "cuda": torch.version.cuda if on_gpu else None,
        **machine.describe(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "commit": machine.commit(),
        "quick": quick,
        "seed": seed,
        "data": "synthetic images in {0, 1}, 784 pixels, density 0.13 (benchmarks/common.py)",
        "model": "784-500-40, 20-500-784, tanh, Bernoulli, one draw of z, Adam 1e-3"
        if not quick
        else "a tiny one: these numbers are no measurement",
        "begun": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def driver() -> str | None:
    """The version of NVIDIA's driver; None where `nvidia-smi` does not tell."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.strip().splitlines()[0] if asked.returncode == 0 and asked.stdout.strip() else None
