"""`pyro_vae.diagnostics.comparison`: paired differences by hand, what is refused, and the mixture's weights."""

import importlib.util
import math
import warnings

import pytest
import torch

from pyro_vae.data.fingerprint import fingerprint
from pyro_vae.diagnostics.comparison import compare
from pyro_vae.errors import UsageError
from pyro_vae.evidence import Evidence, log_marginal
from tests.support.guides import off_by


def evidence(log_p, error=0.0, k=0.0, **others) -> Evidence:
    log_p = torch.tensor(log_p).double()
    same = torch.ones_like(log_p)
    return Evidence(log_p, same * error, same, same * k, log_p, num_particles=5000, seed=0, **others)


A, B, C = [-100.0, -50.0, -150.0, -80.0], [-101.0, -52.0, -150.5, -81.5], [-100.5, -49.0, -151.0, -80.0]


class TestNumbers:
    result = compare({"b": evidence(B, 0.3), "c": evidence(C, 0.1, k=0.9), "a": evidence(A, 0.2)})

    def test_the_order(self):
        assert [model.name for model in self.result.models] == ["a", "c", "b"] and self.result.best == "a"
        assert self.result.num_data == 4

    def test_differences_are_paired(self):
        best, close, worst = self.result.models
        assert (best.difference, best.standard_error_difference, best.standard_error_monte_carlo) == (0, 0, 0)
        assert worst.difference == pytest.approx(-1.25) and close.difference == pytest.approx(-0.125)
        differences = torch.tensor([-1.0, -2.0, -0.5, -1.5])
        assert worst.standard_error_difference == pytest.approx(differences.std().item() / 2)
        assert worst.standard_error > 10 * worst.standard_error_difference
        assert worst.standard_error_monte_carlo == pytest.approx((4 * (0.3**2 + 0.2**2)) ** 0.5 / 4)
        assert worst.bias == pytest.approx(0.3**2 / 2)
        assert worst.is_worse and not close.is_worse and not best.is_worse

    def test_health(self):
        assert [model.flagged for model in self.result.models] == [0, 1, 0]

    def test_the_table(self):
        head, best, close, worst = str(self.result).splitlines()
        assert (
            head.split()[:3] == ["model", "rank", "log"]
            and len({len(line) for line in (head, best, close, worst)}) == 1
        )
        assert best.split()[:3] == ["a", "0", "-95.000"] and worst.split()[4:6] == ["-1.250", "0.323"]
        assert close.split()[-2] == "100.0%"

    def test_the_summary(self):
        told = self.result.summary()
        assert told["models"][2]["name"] == "b" and told["models"][2]["difference"] == pytest.approx(-1.25)

    def test_a_single_datum_has_no_error(self):
        worse = compare({"a": evidence([-1.0]), "b": evidence([-2.0])}).models[1]
        assert math.isnan(worse.standard_error_difference) and not worse.is_worse


def test_the_monte_carlo_error_is_in_the_paired_one():
    """Equal models of 4000 data with noise of 0.2 and 0.1: the error of the difference is that of the noise."""
    noise = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    log_p = torch.linspace(-200, -100, 4000)
    first, second = (evidence((log_p + s * n).tolist(), s) for s, n in zip((0.2, 0.1), noise, strict=True))
    worse = compare({"a": first, "b": second}).models[1]
    assert worse.standard_error_difference == pytest.approx(worse.standard_error_monte_carlo, rel=0.1)


def test_stacking():
    """Of two models that are each sure of their own data, the weights are the shares of the data."""
    first = torch.where(torch.arange(10) < 7, 0.0, -50.0)
    second = -50.0 - first
    weights = {
        m.name: m.weight for m in compare({"x": evidence(first.tolist()), "y": evidence(second.tolist())}).models
    }
    assert weights["x"] == pytest.approx(0.7, abs=1e-4) and sum(weights.values()) == pytest.approx(1)
    worse = compare({"x": evidence(first.tolist()), "y": evidence((first - 1).tolist())}).models[1]
    assert worse.weight < 1e-3


def elpd_of(log_p):
    """The log-densities of data in the form that ArviZ compares, of either generation."""
    import xarray

    total, n = log_p.sum().item(), len(log_p)
    error = (n * log_p.var(correction=0).item()) ** 0.5
    each = xarray.DataArray(log_p.numpy(), dims="datum")
    if importlib.util.find_spec("arviz_stats") is not None:
        from arviz_stats.utils import ELPDData

        return ELPDData("loo", total, error, 0.0, 1000, n, "log", False, 0.7, each, each * 0)
    from arviz.stats.stats_utils import ELPDData

    entries = {"elpd_loo": total, "se": error, "p_loo": 0.0, "n_samples": 1000, "n_data_points": n}
    entries |= {"warning": False, "loo_i": each, "scale": "log"}
    return ELPDData(data=list(entries.values()), index=list(entries))


def test_it_agrees_with_arviz():
    """ArviZ has sums over the data in place of means, and divides variances by N in place of N - 1."""
    draws = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)).double()
    log_p = -100 + 5 * draws[0] + torch.stack([0 * draws[0], 0.4 * draws[1] - 0.05, draws[2] - 0.3])
    log_p = log_p.float().double()  # as `evidence` takes them
    names = ("first", "second", "third")
    ours = compare({name: evidence(values.tolist()) for name, values in zip(names, log_p, strict=True)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 0.23 announces its own refactoring
        import arviz

        table = arviz.compare({name: elpd_of(values) for name, values in zip(names, log_p, strict=True)})
    assert list(table.index) == [model.name for model in ours.models]
    column, per_mean = next(name for name in table.columns if name.startswith("elpd")), (50 / 49) ** 0.5 / 50
    for model in ours.models:
        row = table.loc[model.name]
        assert model.log_p == pytest.approx(row[column] / 50)
        assert -model.difference == pytest.approx(abs(row["elpd_diff"]) / 50)
        assert model.standard_error == pytest.approx(row["se"] * per_mean)
        assert model.standard_error_difference == pytest.approx(row["dse"] * per_mean)
        assert model.weight == pytest.approx(row["weight"], abs=2e-3)


def test_of_log_marginal():
    """The exact guide and one that is off bound the same log p(x): no difference beyond the errors, which are told."""
    (good, process), (off, _) = off_by(), off_by(shift=0.5)
    x = process.sample(30, seed=1)
    found = {name: log_marginal(v.model, v.guide, x, num_particles=500) for name, v in (("good", good), ("off", off))}
    worse = compare(found).models[1]
    assert abs(worse.difference) < 5 * worse.standard_error_difference + worse.bias + 1e-6
    torch.testing.assert_close(found["good"].mean, process.log_prob(x).mean().item())
    other = log_marginal(good.model, good.guide, process.sample(30, seed=2), num_particles=500)
    with pytest.raises(UsageError, match=r"same data, .* these differ \(fingerprints good: \w{8}, other: "):
        compare({"good": found["good"], "other": other})


def test_fingerprints():
    x, c = torch.rand(4, 3), torch.rand(4)
    assert fingerprint(x, c=c, d=x) == fingerprint(x.clone(), d=x, c=c) != fingerprint(x, c=c + 1, d=x)
    assert fingerprint(x) != fingerprint(x.reshape(3, 4)) and fingerprint(x) != fingerprint(x, c)
    assert fingerprint(x, (x > 0.5)) == fingerprint(x, (x > 0.5).float())


def test_refusals():
    with pytest.raises(UsageError, match="two models or more, got 1"):
        compare({"a": evidence(A)})
    with pytest.raises(UsageError, match="same data, got a: 4, b: 2 data"):
        compare({"a": evidence(A), "b": evidence(A[:2])})
    with pytest.raises(UsageError, match="'b' is a fast estimate in bf16"):
        compare({"a": evidence(A), "b": evidence(B, precision="bf16", shift=0.1)})
