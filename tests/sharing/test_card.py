"""A model card: what was measured has its errors, what was flagged is flagged, what lacks is said to lack."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
import yaml

from pyro_vae.autoencoders import VAE, VQVAE, HierarchicalVAE
from pyro_vae.data import Dataset
from pyro_vae.errors import CheckpointError, UsageError
from pyro_vae.guides import Delta
from pyro_vae.likelihoods import Normal
from pyro_vae.objectives import VQBound
from pyro_vae.report.sections import SECTIONS
from pyro_vae.runs.packing import pack
from pyro_vae.sharing import model_card
from pyro_vae.sharing.card import _SECTIONS
from pyro_vae.sharing.markdown import code, escaped
from pyro_vae.testing.modules import small_mlp
from pyro_vae.training.fitting import fit
from tests.cli.test_cli import FAST, call, done

SMALL = {"encoder": small_mlp, "decoder": small_mlp}
DIAGNOSE = (
    "--num_data 20 --num_particles 20 --num_gaps 4 --num_simulated 30 --num_bracketed 3 "
    "--annealing.num_temperatures 10 --annealing.num_chains 2 --skip regions hmc predictive likeness --quiet"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = tmp_path_factory.mktemp("card") / "digits-2"
    assert call("fit --data digits --binarize threshold --epochs 2", FAST, "--run", run).code == 0
    return run


@pytest.fixture(scope="module")
def measured(run, tmp_path_factory):
    """The same run, evaluated and diagnosed; and what was printed."""
    other = tmp_path_factory.mktemp("measured") / "digits-2"
    shutil.copytree(run, other)
    found = done("evaluate", other, "--num_particles 50")
    assert call("diagnose", other, DIAGNOSE).code == 0
    return other, found


def header(card):
    return yaml.safe_load(card.split("---\n")[1])


def cells(card, first):
    """The cells of the row of a table that begins with a text."""
    line = next(line for line in card.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_what_is_not_measured_is_said(run):
    card = model_card(run)
    assert "log p(x) is not measured: `pyro-vae evaluate RUN` measures it." in card
    absent = card.split("measured by `pyro-vae diagnose RUN`:\n\n")[1].split("\n\n")[0].splitlines()
    assert absent == [f"- {escaped(words)}" for words in _SECTIONS.values()]
    assert set(_SECTIONS) == set(SECTIONS)  # a new section of the report is known here
    assert "model-index" not in header(card)
    assert not re.search(r"\d\.\d{3}", card.split("## Evaluation")[1].split("## Files")[0])  # no number at all


def test_the_evaluation_with_its_errors(measured):
    run, found = measured
    card = model_card(run, license="apache-2.0")
    value, data, draws, protocol, trust = cells(card, "log p(x), nats per datum")[1:]
    assert value == f"{found['log_p']:.3f}" and data == f"{found['standard_error_data']:.3f}"
    assert draws.removeprefix("at least ") == f"{found['standard_error_monte_carlo']:.4f}"
    assert draws.startswith("at least ") == found["standard_error_monte_carlo_is_at_least"]
    assert protocol == "importance sampling, K = 50, 200 data of test, seed 0"
    flagged = round(found["unreliable"] * 200)
    assert trust.startswith(f"FLAGGED: {flagged} of 200 data" if flagged else "none of 200 data flagged")
    assert cells(card, "bits per element")[1] == f"{found['bits_per_dim']['mean']:.4f}"
    (result,) = header(card)["model-index"][0]["results"]
    (metric,) = result["metrics"]
    assert metric["value"] == pytest.approx(found["nll"], abs=1e-6)
    assert f"standard errors {data} (data), {draws} (draws)" in metric["name"] and "K = 50" in metric["name"]
    assert header(card)["license"] == "apache-2.0" and header(card)["library_name"] == "pyro_vae"


def test_the_error_of_the_elbo_is_that_of_its_values(measured):
    run, found = measured
    values = np.load(run / "evidence-test.npz")["elbo"]
    value, error, draws = cells(model_card(run), "ELBO, nats per datum")[1:4]
    assert value == f"{found['elbo']:.3f}" and draws == "included"
    assert error == f"{values.std(ddof=1) / len(values) ** 0.5:.3f}"


def test_the_diagnosis_with_its_errors(measured):
    run, _ = measured
    card, numbers = model_card(run), json.loads((run / "diagnosis-test.json").read_text())
    gap = numbers["gaps"]["held-out"]["amortisation"]
    errors = f"(se {gap['standard_error_data']:.3f}, {gap['standard_error_monte_carlo']:.3f})"
    assert cells(card, "amortisation gap")[1].startswith(f"{gap['mean']:.3f} {errors}")
    assert "20 data of test, chosen by seed 0" in card
    for warning in [w for name in ("gaps", "latents", "calibration") for w in numbers[name]["warnings"]]:
        assert escaped(warning) in card.split("## Load it")[0]  # at the top too
    absent = card.split("measured by `pyro-vae diagnose RUN`:\n\n")[1].split("\n\n")[0].splitlines()
    assert len(absent) == 4
    assert str(run) not in card and "pyro-vae refit RUN" in card


def test_flagged_stays_flagged(run, tmp_path):
    """With five draws a datum's estimate can't be trusted."""
    other = tmp_path / "run"
    shutil.copytree(run, other)
    found = done("evaluate", other, "--num_particles 5")
    assert found["mean_flagged"]
    card, num = model_card(other), round(found["unreliable"] * 200)
    trust = f"FLAGGED: {num} of 200 data, and the mean; not to be trusted within the errors"
    assert cells(card, "log p(x), nats per datum")[5] == trust
    assert trust in card.split("## Load it")[0]
    assert trust in header(card)["model-index"][0]["results"][0]["metrics"][0]["name"]
    assert cells(card, "log p(x), nats per datum")[3].startswith("at least ")
    assert "Some estimates above are flagged" in card.split("## Limits")[1]


def test_numbers_of_other_weights_are_not_shown(measured, tmp_path):
    run, found = measured
    other = tmp_path / "digits-2"
    shutil.copytree(run, other)
    assert call("refit", other, "--prior MixtureOfNormals --epochs 1 --quiet --out", tmp_path / "new").code == 0
    for name in ("evidence-test.json", "evidence-test.npz", "diagnosis-test.json"):
        shutil.copy(other / name, tmp_path / "new" / name)
    card = model_card(tmp_path / "new")
    assert f"{found['log_p']:.3f}" not in card and "log p(x) is not measured" in card
    assert "evidence-test.json: is of other weights than the run has now: evaluate again" in card
    assert "diagnosis-test.json: is of other weights than the run has now: diagnose again" in card
    assert "prior refitted" in card


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"log_p": -1.0}', "does not say of which weights it is"),
        ("{", "is damaged"),
        ("[1]", "is damaged"),
    ],
)
def test_files_that_say_too_little(run, tmp_path, content, reason):
    other = tmp_path / "run"
    shutil.copytree(run, other)
    for name in ("evidence-test.json", "diagnosis-test.json"):
        (other / name).write_text(content)
    card = model_card(other)
    for name in ("evidence-test.json", "diagnosis-test.json"):
        assert re.search(rf"- {name}: .*{reason}", card)
    assert "log p(x) is not measured" in card


def test_numbers_of_the_same_weights_in_another_form(measured, tmp_path):
    """As a later version might write them: left out, not half shown."""
    run, _ = measured
    other = tmp_path / "run"
    shutil.copytree(run, other)
    for name in ("evidence-test.json", "diagnosis-test.json"):
        weights = json.loads((other / name).read_text())["weights_sha256"]
        (other / name).write_text(json.dumps({"weights_sha256": weights, "num_particles": "many", "shown": 3}))
    card = model_card(other)
    assert "evidence-test.json: of another version of pyro\\_vae: evaluate again" in card
    assert "diagnosis-test.json: of another version of pyro\\_vae: diagnose again" in card


def test_every_method(measured, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(measured[0], run)
    found = done("evaluate", run, "--method all --num_data 3 --num_particles 10 --options.num_temperatures 10")
    card = model_card(run)
    assert "quadrature" in found["methods"]
    for name, entry in found["methods"].items():
        if "refused" not in entry:
            value = "unknown" if entry["log_p"] is None else f"{entry['log_p']:.3f}"
            assert re.search(
                rf"^\| log p\(x\), nats per datum \| {value} \|.*\| {re.escape(escaped(name))} \(", card, re.M
            )
    assert len(header(card)["model-index"][0]["results"]) == 1  # that of all data by importance sampling


def test_a_guide_that_is_a_point(tmp_path):
    x = torch.rand(40, 4).round()
    fit(VAE((4,), 2, guide=Delta, **SMALL), x, epochs=1, run=tmp_path / "run", progress=False)
    np.savez(tmp_path / "x.npz", train=x, test=x)
    assert call("evaluate", tmp_path / "run", "--data", tmp_path / "x.npz", "--quiet").code == 0
    card = model_card(tmp_path / "run")
    row = cells(card, escaped("reconstruction log p(x given z), nats per datum"))
    assert row[5] == "NOT log p(x), nor a bound on it: the guide is a point" and float(row[1]) < 0 < float(row[2])
    assert "log p(x) itself is not measured" in card and "model-index" not in header(card)


def test_discrete_codes(tmp_path):
    x = torch.rand(40, 4).round()
    np.savez(tmp_path / "x.npz", train=x, test=x)
    vae = VQVAE((4,), codes=(2,), codebook_size=4, embedding_dim=2, **SMALL)
    fit(vae, x, VQBound(), epochs=1, run=tmp_path / "run", progress=False)
    assert call("evaluate", tmp_path / "run", "--data", tmp_path / "x.npz", "--quiet").code == 0
    card = model_card(tmp_path / "run")
    assert cells(card, "LOWER BOUND on log p(x), nats per datum")[5] == "a bound alone"
    assert "help(vae)" in card  # it has no code z to encode to


def test_other_models(tmp_path):
    x = torch.randn(40, 4)
    for name, vae in {
        "layers": HierarchicalVAE(
            (4,), (3, 2), likelihood=Normal, upper_encoder=small_mlp, upper_decoder=small_mlp, **SMALL
        ),
        "context": VAE((4,), 2, likelihood=Normal, context=(3,), standardize=True, **SMALL),
    }.items():
        inputs = {"c": {"train": torch.randn(40, 3)}} if name == "context" else {}
        fit(vae, Dataset("x", x, inputs=inputs), epochs=1, run=tmp_path / name, progress=False)
        card = model_card(tmp_path / name)
        assert "p(x\\|z) is a density: log p(x) depends on the units of x" in card
        assert "| networks work on standardised data | `yes` |" in card or name == "layers"
        assert "an array, which the run does not hold" in card


def test_a_table(tmp_path):
    (tmp_path / "people.csv").write_text("age,city\n" + "".join(f"{20 + i},{'AB'[i % 2]}\n" for i in range(40)))
    words = "--missing nan --vae.likelihood Mixed --epochs 1 --kinds.age real"
    assert call("fit --data", tmp_path / "people.csv", words, FAST, "--run", tmp_path / "run").code == 0
    card = model_card(tmp_path / "run")
    assert cells(card, "age")[1] == "`real`" and "A, B" in cells(card, "city")[1]
    assert "`people.csv`" in card and str(tmp_path) not in card
    assert "load_data('people.csv', missing='nan')" in card


def test_names_that_are_no_markdown(run, tmp_path):
    """A name can't break a table, end a code, or be HTML."""
    other = tmp_path / "a|b`c<script>"
    shutil.copytree(run, other)
    config = yaml.safe_load((other / "config.yaml").read_text())
    config["data"] = "/x/`|<img src=x onerror=alert(1)>\n# Heading\n---.csv"
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    card = model_card(other)
    text = re.sub(r"`[^`\n]*`", "", card.split("---\n", 2)[2])
    assert "<script" not in text and "<img" not in text and "\n# Heading" not in card and "&lt;script>" in text
    assert header(card)["tags"]
    assert code("a`b|c\nd") == "`a'b\\|c d`"


def test_the_hubs_library_reads_it(measured):
    hub = pytest.importorskip("huggingface_hub", reason="the extra `hub` is not installed")
    card = hub.ModelCard(model_card(measured[0], license="mit"))
    (result,) = card.data.eval_results
    assert card.data.license == "mit" and result.metric_type == "nll" and result.dataset_name == "digits"
    assert card.data.tags[0] == "pyro_vae" and card.text.lstrip().startswith("<!-- written by pyro_vae")


def test_an_archive(measured, tmp_path):
    run, found = measured
    card = model_card(pack(run, tmp_path / "digits-2.zip"))
    assert card == model_card(run) and f"{found['log_p']:.3f}" in card


def test_mistakes(run, tmp_path):
    with pytest.raises(CheckpointError, match="there is no run directory"):
        model_card(tmp_path / "nope")
    with pytest.raises(UsageError, match=r"run: expected the path of a run directory, got VAE.*: fit\("):
        model_card(VAE((4,), 2))
    with pytest.raises(UsageError, match="repo: expected 'user/name'"):
        model_card(run, repo="digits")
    with pytest.raises(UsageError, match=r"license: expected an identifier such as 'apache-2\.0'"):
        model_card(run, license="All rights reserved\n---")


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command(measured, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(measured[0], run)
    found = done("card", run, "--repo me/digits")
    assert found == {"run": str(run), "card": str(run / "README.md"), "to_measure": []}
    assert (run / "README.md").read_text() == model_card(run, repo="me/digits")
    assert done("card", run)["to_measure"] == []  # its own card is written again
    assert 'from_pretrained("user/name")' in (run / "README.md").read_text()
    assert call("card", run, "--out", tmp_path / "card.md").code == 0 and (tmp_path / "card.md").exists()


def test_what_to_measure(run, tmp_path):
    found = done("card", run, "--out", tmp_path / "card.md")
    assert found["to_measure"] == [f"pyro-vae evaluate {run}", f"pyro-vae diagnose {run}"]
    assert not (run / "README.md").exists()


def test_another_page_is_not_replaced(run, tmp_path):
    other = tmp_path / "run"
    shutil.copytree(run, other)
    (other / "README.md").write_text("my notes")
    refused = call("card", other)
    assert (
        refused.code == 4 and "is not a card of pyro-vae, so it is not replaced: name a file by --out" in refused.error
    )
    assert (other / "README.md").read_text() == "my notes"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [("--repo digits", 2, "repo: expected 'user/name'"), ("--license MIT!", 2, "license: expected an identifier")],
)
def test_mistakes_of_the_command(run, words, code, message):
    refused = call("card", run, words)
    assert refused.code == code and message in refused.error


def test_a_run_with_a_name_that_terminals_and_shells_understand_otherwise(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "two&words\x1b[31mred")
    shown = call("card", other)
    assert shown.code == 0 and "\x1b" not in shown.out and "\x1b" not in (other / "README.md").read_text()
    assert f"pyro-vae evaluate '{tmp_path}/two&words?[31mred'" in shown.out
    assert "\x1b" not in call("card", tmp_path / "\x1b[31mnothing").err
