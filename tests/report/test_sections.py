"""The diagnosis of a run: warnings where they are due and only there, on one page that needs nothing else."""

import json
from functools import partial

import pytest
import torch

from pyro_vae.autoencoders import VAE
from pyro_vae.errors import UsageError
from pyro_vae.evidence.annealing_results import Annealing
from pyro_vae.guides import Delta
from pyro_vae.inference.hamiltonian import HMC
from pyro_vae.networks import MLP
from pyro_vae.report.html import Section, Warned, page
from pyro_vae.report.sections import SECTIONS, diagnose
from pyro_vae.report.subject import Given, Sizes, Subject
from tests.cli.test_cli import FAST, call
from tests.support.guides import off_by

FEW = Sizes(
    num_particles=300,
    num_bracketed=10,
    num_gaps=20,
    num_simulated=60,
    num_compared=2,
    num_replicated=160,
    annealing=Annealing(num_temperatures=30, num_chains=4),
    hmc=HMC(num_chains=2, num_warmup=50, num_leapfrog=2),
)


def ppca(num=60, **off):
    """Probabilistic PCA with a guide that is off by so much, and data from it."""
    vae, process = off_by(**off)
    return vae, Given(process.sample(num, seed=3).to(next(vae.parameters()).dtype))


def found_for(vae, data, sections=None, train=None):
    return diagnose(Subject(vae, data, train, FEW), sections)


class TestSections:
    @pytest.mark.usefixtures("few_adapted")
    def test_nothing_to_warn_about_an_exact_guide(self):
        """All gaps are 0, the bracket closes, ranks are uniform. False alarms: 14 % (two at 5 %, four at 1 %)."""
        vae, data = ppca()
        found = found_for(vae, data)
        assert list(found) == list(SECTIONS)
        assert [warning for finding in found.values() for warning in finding.warnings] == []
        assert found["bracket"].numbers["sandwich"]["gap"] == pytest.approx(0, abs=1e-3)
        assert found["gaps"].numbers["held-out"]["total"]["mean"] == pytest.approx(0, abs=1e-3)

    def test_a_narrow_guide_is_told_of_everywhere(self):
        """Its weights have no variance: k-hat, bracket, amortisation gap and calibration all say so."""
        vae, data = ppca(width=0.15)
        found = found_for(vae, data)
        told = {name: " ".join(finding.warnings) for name, finding in found.items()}
        assert "Pareto k is above" in told["evidence"] and "too narrow" in told["calibration"]
        assert "AIS finds log p(x)" in told["bracket"] and "Most of the gap is the encoder's" in told["gaps"]
        assert "Regions of 90% are right" in told["regions"] and "off by more than 0.1 for 100%" in told["hmc"]
        assert told["predictive"] == "" == told["likeness"]  # the model is right

    def test_a_wrong_model_is_told_by_the_predictive_check(self):
        vae, data = ppca()
        found = found_for(vae, Given(3 * data.x + 2), ["predictive", "likeness"])
        assert "The data are less likely than simulated data" in found["likeness"].warnings[0]
        assert "Data drawn from the model differ from the data in: mean" in found["predictive"].warnings[0]

    def test_collapse(self):
        vae, data = ppca()
        with torch.no_grad():
            vae.encoder.output.weight.zero_()
        found = found_for(vae, data, ["latents"])
        assert "posterior collapse" in found["latents"].warnings[0] and "warm up" in found["latents"].warnings[0]

    def test_what_makes_no_sense_says_why(self):
        small = partial(MLP, hidden=(4,))
        vae = VAE((4,), 2, guide=Delta, encoder=small, decoder=small)
        found = found_for(vae, Given(torch.ones(10, 4)), ["evidence", "gaps"])
        assert all("is a Delta" in finding.numbers["not_measured"] for finding in found.values())
        assert found["gaps"].warnings[0].startswith("Inference gaps: not measured. ")
        assert found["gaps"].section.title == "Inference gaps"

    def test_train_and_held_out(self):
        vae, data = ppca(num=FEW.num_gaps, shift=0.5)  # one shape on both sides: equal to the bit
        found = found_for(vae, data, ["gaps"], train=data)["gaps"].numbers
        assert found["train"] == found["held-out"] and found["held_out_less_train"]["total"]["mean"] == 0

    def test_unknown_sections(self):
        vae, data = ppca(num=5)
        with pytest.raises(UsageError, match="unknown section 'gap': expected some of evidence"):
            found_for(vae, data, ["gap"])


def test_pages_escape_and_need_nothing_else():
    text = page("<a>", "b & c", [Section("d", tables=[[{"e": float("nan"), "f": 0.12345678}]], note="<g>")])
    assert "&lt;a&gt;" in text and "b &amp; c" in text and "&lt;g&gt;" in text and "<a>" not in text
    assert "<td>unknown</td><td>0.1235</td>" in text and "Nothing to warn about" in text
    warned = page("a", "b", [Section("c", warnings=[Warned("what", "advice")])])
    assert warned.count("what") == 2 and "Nothing to warn about" not in warned  # on top, and in its section


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "a"
    assert call(f"fit --epochs 2 {FAST} --run {path}").code == 0
    return path


@pytest.mark.usefixtures("few_adapted")
class TestCommand:
    def sizes(self, skip=""):
        few = "--num_data 40 --num_particles 100 --num_bracketed 4 --num_gaps 6 --num_simulated 50 --num_replicated 160"
        return f"{few} --annealing.num_temperatures 20 --annealing.num_chains 2 --quiet {skip}"

    def test_a_page_and_numbers(self, run):
        result = call(f"diagnose {run} {self.sizes('--skip hmc')}")
        assert result.code == 0 and "warnings" in result.out
        text = (run / "diagnosis-test.html").read_text()
        assert text.count('<img src="data:image/png;base64,') == 11 and "http" not in text.replace("http-equiv", "")
        assert all(f"<h2>{title}</h2>" in text for title in ("Log p(x)", "Inference gaps", "Codes"))
        numbers = json.loads((run / "diagnosis-test.json").read_text())
        assert numbers["evidence"]["num_data"] == 40 and set(SECTIONS) - {"hmc"} < set(numbers)
        assert numbers["gaps"]["train"]["num_data"] == 6 and "digits" in numbers["data"]

    def test_conclusions_come_first(self, run):
        """What costs most; what was tried, and the commands of what gained."""
        rest = "--skip bracket calibration hmc predictive evidence --try 1"
        result = call(f"diagnose {run} {self.sizes(rest)}")
        assert result.code == 0 and "costs" in result.out and "after 1 epochs" in result.out
        text = (run / "diagnosis-test.html").read_text()
        assert text.index("<h2>Conclusions</h2>") < text.index("<h2>Inference gaps</h2>")
        numbers = json.loads((run / "diagnosis-test.json").read_text())["conclusions"]
        assert {cost["what"] for cost in numbers["costs"]} >= {"encoder", "family of the guide", "prior"}
        assert 1 <= len(numbers["tried"]) <= 2
        commands = {cost["what"]: cost.get("command") for cost in numbers["costs"]}
        for tried in numbers["tried"]:
            assert (commands[tried["what"]] is not None) == (tried["gain"]["verdict"] == "better")
            assert tried["epochs"] == 1 and tried["gain"]["standard_error"] > 0 and tried["seconds"] > 0

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ("--try -1", "--try: expected a number of epochs"),
            ("--try 1 --split train", "take another --split"),
            ("--try 1 --data digits", "leave --data out"),
        ],
    )
    def test_what_can_not_be_tried(self, run, options, told):
        result = call(f"diagnose {run} {self.sizes()} {options}")
        assert result.code == 2 and told in result.error

    def test_data_are_chosen_by_the_seed(self, run):
        """Not the first ones, which in a sorted test set are all of one kind; all, where all are asked for."""
        rest = "--skip bracket gaps latents calibration regions hmc predictive likeness --json"
        found = [
            call(f"diagnose {run} {self.sizes(rest)} --seed {seed}").json["evidence"]["elbo"] for seed in (0, 0, 1)
        ]
        assert found[0] == found[1] != found[2]
        evaluated = call(f"evaluate {run} --num_particles 100 --num_data 40 --json").json["elbo"]
        assert abs(found[0] - evaluated) > 1e-3

    def test_skip_json_and_out(self, run, tmp_path):
        rest = "--skip bracket gaps latents calibration regions hmc predictive likeness"
        result = call(f"diagnose {run} {self.sizes(rest)} --json --out {tmp_path / 'b.html'}")
        assert "evidence" in result.json and "gaps" not in result.json and (tmp_path / "b.html").exists()

    @pytest.mark.parametrize(
        ("options", "message"),
        [("--num_data 1", "--num_data must be at least 2"), ("--num_gaps 0", "--num_gaps must be at least 2"),
         ("--annealing.num_chains 0", "must be at least 1"), ("--skip gap", "gap")],
    )  # fmt: skip
    def test_bad_options(self, run, options, message):
        result = call(f"diagnose {run} {options}")
        assert result.code == 2 and message in result.error
