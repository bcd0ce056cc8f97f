"""Check and measure the package on a GPU, in under eight minutes, and write docs/results/gpu.json and docs/gpu.md.

    make gpu                                            # all parts
    python benchmarks/gpu.py --only training floors     # some; the others stay, if package and machine are the same
    python benchmarks/gpu.py --device cpu --quick       # the same code at tiny sizes, into benchmarks/.quick/
    python benchmarks/gpu.py --render                   # the page again, from the results

Each part runs in a process of its own, which is ended at the end of the part's time; what it had measured is kept, and
the parts after it still run. Every measurement is saved when it is made.

Exit codes: 0 done, 1 a check or a part failed, 2 usage, 10 no GPU here.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import gpu_page

HERE = Path(__file__).parent
ROOT = HERE.parent
NO_GPU = 10
TOTAL_S = 470.0
"""Time of all parts together."""
_TRIAL_S = 600.0
"""Time of a part by tiny sizes, where none is measured: a CPU compiles slowly, and may be busy."""
_GRACE_S = 4.0
"""How long before its end a part is told that it ends."""


@dataclass(frozen=True)
class Part:
    """A part of the measurement.

    Args:
        run: module and function that yields its rows.
        budget_s: its time, the start of its process included.
    """

    run: str
    budget_s: float


PARTS = {
    "checks": Part("gpu_checking:checked", 140),
    "training": Part("gpu_speed:training", 155),
    "evidence": Part("gpu_speed:evidence", 55),
    "annealing": Part("gpu_speed:annealing", 45),
    "floors": Part("gpu_floors:floors", 65),
}


def main(argv: list[str] | None = None) -> int:
    """Run what is asked for; returns the exit code."""
    args = _parser().parse_args(argv)
    folder = HERE / ".quick" if args.quick else ROOT / "docs"
    results = args.results or (folder / "gpu.json" if args.quick else folder / "results" / "gpu.json")
    if args.part:
        return _measure(args)
    if not args.render:
        reason = _no_device(args.device)
        if reason:
            print(reason, file=sys.stderr)
            return NO_GPU
        return _run(args, results, args.page or folder / "gpu.md")
    gpu_page.write(args.page or folder / "gpu.md", results)
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:1, cpu, ...")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the script itself")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--render", action="store_true", help="write the page only")
    parser.add_argument("--results", type=Path, help="the file of results; default: docs/results/gpu.json")
    parser.add_argument("--page", type=Path, help="the page; default: docs/gpu.md")
    parser.add_argument("--part", choices=PARTS, help="used by the script itself: one part in this process")
    parser.add_argument("--rows", type=Path, help="used by the script itself: the file of its rows")
    parser.add_argument("--seconds", type=float, default=3600.0, help="used by the script itself: its time")
    return parser


def _no_device(device: str) -> str:
    """One line that says that there is no such device, and what to do; empty if there is one."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).partition("\n")[0].rstrip(".")
        return (
            f"gpu.py: no device {device!r} here (torch {torch.__version__}: {first}): run `make gpu` on a machine with "
            "an NVIDIA GPU, its driver and a CUDA build of torch; to try the script: --device cpu --quick"
        )
    return ""


def _run(args: Namespace, results: Path, page: Path) -> int:
    """All parts that are asked for, one after the other; then the page."""
    from gpu_record import Record, protocol

    started = time.monotonic()
    record = Record(results, protocol(args.device, args.quick, args.seed), list(PARTS), args.only)
    for name in PARTS:
        if name in args.only:
            left = TOTAL_S - (time.monotonic() - started)
            budget_s = _TRIAL_S if args.quick else min(PARTS[name].budget_s, left)
            _child(name, budget_s, args, record)
            gpu_page.write(page, results)
    problems = record.problems()
    print(f"gpu.py: wrote {results} and {page}; {len(problems)} problems", *problems, sep="\n  ", file=sys.stderr)
    return 1 if problems else 0


def _child(name: str, budget_s: float, args: Namespace, record) -> None:
    """Run a part in a process of its own, and save its rows as they come."""
    print(f"gpu.py: {name}, at most {budget_s:.0f} s", file=sys.stderr)
    record.begin(name, budget_s)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        rows, log = Path(folder) / "rows", Path(folder) / "log"
        own = ["--part", name, "--rows", str(rows), "--seconds", str(budget_s - _GRACE_S), "--device", args.device]
        command = [sys.executable, __file__, *own, "--seed", str(args.seed), *(["--quick"] if args.quick else [])]
        found = os.environ.get("PYTHONPATH")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *([found] if found else [])])}
        with log.open("w") as output:
            options = {"stdout": output, "stderr": output, "process_group": 0, "env": environment}
            process = subprocess.Popen(command, **options)
            note = _followed(process, start + budget_s, rows, lambda found: record.add(name, found))
        if note == "" and process.returncode:
            last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
            note = f"failed with exit code {process.returncode}: {''.join(last)[:300]}"
    record.end(name, time.monotonic() - start, note)


def _followed(process: subprocess.Popen, end: float, rows: Path, add) -> str:
    """Read the rows of a process until it ends, or until its time does; then it is ended, and the note says so."""
    read = 0
    try:
        while True:
            ended, late = process.poll() is not None, time.monotonic() > end
            complete = rows.read_text().rpartition("\n")[0].splitlines() if rows.exists() else []
            add([json.loads(line) for line in complete[read:]])
            read = len(complete)
            if ended or late:
                return "" if ended else "cut: its time had ended"
            time.sleep(0.2)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _measure(args: Namespace) -> int:
    """In the process of a part: write its rows, each when it is there."""
    deadline = time.monotonic() + args.seconds  # before the imports, which take seconds
    from gpu_settings import Settings

    module, function = PARTS[args.part].run.split(":")
    settings = Settings(args.device, args.quick, args.seed, deadline)
    with args.rows.open("a") as file:
        for row in getattr(import_module(module), function)(settings):
            file.write(json.dumps(row) + "\n")
            file.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
