"""Scores against closed forms on probabilistic PCA, quadrature on two layers, and their definitions."""

import zlib
from functools import partial
from math import log, pi
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy.stats import gaussian_kde
from torch.distributions import MultivariateNormal, kl_divergence

from pyro_vae.autoencoders import VAE, VQVAE, HierarchicalVAE, SemiSupervisedVAE
from pyro_vae.errors import DataError, UsageError
from pyro_vae.guides import Delta
from pyro_vae.inference.best_member import Search
from pyro_vae.networks import MLP
from pyro_vae.process.seeding import seeded
from pyro_vae.tasks.scores import METHODS, score, states
from pyro_vae.tasks.scores.complexity import code_lengths
from pyro_vae.tasks.scores.methods import options_of
from tests.support.ppca import make_exact, truth, vae_of

PROCESS = truth()
X = PROCESS.sample(60, 1).double()
SMALL = {"encoder": partial(MLP, hidden=(4,)), "decoder": partial(MLP, hidden=(4,))}


@pytest.fixture(scope="module")
def exact():
    return make_exact(vae_of(PROCESS), PROCESS)


def bits(num, size=4):
    return (torch.rand(num, size, generator=torch.Generator().manual_seed(num)) < 0.5).float()


def small(seed=0):
    with seeded(seed, "init"):
        return VAE((4,), 2, **SMALL)


def close(scores, expected, errors=5.0):
    """Within 5 standard errors for each of 60 data: false alarm 4e-5."""
    assert ((scores.values - expected).abs() <= errors * scores.standard_error + 1e-9).all()


class TestProbabilisticPCA:
    def test_evidence_and_elbo_are_exact(self, exact):
        for scores in (score(exact, X, num_particles=20), score(exact, X, "elbo", num_particles=20)):
            torch.testing.assert_close(scores.values, -PROCESS.log_prob(X))
            assert scores.standard_error.max() < 1e-6

    def test_reconstruction(self, exact):
        scores = score(exact, X, "reconstruction", num_particles=2000)
        mean, covariance = PROCESS.posterior(X)
        spread = (PROCESS.weight @ covariance @ PROCESS.weight.T).diagonal()
        squares = (X - mean @ PROCESS.weight.T - PROCESS.bias).square() + spread
        elements = log(2 * pi * PROCESS.scale**2) / 2 + squares / (2 * PROCESS.scale**2)
        close(scores, elements.sum(-1))
        assert (scores.elements - elements).abs().max() < 0.5  # 360 means of 2,000 draws, sd of a draw below 4
        torch.testing.assert_close(scores.elements.sum(-1), scores.values)

    def test_rate(self, exact):
        mean, covariance = PROCESS.posterior(X)
        expected = (covariance.trace() + mean.square().sum(-1) - len(covariance) - covariance.logdet()) / 2
        close(score(exact, X, "rate", num_particles=2000), expected)

    def test_regret_of_the_exact_guide_is_none(self, exact):
        """But for the draws by which members were chosen: the guide itself cannot be improved."""
        found = score(exact, X[:20], "regret", max_steps=100)
        assert found.values.abs().max() < 0.05 and (found.values < 5 * found.standard_error + 1e-9).all()

    def test_regret_of_a_spoiled_guide_is_its_gap(self):
        """The family has the exact posterior, so what is missing is the whole gap."""
        vae = make_exact(vae_of(PROCESS), PROCESS)
        with torch.no_grad():
            vae.encoder.output.bias[:3] += 0.5
            vae.encoder.output.bias[3:6] += 0.3
        mean, covariance = PROCESS.posterior(X[:20])
        with torch.no_grad():
            gap = kl_divergence(vae.encode(X[:20]), MultivariateNormal(mean, covariance))
        found = score(vae, X[:20], "regret", num_particles=2000, search=Search())
        assert not found.flagged.any() and gap.min() > 0.1
        close(found, gap - 0.02)  # the search ends within its tolerance of 0.01 twice

    def test_typicality(self, exact):
        reference = PROCESS.sample(200, 2).double()
        expected = (PROCESS.log_prob(X) - PROCESS.log_prob(reference).mean()).abs()
        for given in (reference, score(exact, reference, num_particles=20)):
            found = score(exact, X, "typicality", reference=given, num_particles=20)
            torch.testing.assert_close(found.values, expected)

    def test_ratio_to_a_background(self, exact):
        other = truth(seed=5)
        background = make_exact(vae_of(other), other)
        found = score(exact, X, "ratio", background=background, num_particles=20)
        torch.testing.assert_close(found.values, other.log_prob(X) - PROCESS.log_prob(X))

    def test_ensemble(self, exact):
        processes = [truth(seed=s) for s in (5, 6)]
        others = [make_exact(vae_of(p), p) for p in processes]
        each = torch.stack([-p.log_prob(X) for p in (PROCESS, *processes)])
        expected = {"mean": each.mean(0), "variance": each.var(0), "waic": each.mean(0) + each.var(0)}
        for combine, values in expected.items():
            found = score(exact, X, "ensemble", others=others, combine=combine, num_particles=20)
            torch.testing.assert_close(found.values, values)

    def test_errors_of_an_ensemble(self):
        """By the delta method, against the spread over seeds: within 40 % with 60 of them (chance 1e-4)."""
        vae, others, x = small(), [small(1), small(2)], bits(2)
        runs = [score(vae, x, "ensemble", others=others, num_particles=200, seed=s) for s in range(60)]
        spread = torch.stack([run.values for run in runs]).std(0)
        stated = torch.stack([run.standard_error for run in runs]).mean(0)
        assert ((spread / stated - 1).abs() < 0.4).all()


class TestDensityOfStates:
    def test_its_definition(self):
        vae, x, reference = small(), bits(5), bits(40)
        names = ["evidence", "rate"]
        found = score(vae, x, "density_of_states", reference=reference, statistics=names, num_particles=50)
        mine, theirs = states(vae, x, num_particles=50), states(vae, reference, num_particles=50)
        expected = -sum(
            gaussian_kde(theirs.averages[n].values.numpy()).logpdf(mine.averages[n].values.numpy()) for n in names
        )
        np.testing.assert_allclose(found.values.numpy(), expected)
        again = score(vae, x, "density_of_states", reference=theirs, statistics=names, num_particles=50)
        assert torch.equal(found.values, again.values)

    def test_statistics_are_the_other_scores(self):
        vae, x = small(), bits(5)
        found = states(vae, x, num_particles=100)
        for name in ("reconstruction", "rate"):
            torch.testing.assert_close(found.averages[name].values, score(vae, x, name).values)
        rate = found.averages["cross_entropy"].values - found.averages["entropy"].values
        torch.testing.assert_close(rate, found.averages["rate"].values)
        assert (found.averages["evidence"].values <= score(vae, x, "elbo").values).all()

    def test_far_away_is_rarer_than_near(self):
        vae = small()
        reference = bits(40)
        scores = score(vae, bits(5), "density_of_states", reference=reference)
        assert scores.values.isfinite().all() and (scores.standard_error >= 0).all()

    def test_too_little_reference(self, exact):
        with pytest.raises(UsageError, match="at least 10 data"):
            score(small(), bits(5), "density_of_states", reference=bits(5))
        with pytest.raises(UsageError, match="of which it differs"):
            score(exact, X, "density_of_states", reference=X[:1].expand(20, -1), statistics=["evidence"])
        with pytest.raises(UsageError, match="expected some of evidence, reconstruction"):
            score(small(), bits(5), "density_of_states", reference=bits(20), statistics=["luck"])


class TestComplexity:
    def test_lengths(self):
        x = bits(6, 400)
        for row, length in zip(x.numpy().astype(np.uint8), code_lengths(x), strict=True):
            codes = [len(zlib.compress(r.tobytes(), 9)) - 6 for r in (row, np.packbits(row))]
            assert length.item() == pytest.approx(min(codes) * 8 * log(2))

    def test_levels_are_coded_as_bytes(self):
        levels = torch.arange(256.0).repeat(2, 2)
        assert torch.equal(code_lengths(levels), code_lengths(levels / 255))

    def test_the_score(self):
        vae, x = small(), bits(5)
        found = score(vae, x, "complexity", num_particles=50)
        torch.testing.assert_close(found.values, score(vae, x, num_particles=50).values - code_lengths(x))

    def test_refusals(self):
        with pytest.raises(DataError, match="a compressor takes bytes"):
            code_lengths(torch.tensor([[-1.0, 0.5]]))
        with pytest.raises(DataError, match="a compressor takes bytes"):
            code_lengths(torch.tensor([[300.0, 0.0]]))
        with pytest.raises(UsageError, match="takes no mask"):
            score(small(), bits(2), "complexity", mask=torch.ones(2, 4, dtype=torch.bool))


@pytest.mark.parametrize("options", [{}, {"ladder": True}, {"top_down": True, "skip": True}], ids=str)
def test_ratio_of_layers_by_quadrature(options):
    """Both bounds as integrals over a grid of (z1, z2); 5 standard errors for 3 data: false alarm 2e-6."""
    with seeded(3, "init"):
        roles = ("encoder", "decoder", "upper_encoder", "upper_decoder")
        networks = {role: partial(MLP, hidden=(4,), activation="tanh") for role in roles}
        vae = HierarchicalVAE((4,), (1, 1), ladder_width=3, **options, **networks).double()
        for p in vae.parameters():  # no layer idle, and no two alike
            p.data += 0.3 * torch.randn_like(p)
    x = bits(3).double()
    found = score(vae, x, "ratio", num_particles=4000)
    grid = torch.linspace(-8, 8, 321, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.stack([_ratio(vae, row, grid) for row in x])
    assert ((found.values - expected).abs() < 5 * found.standard_error).all()
    assert (found.standard_error < 0.1).all()


def _normal_log(params, at):
    """Log N(at; mean, log standard deviation) for parameters `[n, 2, 1]`, `[n, len(at)]`."""
    mean, log_scale = params[:, 0], params[:, 1]
    return -((at - mean) / log_scale.exp()).square() / 2 - log_scale - log(2 * pi) / 2


def _ratio(vae, x, grid):
    """L - L^{>1} of one datum; matrices are [z1, z2]."""
    step, column = grid[1] - grid[0], grid.unsqueeze(-1)
    codes = torch.stack(torch.meshgrid(grid, grid, indexing="ij"), -1) if vae.skip else column.unsqueeze(1)
    log_x = vae.decode(codes).log_prob(x)  # a matrix, or without skip a column
    prior = -grid.square() / 2 - log(2 * pi) / 2
    below = _normal_log(vae.upper_decoders[0](column), grid).T
    if vae.ladder:
        first = vae.encoders[0](x[None])
        second = vae.encoders[1](first[:, 2:]).unflatten(-1, (2, 1))
        guide2 = _normal_log(second, grid)[0].expand(len(grid), -1)
        merged = _merged(first[:, :2].unflatten(-1, (2, 1)), vae.upper_decoders[0](column))
        guide1 = _normal_log(merged, grid).T
    elif vae.top_down:
        guide2 = _normal_log(vae.encoders[1](x[None]), grid)[0].expand(len(grid), -1)
        guide1 = _normal_log(vae.encoders[0](x.expand(len(grid), -1), column), grid).T
    else:
        guide1 = _normal_log(vae.encoders[0](x[None]), grid)[0].unsqueeze(-1)
        guide2 = _normal_log(vae.encoders[1](column), grid)
    guide = (guide1 + guide2).exp() * step**2
    assert abs(guide.sum() - 1) < 1e-4
    elbo = (guide * (log_x + below + prior - guide1 - guide2)).sum()
    from_prior = (below.exp() * step * log_x).sum(0)
    return elbo - (guide * (from_prior + prior - guide2)).sum()


def _merged(estimate, above):
    precision = [(-2 * p[:, 1]).exp() for p in (estimate, above)]
    mean = (estimate[:, 0] * precision[0] + above[:, 0] * precision[1]) / sum(precision)
    return torch.stack([mean, -sum(precision).log() / 2], 1)


class TestInGeneral:
    OPTIONS: ClassVar = {
        "typicality": {"reference": bits(20)},
        "density_of_states": {"reference": bits(20)},
        "ensemble": {"others": [small(1)]},
        "ratio": {"background": small(1)},
        "regret": {"max_steps": 50, "selection": 4},
    }

    @pytest.mark.parametrize("method", METHODS)
    def test_a_datum_does_not_depend_on_those_after_it(self, method):
        vae, x, told = small(), bits(60), []
        options = {"num_particles": 20, **self.OPTIONS.get(method, {})}
        scores = score(vae, x, method, progress=told.append, **options)
        alone = score(vae, x[:7], method, **options)
        torch.testing.assert_close(scores.values[:7], alone.values, atol=1e-5, rtol=1e-5)
        assert scores.method == method and len(scores) == 60 and told[-1] == 60
        assert torch.equal(scores.values, score(vae, x, method, **options).values)
        assert repr(scores).startswith(f"Scores({method}: mean ") and "\n" not in repr(scores)
        assert scores.summary()["num_data"] == 60 and scores.values.dtype == torch.float64
        assert set(options) <= set(options_of(method))
        worst = scores.values.argmax()
        assert scores.most_anomalous(3)[0] == worst

    @pytest.mark.parametrize("method", ["evidence", "elbo", "reconstruction", "rate", "density_of_states"])
    def test_any_autoencoder(self, method):
        x = bits(12)
        options = {"reference": x} if method == "density_of_states" else {}
        with seeded(0, "init"):
            models = [HierarchicalVAE((4,), (2, 1)), SemiSupervisedVAE((4,), classes=2, latent_dim=2, **SMALL)]
        for vae in models:
            assert score(vae, x, method, num_particles=20, **options).values.isfinite().all()

    @pytest.mark.parametrize("method", ["evidence", "elbo", "reconstruction", "rate", "regret"])
    def test_what_is_not_observed_counts_nothing(self, method):
        options = {"num_particles": 20, **self.OPTIONS.get(method, {})}
        mask = bits(9) < 1
        x, other = bits(9), torch.where(mask, bits(9), 1 - bits(9))
        a, b = (score(small(), data, method, mask=mask, **options) for data in (x, other))
        assert torch.equal(a.values, b.values)
        if a.elements is not None:
            assert (a.elements[~mask] == 0).all() and (a.elements[mask] > 0).all()

    def test_context(self):
        with seeded(0, "init"):
            vae = VAE((4,), 2, context=(3,), **SMALL)
        c = torch.eye(3)[[0, 1, 2, 0]]
        scores = score(vae, bits(4), "reconstruction", c=c)
        assert not torch.equal(scores.values, score(vae, bits(4), "reconstruction", c=c.flip(0)).values)
        with pytest.raises(UsageError, match="so must the reference"):
            score(vae, bits(4), "typicality", reference=bits(20), c=c)

    def test_a_guide_that_is_a_point(self):
        with seeded(0, "init"):
            vae = VAE((4,), 2, guide=Delta, **SMALL)
        scores = score(vae, bits(3), "reconstruction")
        assert scores.values.isfinite().all() and scores.standard_error.max() < 1e-6
        for method in ("elbo", "rate", "regret", "density_of_states"):
            with pytest.raises(UsageError, match="score by 'reconstruction'"):
                score(vae, bits(3), method, **({"reference": bits(20)} if method == "density_of_states" else {}))

    def test_discrete_codes_have_a_bound(self):
        with seeded(0, "init"):
            vae = VQVAE((4,), codes=(2,), codebook_size=3, **SMALL)
        elbo, rate = (score(vae, bits(3), name).values for name in ("elbo", "rate"))
        torch.testing.assert_close(elbo - score(vae, bits(3), "reconstruction").values, rate)
        with pytest.raises(UsageError, match="a VQVAE has not"):
            score(vae, bits(3), "regret")

    def test_refusals(self):
        with pytest.raises(UsageError, match="did you mean 'evidence'"):
            score(small(), bits(3), "evidense")
        with pytest.raises(UsageError, match="did you mean 'num_particles'"):
            score(small(), bits(3), "elbo", num_particle=3)
        with pytest.raises(UsageError, match="at least 2"):
            score(small(), bits(3), "elbo", num_particles=1)
        with pytest.raises(UsageError, match="come in pairs"):
            score(small(), bits(3), "regret", num_particles=5)
        with pytest.raises(UsageError, match="needs reference="):
            score(small(), bits(3), "typicality")
        with pytest.raises(UsageError, match="expected scores by 'evidence'"):
            score(small(), bits(3), "typicality", reference=score(small(), bits(3), "elbo"))
        with pytest.raises(UsageError, match="at least one further model"):
            score(small(), bits(3), "ensemble", others=[])
        with pytest.raises(UsageError, match="or pass background="):
            score(small(), bits(3), "ratio")
        with pytest.raises(UsageError, match="above is 2"):
            score(HierarchicalVAE((4,), (2, 1)), bits(3), "ratio", above=2)
        with pytest.raises(DataError, match="expected shape"):
            score(small(), bits(3, 5), "elbo")
        with pytest.raises(DataError, match=r"reference: expected shape \[M >= 1, 4\]"):
            score(small(), bits(3), "typicality", reference=bits(3, 5))
        with pytest.raises(DataError, match="at least one datum"):
            score(small(), bits(3)[:0], "elbo")
