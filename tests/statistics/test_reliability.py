"""`statistics.reliability`: what stays unflagged is covered by its error bars, and a good guide stays unflagged.

All random tests have fixed seeds; the chance that another seed fails one is stated with it.
"""

from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.cli.work.evaluate_results import readable
from pyro_vae.data import LinearGaussian
from pyro_vae.diagnostics.comparison import compare
from pyro_vae.evidence import AnnealedEvidence, Annealing, Evidence, estimate, log_marginal
from pyro_vae.evidence.importance_sampling import _COLUMNS, _Sums
from pyro_vae.inference.posteriors import posterior
from pyro_vae.statistics.pareto import smooth_tail, tail_kept
from pyro_vae.statistics.reliability import error_bar_below, untrustworthy

DATA = {50: 400, 500: 200, 5000: 100}
"""Number of data by K."""
WIDER = {
    "wider, 2 dimensions": [1.3**-2] * 2,
    "wider, 10 dimensions": [1.3**-2] * 10,
    "far wider": [1 / 9],
    "wider here, narrower there": [1.1**-2] * 5 + [0.9**-2] * 5,
    "nearly exact": [0.98, 1.01, 1.0, 1.02, 0.99],
    "a little narrower": [1 / 0.95] * 10,
}
"""Eigenvalues of the posterior's covariance where the guide's is the identity, for guides that are good enough."""
NARROWER = {f"narrower, k = {k}": [1 / (1 - k), *[4 / (4 + k)] * 4] for k in (0.7, 0.82, 0.9)}
"""Optimal mean-field guides in five dimensions: the inverse eigenvalues add up to 5, and 1 - the smallest is k."""


def evidence_of(eigenvalues, num_particles, num_data, seed=0):
    """Evidence for data of log p(x) = 0 with a normal posterior, by draws of a standard normal guide."""
    variance = torch.tensor(eigenvalues, dtype=torch.float64)
    stream, blocks = torch.Generator().manual_seed(seed), []
    for size in torch.arange(num_data).split(50):
        z = torch.randn(num_particles, len(size), len(variance), generator=stream, dtype=torch.float64)
        sums = _Sums(num_particles)
        sums.add(-(z.square() * (1 / variance - 1)).sum(-1) / 2 - variance.log().sum() / 2, torch.zeros(()).double())
        blocks.append(sums.result(0))
    columns = dict(zip(_COLUMNS, map(torch.cat, zip(*blocks, strict=True)), strict=True))
    return Evidence(**columns, num_particles=num_particles, seed=seed)


def joined(*found):
    """One set of data out of several."""
    names = ("log_p", "standard_error", "ess", "pareto_k", "elbo")
    columns = [torch.cat([getattr(evidence, name) for evidence in found]) for name in names]
    return Evidence(*columns, num_particles=found[0].num_particles, seed=0)


def coverage(evidence, chosen):
    """Share of the chosen data whose 95 % interval holds log p(x) = 0."""
    return (evidence.log_p.abs() < 1.96 * evidence.standard_error)[chosen].double().mean().item()


class TestCoverage:
    """Of what is reported as trustworthy, by guides wider than, as wide as, and narrower than the posterior."""

    @pytest.mark.parametrize("num_particles", DATA)
    @pytest.mark.parametrize("guide", WIDER)
    def test_a_good_guide_stays_unflagged_and_is_covered(self, guide, num_particles):
        """True coverage is 0.92 or more; 4 binomial standard errors below it: false alarm 1e-4 a case at most."""
        found = evidence_of(WIDER[guide], num_particles, DATA[num_particles])
        assert found.unreliable <= 0.05 and not found.mean_flagged
        assert coverage(found, ~found.flagged) > 0.92 - 4 * (0.92 * 0.08 / DATA[num_particles]) ** 0.5

    @pytest.mark.parametrize("num_particles", DATA)
    @pytest.mark.parametrize("guide", NARROWER)
    def test_a_narrower_guide_is_flagged_as_a_whole(self, guide, num_particles):
        """Here the mean k-hat is 6 or more of its own standard errors above the threshold: false alarm below 1e-6.

        The data whose own k-hat is low are covered less often than the others: that is why they are flagged too.
        """
        found = evidence_of(NARROWER[guide], num_particles, DATA[num_particles])
        assert found.unreliable == 1 and found.mean_flagged and found.error_is_at_least
        low = found.pareto_k <= found.threshold
        assert not low.any() or coverage(found, low) < min(coverage(found, ~low), 0.75)

    @pytest.mark.parametrize("num_particles", [500, 5000])
    def test_two_groups_are_told_apart(self, num_particles):
        """Half of the data with a wider guide, half with k = 0.82: the first stay, the others go.

        The few of the second half that stay by chance are 2 % of those that stay: coverage as for the first alone,
        false alarm 1e-3.
        """
        wide, narrow = [1.3**-2] * 5, NARROWER["narrower, k = 0.82"]
        found = joined(*(evidence_of(values, num_particles, 100) for values in (wide, narrow)))
        assert found.flagged[:100].double().mean() < 0.05 and found.flagged[100:].double().mean() > 0.9
        assert coverage(found, ~found.flagged) > 0.86 and found.mean_flagged

    def test_a_datum_alone(self):
        """It is judged by its own k-hat and the error of it: 0.45 does not rule out 0.5 with 500 draws, 0.1 does."""
        assert untrustworthy(torch.tensor([0.45]), 500, error_bar_below(500)).tolist() == [True]
        assert untrustworthy(torch.tensor([0.1]), 500, error_bar_below(500)).tolist() == [False]

    def test_the_same_k_hat_in_other_company(self):
        """0.3 is chance among data around 0.6, and 0.6 is chance among data around 0.3."""
        around = torch.randn(300, generator=torch.Generator().manual_seed(0)).double() * 0.15
        for centre, expected in ((0.7, True), (0.25, False)):
            k = torch.cat([around + centre, torch.tensor([0.3, 0.6]).double()])
            assert untrustworthy(k, 500, error_bar_below(500))[-2:].tolist() == [expected] * 2

    @pytest.mark.parametrize("num_particles", [50, 500])
    def test_the_optimal_mean_field_guide_of_a_linear_gaussian_model(self, num_particles):
        """By the whole way from a Pyro program: k = 0.82 in truth, all is flagged, in words too."""
        process, x = _correlated()
        covariance = process.posterior(x)[1]
        variance = 1 / torch.linalg.inv(covariance).diagonal()
        largest = torch.linalg.eigvalsh(covariance / (variance[:, None] * variance).sqrt())[-1]
        assert 1 - 1 / largest.item() == pytest.approx(0.82, abs=0.01)
        model, guide = _programs(process, dist.Normal, variance.sqrt())
        found = log_marginal(model, guide, x, num_particles=num_particles)
        assert found.unreliable == 1 and "THE MEAN TOO" in repr(found) and "se(Monte Carlo) at least" in repr(found)
        low = found.pareto_k <= found.threshold
        covered = (found.log_p - process.log_prob(x)).abs() < 1.96 * found.standard_error
        assert covered[low].double().mean() < 0.5  # what a threshold on each k-hat alone would pass
        smoothed = estimate("psis", model, guide, x, num_particles=num_particles)
        assert smoothed.unreliable == 1 and smoothed.summary()["standard_error_monte_carlo_is_at_least"] is True
        drawn = posterior(model, guide, x, num_draws=10, method="sir", num_particles=num_particles)
        assert drawn.unreliable == 1

    def test_the_exact_guide_of_the_same_model(self):
        process, x = _correlated()
        scale = torch.linalg.cholesky(process.posterior(x)[1])
        found = log_marginal(*_programs(process, _multivariate, scale), x, num_particles=500)
        assert found.unreliable == 0 and not found.error_is_at_least and "at least" not in repr(found)


def _correlated():
    """A process of two latent dimensions whose optimal mean-field guide has k = 0.82, and 150 data of it."""
    weight = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 0.5]]).double()
    process = LinearGaussian(weight, torch.zeros(3).double(), 0.67)
    return process, process.sample(150, seed=0)


def _programs(process, family, scale):
    """The process as a model, and as its guide the family with the exact mean."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            mean = z @ process.weight.T + process.bias
            pyro.sample("x", dist.Normal(mean, process.scale).to_event(1), obs=x)

    def guide(x):
        q = family(process.posterior(x)[0], scale)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", q if q.event_shape else q.to_event(1))

    return model, guide


def _multivariate(mean, scale):
    return dist.MultivariateNormal(mean, scale_tril=scale)


class TestUnusualShapes:
    def test_unknown_and_equal(self):
        """Nothing is known of nan; equal weights are fine in good company, and not where a fifth is flagged."""
        nan, equal = float("nan"), -float("inf")
        assert untrustworthy(torch.tensor([nan, equal, equal, equal, equal, equal]), 500, 0.5).tolist() == [
            True,
            *[False] * 5,
        ]
        assert untrustworthy(torch.tensor([nan, nan, equal]), 500, 0.5).all()
        assert not untrustworthy(torch.full((3,), equal), 500, 0.5).any()
        assert untrustworthy(torch.full((3,), float("inf")), 500, 0.5).all()

    def test_a_discrete_code_that_few_draws_find(self):
        """Half of p(z|x) is on a value that the guide draws once in 100: 50 draws see it, or all weights are equal."""

        def program(weight):
            def run(x):
                with pyro.plate("data", len(x), dim=-1):
                    z = pyro.sample("z", dist.Bernoulli(torch.tensor(weight).double()))
                    if weight == 0.5:
                        pyro.sample("x", dist.Normal(0 * z, 1.0), obs=x)

            return run

        x = torch.zeros(100).double()
        found = log_marginal(program(0.5), program(0.01), x, num_particles=50)
        equal = found.pareto_k == -torch.inf
        assert equal.double().mean() > 0.4 and found.unreliable == 1


def _largest(log_w):
    return np.sort(log_w, -1)[:, -tail_kept(log_w.shape[-1]) :]


class TestRounding:
    """Weights that differ by rounding alone are equal, whatever the type and the size of their logarithms."""

    def test_ties_of_rounding_are_equal(self):
        noise = np.random.default_rng(0).integers(0, 4, (20, 5000)) * 2.0**-17
        error = np.full(20, 100 * np.finfo(np.float32).eps)
        assert (smooth_tail(_largest(-100 + noise), 5000, error)[1] == -np.inf).all()
        spread = np.random.default_rng(0).standard_normal((20, 5000)) * 0.01
        assert np.isfinite(smooth_tail(_largest(-100 + noise + spread), 5000, error)[1]).all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize(
        ("latent", "repeats", "scale"),
        [(1, 1, 0.01), (1, 100_000, 1.0), (10, 10, 1.0), (100, 1, 1.0), (100, 10, 0.01), (1000, 10, 0.5)],
    )
    def test_an_exact_guide(self, latent, repeats, scale, dtype):
        """Of 1 to 1000 dimensions and |log p(x)| from 1 to 140,000: none flagged, all within the stated error."""
        x, truth = _repeated(latent, repeats, scale, dtype)
        draws = 2000 if latent * repeats <= 1000 else 30
        found = log_marginal(*_exact_pair(latent, repeats, scale, dtype), x, num_particles=draws, max_rows=100)
        assert found.unreliable == 0
        assert ((found.log_p - truth).abs() <= found.standard_error + 1e-8).all()  # to which the truth is known
        assert (found.rounding > 0).all() and found.standard_error_monte_carlo >= found.rounding.mean().item()

    def test_rounding_is_not_averaged_away(self):
        rounding = torch.full((10_000,), 0.01).double()
        zero = torch.zeros(10_000).double()
        found = Evidence(zero, rounding, zero + 100, zero, zero, num_particles=100, seed=0, rounding=rounding)
        assert found.standard_error_monte_carlo == pytest.approx(0.01)
        assert found.summary()["rounding"] == pytest.approx(0.01)


def _repeated(latent, repeats, scale, dtype):
    """Four data x = z + noise, each z seen `repeats` times, and their log p(x) in double precision."""
    stream = torch.Generator().manual_seed(0)
    z = torch.randn(4, latent, 1, generator=stream, dtype=torch.float64)
    x = (z + scale * torch.randn(4, latent, repeats, generator=stream, dtype=torch.float64)).to(dtype)
    process = LinearGaussian(torch.ones(repeats, 1).double(), torch.zeros(repeats).double(), scale)
    return x, process.log_prob(x).sum(-1)


def _exact_pair(latent, repeats, scale, dtype):
    precision = 1 + repeats / scale**2

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(latent, dtype=dtype), 1.0).to_event(1))
            mean = z.unsqueeze(-1).expand(*z.shape, repeats)
            pyro.sample("x", dist.Normal(mean, scale).to_event(2), obs=x)

    def guide(x):
        q = dist.Normal(x.sum(-1) / scale**2 / precision, torch.full((latent,), precision**-0.5, dtype=dtype))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", q.to_event(1))

    return model, guide


class TestWhatIsSaid:
    """Whoever prints an error that is too small says "at least", and whether the mean is flagged."""

    @pytest.fixture
    def narrow(self):
        return evidence_of(NARROWER["narrower, k = 0.82"], 500, 50)

    @pytest.fixture
    def wide(self):
        return evidence_of(WIDER["wider, 2 dimensions"], 500, 50)

    @pytest.mark.parametrize("method", ["importance", "psis"])
    def test_evaluate(self, narrow, wide, method):
        for evidence, bad in ((narrow, True), (wide, False)):
            lines = self._lines(replace(evidence, method=method))
            assert lines["standard error, Monte Carlo"].startswith("at least") == bad
            assert ("the mean are not to be trusted" in lines["flagged"]) == bad
            assert not {"mean_flagged", "bias", "rounding", "pareto_k_above", "unreliable"} & set(lines)

    def _lines(self, evidence):
        protocol = dict.fromkeys(("run", "data", "split", "weights"), "")
        return readable({**protocol, "nll": -evidence.mean, **evidence.summary(), "device": "cpu"})

    def test_evaluate_by_another_method(self):
        """An annealed estimate with loose bounds."""
        weights = torch.tensor([[0.0, 0.0], [9.0, 0.1]]).double()
        found = AnnealedEvidence(weights, torch.ones(2), "lower", Annealing(), 1, 0)
        lines = self._lines(found)
        assert lines["standard error, method"].startswith("at least") and "at least" in repr(found)
        assert "the mean are not" in lines["flagged"] and "mean_flagged" not in lines

    def test_compare(self, narrow, wide):
        table = compare({"wide": replace(wide, log_p=wide.log_p + 1), "narrow": narrow})
        assert [model.error_is_at_least for model in table.models] == [False, True]
        assert "at least" in str(table).splitlines()[2] and "at least" not in str(table).splitlines()[1]
        assert table.summary()["models"][1]["error_is_at_least"] is True

    def test_json(self, narrow, wide):
        names = ("standard_error_monte_carlo_is_at_least", "mean_flagged")
        assert [narrow.summary()[name] for name in names] == [True] * 2
        assert [wide.summary()[name] for name in names] == [False] * 2

    def test_one_draw_has_no_error_to_speak_of(self):
        nan = torch.full((3,), float("nan"))
        found = Evidence(torch.zeros(3), nan, torch.ones(3), nan, torch.zeros(3), num_particles=1, seed=0)
        assert found.unreliable == 1 and "at least" not in repr(found)


def test_the_bias_of_the_mean_is_stated():
    """Ten dimensions, 500 draws: the mean of 2000 data is 2 of its errors too low, and `bias` says by how much.

    Within 4 standard errors: false alarm 1e-4.
    """
    found = evidence_of([1.3**-2] * 10, 500, 2000)
    assert found.bias > found.standard_error_monte_carlo
    assert abs(found.mean + found.bias) < 4 * found.standard_error_monte_carlo
    assert found.summary()["bias"] == found.bias
