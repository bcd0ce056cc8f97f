"""`benchmarks/gpu.py`: its parts at tiny sizes on this machine's device, its page, and what becomes of its time."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"
DOCS = FOLDER.parent / "docs"
sys.path.insert(0, str(FOLDER))

import gpu  # noqa: E402
import gpu_checking  # noqa: E402
import gpu_checks  # noqa: E402
import gpu_floors  # noqa: E402
import gpu_page  # noqa: E402
import gpu_record  # noqa: E402
import gpu_speed  # noqa: E402
from gpu_settings import Settings, in_time  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
QUICK = Settings(DEVICE, quick=True)
LONG = {"compiled", "ais"}
"""Words in the names of checks that take seconds."""


# ---- part 1


def cases():
    for name, check in gpu_checks.first_checks():
        slow = bool(LONG & set(re.split(r"[ ,]+", name)))
        yield pytest.param(check, id=name, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("check", list(cases()))
def test_checks(check):
    found = gpu_checking.outcome(check, DEVICE)
    assert found["outcome"] == "passed", found


@pytest.mark.slow
@pytest.mark.parametrize(("name", "check"), [pytest.param(*pair, id=pair[0]) for pair in gpu_checks.more_checks()])
def test_more_checks(name, check):
    assert gpu_checking.outcome(check, DEVICE)["outcome"] == "passed"


def test_every_part_is_checked():
    from pyro_vae.testing import AXES

    names = [name for name, _ in gpu_checks.first_checks()]
    classes = [cls.__name__ for axis in AXES if axis.name not in ("schedule", "channel") for cls in axis.classes()]
    assert all(any(f" {cls}()" in name for name in names) for cls in classes)


def test_a_difference_is_found():
    same = {"z": torch.tensor([1.0, -2.0]), "gradient of a": torch.tensor([1e-9]), "gradient of b": torch.tensor([1.0])}
    assert gpu_checks.compare(same, same, 0.0)["difference"] == 0.0
    off = {**same, "z": torch.tensor([1.0, -2.0 + 2e-3])}
    with pytest.raises(AssertionError, match=r"z: relative difference 0.001, allowed 0.0005"):
        gpu_checks.compare(same, off, 5e-4)
    assert gpu_checks.compare(same, off, 2e-3)["difference"] == pytest.approx(1e-3, rel=1e-3)
    small = {**same, "gradient of a": torch.tensor([2e-9])}  # beside all gradients it is rounding
    assert gpu_checks.compare(same, small, 1e-6)["difference"] < 2e-9
    with pytest.raises(AssertionError, match="other tensors"):
        gpu_checks.compare(same, {"z": same["z"]}, 1.0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_must_be_at_the_same_place(bad):
    here = {"z": torch.tensor([1.0, bad])}
    assert gpu_checks.compare(here, here, 0.0)["difference"] == 0.0
    for there in ([1.0, 1.0], [bad, 1.0]):
        with pytest.raises(AssertionError, match="z: relative difference"):
            gpu_checks.compare(here, {"z": torch.tensor(there)}, 1e3)


def test_draws_are_those_of_the_cpu():
    """Of operations that make a tensor, that fill one, and that have a gradient; as without the mode on a CPU."""

    def drawn(device):
        torch.manual_seed(3)
        p = torch.full((5,), 0.5, device=device, requires_grad=True)
        gamma = torch.distributions.Gamma(1 + p, p).rsample()
        (gradient,) = torch.autograd.grad(gamma.sum(), p)
        filled = torch.empty(5, device=device).uniform_()
        return [torch.randn(5, device=device), filled, torch.bernoulli(p.detach()), gamma.detach(), gradient]

    expected = drawn("cpu")
    with gpu_checks.DrawnOnCpu():
        found = drawn(DEVICE)
    assert all(value.device.type == DEVICE for value in found)
    torch.testing.assert_close([value.cpu() for value in found], expected)


def test_a_generator_of_another_device_has_a_twin():
    """It goes on where it was; a generator of the CPU is used as it is."""

    class Other:
        device = torch.device("cuda")

        def initial_seed(self):
            return 5

    mode, other, own = gpu_checks.DrawnOnCpu(), Other(), torch.Generator().manual_seed(5)
    drawn = [torch.randn(3, generator=mode.on_cpu(other)) for _ in range(2)]
    assert mode.on_cpu(own) is own and not torch.equal(*drawn)
    torch.testing.assert_close(drawn, [torch.randn(3, generator=own) for _ in range(2)])
    assert mode.on_cpu(torch.device("cuda")) == torch.device("cpu") and mode.on_cpu("text") == "text"


def test_a_check_that_fails_or_breaks_is_reported():
    def refuses(device):
        raise gpu_checking.NotApplicable("no such part")

    def breaks(device):
        raise RuntimeError(f"no kernel on {device}\nand more")

    assert gpu_checking.outcome(lambda device: {"difference": 0.0}, "x") == {"outcome": "passed", "difference": 0.0}
    assert gpu_checking.outcome(refuses, "x")["outcome"] == "skipped"
    assert gpu_checking.outcome(breaks, "x") == {"outcome": "failed", "reason": "RuntimeError: no kernel on x"}


def test_tests_marked_cuda_are_run_by_name(tmp_path):
    assert gpu_checking.marked(FOLDER.parent / "tests")
    (tmp_path / "test_it.py").write_text(
        "import pytest\n@pytest.mark.cuda\n@pytest.mark.parametrize('n', [1, 2])\ndef test_one(n): assert n == 1\n"
        "@pytest.mark.cuda\ndef test_left_out(): pytest.skip('why')\ndef test_of_the_cpu(): assert False\n"
    )
    found = {row["name"]: row for row in gpu_checking.tests(QUICK, [tmp_path / "test_it.py"])}
    assert {name.partition("::")[2]: row["outcome"] for name, row in found.items()} == {
        "test_one[1]": "passed",
        "test_one[2]": "failed",
        "test_left_out": "skipped",
    }


# ---- the other parts


@pytest.fixture
def eager(monkeypatch):
    """No compiling, which takes seconds for each size of a batch."""
    monkeypatch.setattr(gpu_speed, "MODES", {"eager": False})


@pytest.mark.usefixtures("eager")
def test_training():
    rows = list(gpu_speed.training(QUICK))
    assert [(row["precision"], row["batch"]) for row in rows] == [(p, b) for p in ("float32", "bf16") for b in (10, 20)]
    for row in rows:
        assert row["mode"] == row["ran"] == "eager" and 200 < row["loss"] < 1000
        assert row["images_per_second"]["count"] == QUICK.sizes.rounds and row["images_per_second"]["least"] > 0


@pytest.mark.usefixtures("eager", "few_adapted")
def test_evidence_and_annealing():
    (evidence,), (annealed,) = list(gpu_speed.evidence(QUICK)), list(gpu_speed.annealing(QUICK))
    for row in (evidence, annealed):
        assert row["images_per_second"]["median"] > 0 and row["log_p"] < 0 < row["standard_error"]
    assert evidence["particles"] == 300 and annealed["evaluations"] > 0


def test_floors():
    rows = list(gpu_floors.floors(QUICK))
    assert not any("failed" in row or "cut" in row for row in rows)
    kinds = [row["what"] for row in rows]
    assert kinds == ["copy", *["products of a step"] * 4, *["loop by hand"] * 4, *["products"] * 4]
    assert all(200 < row["loss"] < 1000 for row in rows if row["what"] == "loop by hand")


def test_work_of_a_step():
    """By hand, of a network 3-2-2 and 1-2-3: 6 + 4 + 2 + 6 weights."""
    sizes = [(3, 2), (2, 2), (1, 2), (2, 3)]
    assert gpu_floors.flops_of_a_step(sizes) == 2 * (3 * 18 - 6)
    numbers = 10 * (3 + 2 * 9) + 7 * (18 + 9)
    assert gpu_floors.bytes_of_a_step(sizes, batch=10) == 4 * numbers


# ---- time


def test_what_does_not_fit_is_cut_and_what_fails_is_named():
    def run(case):
        time.sleep(0.2 if case == "long" else 0)
        if case == "broken":
            raise RuntimeError("no such kernel\nand more")
        return {"what": case}

    settings = Settings("cpu", deadline=time.monotonic() + 0.3)
    rows = list(in_time(settings, ["short", "broken", "long", "next"], run))
    assert rows[:3] == [{"what": "short"}, {"failed": "broken: RuntimeError: no such kernel"}, {"what": "long"}]
    assert rows[3]["cut"].startswith("next: 0 s were left")


def test_a_process_that_hangs_is_ended_and_its_rows_are_kept(tmp_path):
    rows, kept = tmp_path / "rows", []
    code = f"import time; open({str(rows)!r}, 'w').write('{{\"a\": 1}}\\n{{\"a\": '); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code], process_group=0)
    end = time.monotonic() + 60
    while not rows.exists() or not rows.read_text():
        assert time.monotonic() < end
    assert gpu._followed(process, time.monotonic() + 0.5, rows, kept.extend) == "cut: its time had ended"
    assert process.poll() is not None and kept == [{"a": 1}]


def test_the_parts_fit_into_eight_minutes():
    budgets = {name: part.budget_s for name, part in gpu.PARTS.items()}
    assert sum(budgets.values()) <= gpu.TOTAL_S < 480
    told = re.findall(r"^\| `(\w+)` \| (\d+) \|", (DOCS / "gpu.md").read_text(), re.MULTILINE)
    assert {name: float(seconds) for name, seconds in told} == budgets


@pytest.mark.skipif(DEVICE == "cuda", reason="there is a GPU")
def test_without_a_gpu_it_is_one_line(tmp_path, capsys):
    paths = ["--results", str(tmp_path / "gpu.json"), "--page", str(tmp_path / "gpu.md")]
    assert gpu.main(paths) == gpu.NO_GPU
    told = capsys.readouterr()
    assert told.out == "" and len(told.err.splitlines()) == 1 and "run `make gpu` on a machine with" in told.err
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_the_whole(tmp_path):
    """All parts on the CPU, each in a process of its own."""
    paths = ["--results", str(tmp_path / "gpu.json"), "--page", str(tmp_path / "gpu.md")]
    code = gpu.main(["--device", "cpu", "--quick", *paths])
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert code == 0 and list(parts) == list(gpu.PARTS) and all(part["rows"] for part in parts.values())
    assert "**A trial at tiny sizes" in (tmp_path / "gpu.md").read_text()


# ---- the record and the page


def test_each_row_is_saved_and_other_parts_stay(tmp_path):
    path, protocol = tmp_path / "deep" / "gpu.json", {"device": "x", "begun": "today"}
    parts = list(gpu.PARTS)
    record = gpu_record.Record(path, protocol, parts, ["floors"])
    record.begin("floors", 10.0)
    record.add("floors", [{"failed": "a: why"}])
    assert json.loads(path.read_text())["parts"]["floors"]["note"] == "it was not ended"  # as after a crash
    record.end("floors", 3.21, "")
    assert record.problems() == ["a: why"]
    again = gpu_record.Record(path, {**protocol, "begun": "tomorrow"}, parts, ["checks"])
    again.begin("checks", 10.0)
    again.add("checks", [{"what": "check", "name": "b", "outcome": "failed", "reason": "how"}])
    again.end("checks", 1.0, "failed with exit code 1: E")
    assert set(again.problems()) == {"a: why", "b: how", "checks: failed with exit code 1: E"}
    assert list(json.loads(path.read_text())["parts"]) == ["checks", "floors"]
    assert gpu_record.Record(path, protocol, parts, ["checks", "floors"]).parts == {}
    assert gpu_record.Record(path, {"device": "another"}, parts, []).parts == {}


def test_the_published_page_is_that_of_the_results(tmp_path):
    """No figure comes from elsewhere: the page without its figures, rendered again, is the page."""
    results, text = DOCS / "results" / "gpu.json", (DOCS / "gpu.md").read_text()
    again = tmp_path / "gpu.md"
    again.write_text(text.split(gpu_page.BEGIN)[0] + f"{gpu_page.BEGIN}\n{gpu_page.END}\n")
    gpu_page.write(again, results)
    assert again.read_text() == text
    assert ("**Not measured.**" in text) == (not results.exists())


def rate(median, **others):
    return {"images_per_second": {"median": median, "least": median / 2, "most": 2 * median, "count": 5}, **others}


def reached(per_second):
    return {"flops_per_second": {"median": per_second, "least": per_second, "most": per_second, "count": 5}}


def made_up():
    case = {"precision": "float32", "batch": 100}
    fitted = {"what": "fit", **case, "images": 60_000, "loss": 101.25, "memory_mb": 123.0, "seconds_before": 30.0}
    estimated = {"what": "log_marginal", "particles": 10, "images": 7, "log_p": -90.5, "standard_error": 0.25}
    passed = {"outcome": "passed", "difference": 3e-9, "tolerance": 1e-6}
    decoder = {"precision": "float32", "rows": 5, "widths": [2, 3, 4]}
    rows = {
        "checks": [
            {"what": "check", "name": "prior A(b=1, c=2), float64", **passed},
            {"what": "check", "name": "prior B(), float64", "outcome": "failed", "reason": "z: 0.1"},
            {"what": "test", "name": "t::u", "outcome": "skipped", "reason": "why"},
        ],
        "training": [
            rate(1000.0, **fitted, mode="compiled", ran="compiled (inductor)", warnings=[]),
            rate(200.0, **fitted, mode="eager", ran="eager", warnings=["slow"]),
            {"cut": "bf16: no time"},
        ],
        "evidence": [rate(50.0, **estimated, mode="eager", seconds_before=1.0, warnings=[], memory_mb=None)],
        "floors": [
            rate(1250.0, what="loop by hand", **case, loss=101.5),
            rate(4000.0, what="products of a step", **case, **reached(3e12), bytes_of_a_step=1000),
            {"what": "copy", "bytes_per_second": {"median": 1e5, "least": 1e5, "most": 1e5, "count": 5}},
            {"what": "products", "of": "decoder of log_marginal", **decoder, **reached(36_000.0)},
        ],
    }  # fmt: skip
    protocol = {"device": "Some GPU", "device_memory_gib": 80, "capability": "9.0", "driver": "1.2", "cuda": "13.0"}
    protocol |= {
        "cpu": "Some CPU",
        "cores": 4,
        "threads": 4,
        "torch": "2.9",
        "pyro": "1.9",
        "system": "Linux",
        "seed": 7,
    }
    parts = {name: {"budget_s": 60, "seconds": 12.0, "note": "", "rows": found} for name, found in rows.items()}
    parts["annealing"] = {"budget_s": 45, "seconds": 45.0, "note": "cut: its time had ended", "rows": []}
    return {"protocol": protocol, "parts": parts}


def test_the_page_of_made_up_results(tmp_path):
    (tmp_path / "gpu.json").write_text(json.dumps(made_up()))
    gpu_page.write(tmp_path / "gpu.md", tmp_path / "gpu.json")
    text = (tmp_path / "gpu.md").read_text()
    assert "Not measured" not in text and "Some GPU, 80 GiB, compute capability 9.0, driver 1.2, CUDA 13.0" in text
    assert "| each prior, float64 | 2 | 1 | 0 | 1 | 3.0e-09 | 1e-06 |" in text
    assert "- failed: prior B(), float64: z: 0.1" in text and "- skipped: t::u: why" in text
    # 1000 of 1250 and of 4000 images/s; 10 bytes an image at 1000 images/s beside 100,000 bytes/s
    cells = "1,000 (500 to 2,000) | 200 (100 to 400) | 1,250 (625 to 2,500) | 0.80 | 0.25 | 0.10 | 101.2; 101.5 |"
    assert f"| float32 | 100 | {cells}" in text
    # 50 images/s of 10 passes of 2 (6 + 12) operations beside 36,000 operations/s
    assert "| `log_marginal`, K = 10 | eager | 7 | 50 (25 to 100) | 0.50 | -90.500 ± 0.250 |" in text
    assert "- annealing: 45 of 45 s; cut: its time had ended" in text and "; bf16: no time" in text
    assert "warned: slow" in text and "at most 123 MB allocated" in text and "seed 7" in text


def test_the_page_keeps_what_is_written_by_hand(tmp_path):
    page = tmp_path / "gpu.md"
    page.write_text(f"before\n{gpu_page.BEGIN}\nold\n{gpu_page.END}\nafter\n")
    gpu_page.write(page, tmp_path / "none.json")
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "**Not measured.**" in text and "make gpu" in text
