"""Clusters of a mixture prior, where they start, and their scores, against their definitions."""

import sys
from functools import partial
from itertools import combinations, permutations
from math import log

import pytest
import torch
from torch.distributions import Normal as TorchNormal

from pyro_vae.autoencoders import VAE
from pyro_vae.data import load_data
from pyro_vae.errors import DataError, MissingPackage, UsageError
from pyro_vae.evidence import bound
from pyro_vae.networks import MLP
from pyro_vae.objectives import ELBO
from pyro_vae.priors import MixtureOfNormals, VampPrior
from pyro_vae.process.seeding import derive_seed, seeded
from pyro_vae.tasks.clustering import ClusteringScores, _codes, _mixture, cluster, clustering_scores, with_clusters
from pyro_vae.training.fitting import fit
from tests.cli.test_cli import FAST, call

SMALL, THREE = partial(MLP, hidden=(16,)), partial(MixtureOfNormals, components=3)


def make(prior=THREE, latent=2):
    with seeded(0, "init"):
        return VAE((8, 8), latent, prior=prior, encoder=SMALL, decoder=SMALL)


class TestCluster:
    def test_expectation_over_the_guide(self):
        """Against quadrature over a one-dimensional code; off by less than 5 of the sampling's standard errors."""
        vae, x = make(latent=1), torch.rand(4, 8, 8).round()
        found = cluster(vae, x, num_particles=4000)
        grid = torch.linspace(-12, 12, 20_001).unsqueeze(-1)
        with torch.no_grad():
            guide = vae.encode(x)
            density = TorchNormal(guide.mean, guide.stddev).log_prob(grid.T).exp()
            share = vae.prior.responsibilities(grid)
            expected = density @ share * (grid[1] - grid[0])
        assert (found.probabilities - expected).abs().max() < 5 * 0.5 / 4000**0.5
        assert torch.equal(found.assignments, found.probabilities.argmax(-1))
        torch.testing.assert_close(found.probabilities.sum(-1), torch.ones(4))

    def test_draws_are_the_seed_s(self):
        vae, x = make(), torch.rand(5, 8, 8).round()
        first, again, other = (cluster(vae, x, seed=seed).probabilities for seed in (0, 0, 1))
        assert torch.equal(first, again) and not torch.equal(first, other)

    def test_vamp_prior_has_components_too(self):
        assert cluster(make(partial(VampPrior, components=4)), torch.zeros(2, 8, 8)).probabilities.shape == (2, 4)

    def test_refusals(self):
        with pytest.raises(UsageError, match="StandardNormal, which has no components"):
            cluster(VAE((8, 8), 2), torch.zeros(2, 8, 8))
        with pytest.raises(UsageError, match="num_particles"):
            cluster(make(), torch.zeros(2, 8, 8), num_particles=0)
        with pytest.raises(DataError, match="expected shape"):
            cluster(make(), torch.zeros(2, 8))


def brute_force(assignments, labels):
    """The scores by their definitions: all matchings, all pairs."""
    a, b, n = assignments.tolist(), labels.tolist(), len(labels)
    names = range(max(a + b) + 1)
    hits = max(sum(p[k] == c for k, c in zip(a, b, strict=True)) for p in permutations(names))
    pairs = [(a[i] == a[j], b[i] == b[j]) for i, j in combinations(range(n), 2)]
    both, one, other = (sum(f(p) for p in pairs) for f in (all, lambda p: p[0], lambda p: p[1]))
    chance = one * other / len(pairs)
    ari = (both - chance) / ((one + other) / 2 - chance)

    def entropy(values):
        shares = [values.count(v) / n for v in set(values)]
        return -sum(s * log(s) for s in shares)

    information = entropy(a) + entropy(b) - entropy(list(zip(a, b, strict=True)))
    return hits / n, 2 * information / (entropy(a) + entropy(b)), ari


class TestScores:
    def test_by_hand(self):
        """Counts [[2, 1], [0, 1]]: accuracy 3/4; pairs: 1 in both, 3 and 3 in one, chance 3 * 3 / 6."""
        scores = clustering_scores(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1, 1]))
        assert scores.accuracy == 0.75 and scores.num_data == 4
        assert scores.standard_error == pytest.approx((0.75 * 0.25 / 4) ** 0.5)
        assert scores.ari == pytest.approx((1 - 3 * 2 / 6) / ((3 + 2) / 2 - 3 * 2 / 6))
        h_clusters, h_classes = -(0.75 * log(0.75) + 0.25 * log(0.25)), log(2)
        h_both = -(0.5 * log(0.5) + 2 * 0.25 * log(0.25))
        assert scores.nmi == pytest.approx(2 * (h_clusters + h_classes - h_both) / (h_clusters + h_classes))

    @pytest.mark.parametrize("clusters", [2, 4, 5])
    def test_brute_force(self, clusters):
        with seeded(clusters, "scores"):
            a, b = torch.randint(clusters, (23,)), torch.randint(4, (23,))
        scores = clustering_scores(a, b)
        assert (scores.accuracy, scores.nmi, scores.ari) == pytest.approx(brute_force(a, b))

    def test_numbering_does_not_matter(self):
        labels = torch.arange(30) % 3
        renamed = torch.tensor([2, 0, 7])[labels]
        assert clustering_scores(renamed, labels) == ClusteringScores(1.0, pytest.approx(1.0), 1.0, 30)

    def test_trivial_partitions(self):
        one, all_, half = torch.zeros(6, dtype=torch.long), torch.arange(6), torch.arange(6) // 3
        for same in (one, all_, one[:1]):
            scores = clustering_scores(same, same)
            assert (scores.accuracy, scores.nmi, scores.ari) == pytest.approx((1.0, 1.0, 1.0))
        scores = clustering_scores(one, half)
        assert (scores.accuracy, scores.nmi, scores.ari) == pytest.approx((0.5, 0.0, 0.0))

    def test_refusals(self):
        for a, b in (([0, 1], [0]), ([], []), ([0, -1], [0, 1])):
            with pytest.raises(DataError, match="expected a cluster and a class from 0"):
                clustering_scores(torch.tensor(a), torch.tensor(b))


class TestStart:
    def test_em_finds_separate_normals(self):
        """Weights, means and scales of 3 far normals: within 5 standard errors of 3000 data, false alarm below 1e-5."""
        loc = torch.tensor([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]], dtype=torch.float64)
        scale, weights = torch.tensor([0.5, 1.0, 1.5]), torch.tensor([0.5, 0.3, 0.2])
        with seeded(0, "em"):
            which = torch.multinomial(weights, 3000, replacement=True)
            z = loc[which] + scale[which].unsqueeze(-1) * torch.randn(3000, 2, dtype=torch.float64)
        found = _mixture(z, 3, restarts=5, steps=100, seed=0)
        order = torch.cdist(loc, found.loc).argmin(-1)
        assert sorted(order.tolist()) == [0, 1, 2]
        error = scale / (3000 * weights).sqrt()
        assert ((found.loc[order] - loc).abs() < 5 * error.unsqueeze(-1)).all()
        assert ((found.variance[order].sqrt() - scale.unsqueeze(-1)).abs() < 5 * error.unsqueeze(-1)).all()
        assert ((found.log_weights[order].exp() - weights).abs() < 5 * (0.25 / 3000) ** 0.5).all()

    def test_more_starts_and_steps_climb(self):
        with seeded(0, "climb"):
            z = 3 * torch.randn(200, 3, dtype=torch.float64) + 100
        found = [_mixture(z, 4, restarts, steps, seed=0).likelihood for restarts, steps in ((1, 1), (1, 5), (10, 50))]
        assert found == sorted(found) and found[0] < found[-1]

    def test_maximum_likelihood_of_one_component(self):
        """The mean and the variance, but for the added thousandth; of one datum, too."""
        with seeded(0, "one"):
            z = torch.randn(50, 2, dtype=torch.float64) * torch.tensor([1e-3, 1e3]) + 7
        found = _mixture(z, 1, 1, 10, seed=0)
        torch.testing.assert_close(found.loc[0], z.mean(0))
        torch.testing.assert_close(found.variance[0], 1.001 * z.var(0, correction=0))
        torch.testing.assert_close(_mixture(z[:1], 1, 1, 10, seed=0).loc, z[:1])

    def test_the_likelihood_is_the_prior_s(self):
        """What EM maximised is the new prior's mean log-density of the codes; so the KL from it falls."""
        vae, x = make(prior=partial(MixtureOfNormals, components=1)), torch.rand(600, 8, 8).round()
        clustered = with_clusters(vae, x, components=4, seed=1)
        assert clustered.arguments["prior"].keywords == {"components": 4} and not clustered.training
        assert all(
            torch.equal(a, b) for a, b in zip(vae.encoder.parameters(), clustered.encoder.parameters(), strict=True)
        )
        z = torch.cat([tile[0] for tile in _codes(vae, x, None, 1, seed=1)])
        expected = _mixture(z.double(), 4, 10, 100, derive_seed(1, "clusters") % 2**32).likelihood
        assert clustered.prior().log_prob(z).mean().item() == pytest.approx(expected, abs=1e-5)
        before, after = (bound(v.model, v.guide, x, num_particles=50).kl.mean() for v in (vae, clustered))
        assert after < before

    def test_refusals(self):
        x = torch.zeros(5, 8, 8)
        for options in ({"components": 6}, {"components": 0}, {"restarts": 0}, {"steps": 0}):
            with pytest.raises(UsageError, match="from 1 to 5 components"):
                with_clusters(make(), x, **options)
        with pytest.raises(UsageError, match="without a context"):
            with_clusters(VAE((8, 8), 2, context=(3,)), x, components=2)

    def test_equal_codes(self):
        """Codes that are all but equal give a mixture with finite parameters."""
        assert _mixture(torch.ones(20, 2, dtype=torch.float64), 3, 2, 5, seed=0).likelihood < float("inf")

    def test_without_scikit_learn_the_extra_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "sklearn.mixture", None)
        with pytest.raises(MissingPackage, match=r"with_clusters needs scikit-learn, .*'pyro-vae\[sklearn\]'"):
            with_clusters(make(), torch.zeros(5, 8, 8), components=2)


def test_digits():
    """The recipe on the packaged digits: more than 60 % right by 10 clusters (chance: 15 %), all of them in use."""
    data = load_data("digits", binarize="threshold")
    network = partial(MLP, hidden=(64,))
    with seeded(0, "init"):
        vae = VAE((8, 8), 8, encoder=network, decoder=network)
    adam = partial(torch.optim.Adam, lr=3e-3)
    fit(vae, data, ELBO(), epochs=20, optimizer=adam, progress=False, compile=False)
    vae = with_clusters(vae, data, components=10)
    fit(vae, data, ELBO(), epochs=5, optimizer=adam, progress=False, compile=False)
    found = cluster(vae, data.split("test"))
    scores = clustering_scores(found.assignments, data.labels["test"])
    assert found.num_used == 10 and scores.accuracy > 0.6 and scores.nmi > 0.5


def test_command(tmp_path):
    run = tmp_path / "run"
    mixture = "--vae.prior MixtureOfNormals --vae.prior.components 3"
    assert call("fit --data digits --binarize threshold --epochs 1 --run", run, FAST, mixture).code == 0
    result = call("cluster", run, "--json").json
    assert result["num"] == 200 == sum(result["sizes"]) and len(result["sizes"]) == 3
    assert (result["num_particles"], result["seed"]) == (10, 0)
    assert 0 < result["accuracy"] < 0.5 and {"nmi", "ari", "standard_error"} <= set(result)
    assert (run / "clusters-test.npz").exists() and "accuracy" in call("cluster", run).out
