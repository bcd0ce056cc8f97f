"""`evidence.sandwich`: what is said of a bracket, and above all of one whose sides are the wrong way round."""

from math import inf

import pytest
import torch

from pyro_vae.evidence import Annealing, Sandwich, bdmc
from pyro_vae.evidence.annealing_results import AnnealedEvidence
from pyro_vae.report.html import page
from pyro_vae.report.sections import diagnose
from pyro_vae.report.subject import Given, Sizes, Subject
from pyro_vae.statistics.averages import number
from tests.support.guides import off_by

HOW = Annealing(num_temperatures=10, num_chains=2)


def side(log_p, bound, chains=2, error=0.0):
    """A bound with these values and all chains alike, up to an error."""
    sign = 1 if bound == "lower" else -1
    log_weights = sign * torch.as_tensor(log_p).double().expand(chains, -1) + error * torch.arange(chains)[:, None]
    return AnnealedEvidence(log_weights, torch.ones(log_weights.shape[1]), bound, HOW, 1, 0)


def between(lower, upper, chains=2):
    lower, upper = side(lower, "lower", chains), side(upper, "upper", chains)
    return Sandwich(lower, upper, torch.zeros(len(lower.log_p), 1), {})


NOISE = torch.linspace(-1, 1, 50).double()  # of the gaps: a standard error of 0.0841
ERROR = NOISE.std().item() / 50**0.5


class TestCrossing:
    def test_the_right_way_round(self):
        found = between(-20 + 0 * NOISE, -19.5 + NOISE)
        assert found.crossed == "no" and found.crossed_by == 0 and found.standard_error == pytest.approx(ERROR)
        words = "lower bound -20.000 (se 0.000) <= log p(x) <= upper bound -19.500 (se 0.000) nats per datum, gap 0.500"
        assert found.verdict == f"{words} (se {ERROR:.3f})" and found.verdict in repr(found)

    @pytest.mark.parametrize("errors", [0.5, 2.9])
    def test_by_chance_it_is_an_equality(self, errors):
        found = between(-20 + 0 * NOISE, -20 - errors * ERROR + NOISE)
        assert found.crossed == "within error" and found.crossed_by == pytest.approx(errors)
        middle = -20 - errors * ERROR / 2
        assert found.verdict.startswith(
            f"log p(x) = {middle:.3f} +- {ERROR:.3f} nats per datum; the two sides agree within error"
        )
        assert "<=" not in repr(found)

    @pytest.mark.parametrize("errors", [3.1, 10.0])
    def test_by_more_it_is_no_bracket(self, errors):
        found = between(-20 + 0 * NOISE, -20 - errors * ERROR + NOISE)
        assert found.crossed == "beyond error" and found.summary()["crossed_by"] == pytest.approx(errors)
        assert f"NO BRACKET: the lower bound is above the upper one by {errors:.1f} standard errors" in repr(found)
        assert "<=" not in repr(found)

    @pytest.mark.parametrize(("log_p", "rounding"), [(-20.0, 1e-3), (-1e5, 0.02)])
    def test_rounding_is_no_crossing(self, log_p, rounding):
        """Every gap alike, so the error is 0: a step of single precision must not look like infinitely many errors."""
        found = between(torch.full((9,), log_p), torch.full((9,), log_p - 0.9 * rounding))
        assert found.crossed == "no" and found.crossed_by == 0
        found = between(torch.full((9,), log_p), torch.full((9,), log_p - 4 * rounding))
        assert found.crossed == "beyond error" and 3 < found.crossed_by < inf

    def test_of_one_datum_the_chains_give_the_error(self):
        lower, upper = side([-20.0], "lower", 4, error=0.5), side([-18.0], "upper", 4, error=0.5)
        found = Sandwich(lower, upper, torch.zeros(1, 1), {})
        assert found.standard_error == pytest.approx(found.gap.standard_error_monte_carlo) and found.crossed == "no"

    def test_an_error_that_is_not_known_is_said_to_be(self):
        found = between([-20.0], [-20.5], chains=1)
        assert found.crossed == "within error" and "+- unknown" in found.verdict and "nan" not in repr(found)
        assert "nan" not in repr(found.lower) and "se(Monte Carlo) unknown" in repr(found.lower)

    def test_numbers_that_are_not_known(self):
        assert (number(float("nan")), number(1.23456), number(1.2, ".1f")) == ("unknown", "1.235", "1.2")


class TestReal:
    def test_an_exact_guide(self):
        """Both sides are log p(x) to rounding: whatever the sign of the difference, it is no crossing."""
        vae, process = off_by()
        found = bdmc(vae.model, vae.guide, 20, annealing=HOW)
        assert found.crossed == "no" and found.middle == pytest.approx(
            process.log_prob(found.x).mean().item(), abs=1e-3
        )

    @pytest.mark.slow
    def test_over_seeds_an_equality_holds_what_it_says(self):
        """20 seeds of a guide that is slightly off, with long chains: log p(x) within 4 errors of the middle."""
        vae, process = off_by(width=1.1)
        kinds = set()
        for seed in range(20):
            found = bdmc(vae.model, vae.guide, 10, annealing=Annealing(20, 4), seed=seed, compile=False)
            kinds.add(found.crossed)
            exact = process.log_prob(found.x).mean().item()
            assert found.crossed == "no" or abs(found.middle - exact) < 4 * found.standard_error
        assert kinds == {"no", "within error"}


class TestDiagnosis:
    @pytest.mark.parametrize(("errors", "told"), [(-5.0, False), (1.0, False), (4.0, True)])
    def test_a_crossed_bracket_is_warned_about_first(self, monkeypatch, errors, told):
        found = between(-20 + 0 * NOISE, -20 - errors * ERROR + NOISE)
        monkeypatch.setattr("pyro_vae.report.sections.bdmc", lambda *args, **options: found)
        vae, _ = off_by()
        sizes = Sizes(num_particles=50, num_bracketed=2, annealing=Annealing(2, 2))
        subject = Subject(vae, Given(torch.zeros(2, 4).double()), sizes=sizes)
        finding = diagnose(subject, ["bracket"])["bracket"]
        expected = [f"above the upper one, by {errors * ERROR:.3f} nats or {errors:.1f} standard errors"] * told
        assert len(finding.warnings) == told and all(e in w for e, w in zip(expected, finding.warnings, strict=True))
        assert ("agree within error: log p(x) of these is" in finding.section.text) == (errors == 1.0)
        if told:
            assert finding.warnings[0] in page("t", "l", [finding.section]).replace("</b>", " ").partition("<h2>")[0]
