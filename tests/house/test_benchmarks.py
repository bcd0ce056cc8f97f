"""The benchmarks: the runner's statistics and its memory, and that each script prints a line that it can read."""

import importlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pyro
import pytest
import torch

import pyro_vae

FOLDER = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(FOLDER))

import environments  # noqa: E402
import machine  # noqa: E402
import page  # noqa: E402
import results  # noqa: E402
import run  # noqa: E402
import systems  # noqa: E402

TRAIN = ["--num", "40", "--batch", "20", "--hidden", "8", "--latent", "2", "--epochs", "1", "--threads", "1"]
TINY = ["--images", "3", "--particles", "400", "--decoder", "2-8-784", "--threads", "1"]
CHAINS = ["--images", "2", "--temperatures", "20", "--chains", "2", "--latent", "3", "--repeats", "2", "--threads", "1"]
PEERS = {
    "pythae_trainer.py": ("pythae", TRAIN),
    "pythae_nll.py": ("pythae", TINY),
    "lightning_trainer.py": ("lightning", TRAIN),
    "numpyro_svi.py": ("numpyro", TRAIN),
    "numpyro_renyi.py": ("numpyro", TINY),
    "jax_chunked.py": ("numpyro", TINY),
    "jax_annealing.py": ("numpyro", CHAINS),
    "jax_annealing.py --library blackjax": ("blackjax", CHAINS),
}

LOOK = """
import json, os
from pathlib import Path

def stat(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()

siblings = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and stat(p.name)[1] == str(os.getppid())]
others = [pid for pid in siblings if pid != os.getpid() and stat(pid)[3] == stat("self")[3]]
while not all(int(stat(pid)[11]) for pid in others):
    pass
print(json.dumps([{"pid": pid, "ticks": int(stat(pid)[11]), "nice": int(stat(pid)[16])} for pid in others]))
"""


@pytest.fixture(autouse=True)
def _settings_kept():
    """The scripts set torch's switches for their own process."""
    switch = torch.backends.mkldnn.matmul
    before = torch.get_num_threads(), switch.fp32_precision
    with pyro.validation_enabled(True):
        yield
    torch.set_num_threads(before[0])
    switch.fp32_precision = before[1]


@pytest.fixture(scope="module")
def peers(request):
    """The peers' scripts that are tested and whose environment there is, all started at once."""
    asked = {item.callspec.params["script"] for item in request.session.items if item.name.startswith("test_peers[")}
    settings = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **settings, "PYTHONPATH": str(FOLDER.parent)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = {
        script: subprocess.Popen(
            [environments.interpreter(name), FOLDER / script.split()[0], *script.split()[1:], *options],
            env=environment,
            **pipes,
        )
        for script, (name, options) in PEERS.items()
        if script in asked and environments.made(name)
    }
    yield started
    for process in started.values():
        process.kill()
        process.communicate()


def line(capsys, script, *options):
    """The line that a script prints, read back."""
    importlib.import_module(script).main([str(option) for option in options])
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def check(found):
    assert {"system", "images_per_second", "settings", "versions"} <= found.keys()
    if "loss" in found:
        assert len(found["images_per_second"]) == found["settings"]["epochs"] and found["first_step_s"] > 0
        assert all(rate > 0 for rate in found["images_per_second"]) and 200 < found["loss"] < 1000
    else:
        assert found["images_per_second"] > 0 and found["extra_rss_mb"] is not None


# ---- the scripts


@pytest.mark.parametrize("options", ["--kind usual", "--kind best --onednn", "--kind best --bf16"])
def test_torch_loop(options, capsys):
    check(line(capsys, "torch_loop", *TRAIN, *options.split()))


def test_pyro_example(capsys):
    check(line(capsys, "pyro_example", *TRAIN))


@pytest.mark.skipif("compile" not in inspect.signature(pyro_vae.fit).parameters, reason="fit has no compile here")
@pytest.mark.parametrize(
    ("script", "options"),
    [("ours", []), *[("our_parts", ["--part", part]) for part in ("FullNormal", "DReG(5)", "ConvNet(16, 32)")]],
)
def test_ours(script, options, capsys):
    found = line(capsys, script, *TRAIN, "--mode", "eager", *options)
    check(found)
    assert found["settings"]["processes"] == 1 and found["settings"]["warnings"] == []


def test_the_suite_of_parts_is_the_list_of_parts():
    import our_parts
    import twins

    assert set(systems.suites(systems.Scale(1))["parts"].settings) == set(our_parts.PARTS) == set(twins.TWINS)


@pytest.mark.parametrize("part", ["DReG(5)", "VQVAE", "SemiSupervisedVAE, a tenth labelled", "VampPrior(50)"])
def test_a_twin(part, capsys):
    options = [*TRAIN, "--num", "60", "--hidden", "40"]
    found = line(capsys, "twins", *options, "--part", part)
    ours = line(capsys, "our_parts", *options, "--part", part, "--mode", "eager")
    check(found)
    assert found["loss"] == pytest.approx(ours["loss"], rel=0.1)  # after three epochs from other first weights


@pytest.mark.skipif(
    "compile" not in inspect.signature(pyro_vae.log_marginal).parameters, reason="log_marginal has no compile here"
)
def test_ours_evidence(capsys):
    found = line(capsys, "ours_evidence", *TINY, "--mode", "eager")
    check(found)
    other = line(capsys, "pyro_renyi", *TINY)
    assert found["log_p"] == pytest.approx(other["log_p"], abs=0.1)  # both to a few hundredths of a nat


def test_pyro_evidence_agrees(capsys):
    found = [
        line(capsys, "pyro_renyi", *TINY),
        line(capsys, "pyro_renyi", *TINY, "--looped"),
        line(capsys, "pyro_importance", *TINY),
    ]
    for one in found:
        check(one)
        assert one["log_p"] == pytest.approx(found[0]["log_p"], abs=0.1)


@pytest.mark.parametrize("options", [[], ["--sampler", "hmc"]])
def test_chains(options, capsys):
    few = [*TINY, "--temperatures", "4", "--chains", "2", "--latent", "3", "--warm-up", "1"]
    found = line(capsys, "ours_annealing", *few, *options)
    assert found["images_per_second"] > 0 and found["settings"]["warnings"] == []
    assert (found["log_p"] < 0) == (options == [])


@pytest.mark.parametrize("start", ["guide", "prior"])
def test_annealing_by_hand_agrees_with_ours(start, capsys):
    """Both bounds are tight here: they agree within four standard errors, of three passes each."""
    options = ["--images", 3, "--temperatures", 60, "--chains", 4, "--latent", 3, "--threads", 1, "--repeats", 3]
    ours, other = (line(capsys, s, *options, "--start", start) for s in ("ours_annealing", "torch_annealing"))
    error = (ours["log_p_error"] ** 2 + other["log_p_error"] ** 2) ** 0.5
    assert 0 < error < 0.05 and abs(ours["log_p"] - other["log_p"]) < 4 * error


def test_matmul_floor(capsys):
    found = line(capsys, "matmul_floor", *TINY)
    check(found)
    assert found["settings"]["rows"] in importlib.import_module("matmul_floor").CHUNKS


def test_step_floor(capsys):
    found = line(capsys, "step_floor", *TRAIN)
    assert found["loss"] is None and min(found["images_per_second"]) > 0 and found["first_step_s"] > 0


@pytest.mark.parametrize(
    "script", [s if options is TRAIN else pytest.param(s, marks=pytest.mark.slow) for s, (_, options) in PEERS.items()]
)
def test_peers(script, peers):
    if script not in peers:
        pytest.skip(f"the environment of {PEERS[script][0]} is not made: benchmarks/run.py makes it")
    output, errors = peers[script].communicate(timeout=300)
    assert peers[script].returncode == 0, errors[-2000:]
    check(json.loads(output.splitlines()[-1]))


def test_num_is_rounded_down_to_whole_batches():
    import common

    parser = common.training_parser(None)
    assert common.training_arguments(parser, ["--num", "110", "--batch", "50"]).num == 100
    with pytest.raises(SystemExit):
        common.training_arguments(parser, ["--num", "10", "--batch", "50"])


# ---- the statistics


def record(system, turn, rates, setting="", **fields):
    result = {"images_per_second": rates, "settings": {}, "versions": {"torch": "2"}, **fields}
    times = {"finished": "2026-01-01T00:00:00+00:00", "seconds": 1.0, "others": 0.0}
    return {"system": system, "setting": setting, "round": turn, "command": "", **times, "result": result}


def test_value_is_the_median_of_the_epochs():
    assert results.value(record("a", 0, [1.0, 9.0, 3.0]), "training") == 3.0
    assert results.value(record("a", 0, 7.0), "evidence") == 7.0
    assert results.value(record("a", 0, [1.0], first_step_s=2.5), "first step") == 2.5
    assert results.value({"system": "a", "failed": "why"}, "training") is None


def test_ratios_are_of_the_same_round():
    """A machine that slows down fourfold leaves each round's ratio at 2, 3, 2; the ratio of medians would be 3."""
    runs = [record("a", t, [v]) for t, v in enumerate((200.0, 150.0, 50.0))]
    runs += [record("b", t, [v]) for t, v in enumerate((100.0, 50.0, 25.0))]
    runs += [record("b", 7, [1.0]), {"system": "a", "setting": "", "round": 8, "failed": "why"}]
    assert results.paired(runs, "training", "a", "b") == results.Spread(2.0, 2.0, 3.0, 3)
    assert results.paired(runs, "training", "a", "nobody") is None
    assert results.values(runs, "training", "a") == results.Spread(150.0, 50.0, 200.0, 3)


def test_settings_are_apart():
    runs = [record("a", 0, [1.0], "10"), record("a", 0, [5.0], "20"), record("b", 0, [1.0], "20")]
    assert results.paired(runs, "training", "a", "b", "20").median == 5.0
    assert results.paired(runs, "training", "a", "b", "10") is None


def test_disagreements_name_the_odd_one_out():
    runs = [record(name, 0, [1.0], loss=loss) for name, loss in (("a", 304.0), ("b", 304.5), ("c", 320.0))]
    assert len(results.disagreements(runs, "training", 3.0)) == 1
    assert "c" in results.disagreements(runs, "training", 3.0)[0]


# ---- the runner


def test_the_store_goes_on_where_it_was(tmp_path):
    path = tmp_path / "results.json"
    store = results.Store(path)
    store.open("s", {"cpu": "x"}, fresh=False)
    store.add("s", {"system": "a", "setting": "", "round": 0, "failed": "why"})
    assert not results.Store(path).done("s", "a", "", 0)
    store.add("s", record("a", 0, [1.0]))
    again = results.Store(path)
    again.open("s", {"cpu": "x"}, fresh=False)
    assert again.done("s", "a", "", 0) and not again.done("s", "a", "", 1) and len(again.runs("s")) == 1
    with pytest.raises(ValueError, match="other conditions"):
        again.open("s", {"cpu": "y"}, fresh=False)
    again.open("s", {"cpu": "y"}, fresh=True)
    assert again.runs("s") == []


def test_every_round_runs_every_system_once_in_another_order():
    scale = systems.Scale(threads=2)
    for name, suite in systems.suites(scale).items():
        first, second = (systems.cases(name, suite, scale, turn) for turn in (0, 1))
        assert set(first) == set(second) and len(set(first)) == len(suite.systems) * len(suite.settings)
        assert len(suite.systems) < 2 or first != second
        assert all((FOLDER / case.command[0]).exists() for case in first)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_suite_beside_a_busy_process_starts_it_before_and_ends_it_after(tmp_path):
    """The command beside it sees one process more in its session, which spins at the same priority."""
    script = tmp_path / "look.py"
    script.write_text(LOOK)
    command = [sys.executable, FOLDER / "beside.py", sys.executable, script]
    seen = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout
    (busy,) = json.loads(seen.splitlines()[-1])
    assert busy["ticks"] > 0 and busy["nice"] == os.nice(0)
    assert not Path(f"/proc/{busy['pid']}").exists()


def test_one_run_of_a_busy_suite_has_company():
    scale = systems.Scale(threads=2)
    alone, beside = (systems.suites(scale)[name] for name in ("training", "training-beside"))
    commands = [run._command(systems.cases("s", suite, scale, 0)[0]) for suite in (alone, beside)]
    assert commands[1][1].endswith("beside.py") and commands[1][2:] == commands[0]


def test_options_of_a_suite_win_over_those_of_the_scale():
    scale = systems.Scale(threads=2)
    for case in systems.cases("s", systems.suites(scale)["training-one-thread"], scale, 0):
        words = list(case.command)
        assert words[len(words) - 1 - words[::-1].index("--threads") + 1] == "1"


def test_every_peer_has_requirements():
    found = {system.environment for s in systems.suites(systems.Scale(1)).values() for system in s.systems.values()}
    needed = found - {"project"}
    assert needed == {path.stem for path in (FOLDER / "requirements").glob("*.txt")}


def test_the_runner_writes_resumes_and_renders(tmp_path, monkeypatch, capsys):
    """One system, twice: the second time there is nothing left to do; a script that fails is told with its reason."""
    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setattr(run, "ROOT", tmp_path)
    result = json.dumps(record("a", 0, [100.0], loss=304.0)["result"])
    (tmp_path / "good.py").write_text(f"print({result!r})")
    (tmp_path / "bad.py").write_text("raise SystemExit('no such luck')")
    made = {systems.OURS: systems.System("good.py"), "b": systems.System("good.py"), "c": systems.System("bad.py")}
    suite = systems.Suite("Some", "training", made, "--batch", ("1", "2"))
    monkeypatch.setattr(run, "suites", lambda scale: {"s": suite})
    run.main(["--rounds", "1", "--threads", "1"])
    assert "no such luck" in capsys.readouterr().err
    text = (tmp_path / "docs/performance.md").read_text()
    assert text.startswith(page.BEGIN) and "**1.00**" in text and "Not measured: c at 2 (no such luck)" in text
    assert (tmp_path / "docs/pictures/speed-s.png").exists()
    assert f"**{machine.cpu_model()}**" in text and (tmp_path / f"results/{machine.slug()}.json").exists()
    run.main(["--rounds", "1", "--threads", "1"])
    told = capsys.readouterr().err
    assert "of 2," in told and systems.OURS not in told


def test_the_line_above_a_table_has_the_work_of_its_runs():
    """Threads and images of a suite can differ from those of the scale."""
    settings = [{"threads": 1, "num": 5100}, {"threads": 2, "num": 5000}]
    runs = [{"result": {"settings": found}} for found in settings]
    assert (page._threads(runs), page._images(runs)) == ("1 or 2 threads", "5,000 to 5,100 images an epoch")
    assert page._images([{"result": {"settings": {"images": 50, "threads": 1}}}]) == "50 images"


def test_the_table_of_parts_divides_ours_by_what_is_written_by_hand():
    made = {name: systems.System("a.py") for name in (systems.OURS, "ours, eager", systems.BY_HAND)}
    suite = systems.Suite("Parts", "training", made, "--part", ("A", "B"))
    speeds = dict(zip(made, (300.0, 100.0, 200.0), strict=True))
    runs = [record(name, 0, [speed], "A", loss=304.0) for name, speed in speeds.items()]
    heads, _, row = (text.strip("| ").split(" | ") for text in page.table(suite, runs).splitlines())
    assert heads[-2:] == ["ours, compiled / by hand", "ours, eager / by hand"]
    assert row == ["A", "300 (304.0)", "100 (304.0)", "200 (304.0)", "**3.00**", "**1.50**", "**0.50**"]


def test_results_of_another_machine_are_kept_and_shown(tmp_path):
    """Each machine has its table, at its own scale, and its panel of the picture."""

    def suites(scale):
        settings = tuple(str(count) for count in range(1, scale.threads + 1))
        return {"s": systems.Suite("Some", "training", {systems.OURS: systems.System("a.py")}, "--threads", settings)}

    stores = [results.Store(tmp_path / f"{cpu}.json") for cpu in ("old", "new")]
    for store, threads in zip(stores, (1, 2), strict=True):
        described = {"cpu": store.path.stem, "cores": 2, "memory_gib": 8, "system": "any"}
        store.open("s", {**described, "scale": vars(systems.Scale(threads))}, fresh=False)
        for setting in range(1, threads + 1):
            store.add("s", record(systems.OURS, 0, [111.0 * (2 * threads + setting)], str(setting)))
    page.write(tmp_path / "page.md", tmp_path, stores, suites)
    text = (tmp_path / "page.md").read_text()
    old, new = text[text.index("**old**") : text.index("**new**")], text[text.index("**new**") :]
    assert text.count("### Some") == 1 and "333" in old and "555" not in old and "555" in new and "666" in new


def test_the_page_keeps_what_is_written_by_hand(tmp_path):
    path = tmp_path / "performance.md"
    path.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    page.write(path, tmp_path, [results.Store(tmp_path / "none.json")], systems.suites)
    text = path.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text


def test_the_machine_is_described_without_its_name():
    described = json.dumps(machine.describe())
    assert os.uname().nodename not in described and machine.describe()["cores"] >= 1


def test_the_published_page_has_its_markers():
    text = (FOLDER.parent / "docs/performance.md").read_text()
    assert text.count(page.BEGIN) == 1 and text.count(page.END) == 1


def test_tricks(capsys):
    importlib.import_module("tricks").main(["--only", "foreach copy", "--seconds", "0"])
    name, _, off, on, ratio, rounds = capsys.readouterr().out.splitlines()[-1].strip("| ").split(" | ")
    assert name == "foreach copy" and off.split()[1] in ("µs", "ms") and on.split()[1] in ("µs", "ms")
    assert float(ratio.split()[0]) > 0 and int(rounds) >= 7
