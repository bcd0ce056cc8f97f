"""`Mixed`: the density of each kind against scipy, units taken from data, what encoders get, best values, messages."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import special, stats

from pyro_vae import VAE, HierarchicalVAE, SemiSupervisedVAE, fit, log_marginal, reconstruct, sample
from pyro_vae.errors import DataError, UsageError
from pyro_vae.likelihoods import Mixed
from pyro_vae.networks import MLP
from pyro_vae.objectives import ELBO, SemiSupervisedELBO
from pyro_vae.priors import VampPrior
from pyro_vae.process.seeding import seeded
from pyro_vae.shapes import Shapes

KINDS = ("real", "positive", "count", "category:3", "ordered:4", "binary")
SMALL = partial(MLP, hidden=(16,))


def table(n=400, seed=0):
    """One column of each kind, of very different scales, that share a factor."""
    with seeded(seed, "table"):
        u = torch.randn(n)
        columns = [
            5000 + 300 * (u + 0.5 * torch.randn(n)),
            (-6 + 0.8 * u + 0.3 * torch.randn(n)).exp(),
            torch.poisson((3 + 0.4 * u).exp()),
            torch.bucketize(u + 0.7 * torch.randn(n), torch.tensor([0.3, 1.5])).float(),
            torch.bucketize(u + 0.7 * torch.randn(n), torch.tensor([-1.0, 0.0, 2.0])).float(),
            (u + torch.randn(n) > 1).float(),
        ]
    return torch.stack(columns, 1)


def one(kind, columns=1, **options):
    return Mixed(Shapes((columns,), 2), kinds=(kind,), **options).double()


def started(kind, x, **options):
    likelihood = one(kind, **options)
    likelihood.start_from([(x.double().unsqueeze(-1), None)])
    return likelihood


def log_density(likelihood, params, x):
    """Log p of values `[n]` of one column, all with the same parameters."""
    x = torch.as_tensor(np.asarray(x, dtype=float)).unsqueeze(-1)
    with torch.no_grad():
        return likelihood(torch.tensor(params, dtype=torch.float64)).log_prob(x).squeeze(-1).numpy()


class TestAgainstScipy:
    @pytest.mark.parametrize("scale", [0.7, "learned", "per_element"])
    def test_real(self, scale):
        likelihood = started("real", table()[:, 0], scale=scale)
        m, s = table()[:, 0].double().mean().item(), table()[:, 0].double().std(correction=0).item()
        params = [0.4, -0.3] if scale == "per_element" else [0.4]
        size = {0.7: 0.7, "learned": 1.001, "per_element": math.exp(-0.3) + 1e-3}[scale]
        x = np.linspace(3000, 7000, 9)
        expected = stats.norm.logpdf(x, m + s * 0.4, s * size)
        np.testing.assert_allclose(log_density(likelihood, params, x), expected, rtol=1e-9)

    @pytest.mark.parametrize("scale", [0.7, "per_element"])
    def test_positive(self, scale):
        x = table()[:, 1]
        likelihood = started("positive", x, scale=scale)
        m, s = x.double().log().mean().item(), x.double().log().std(correction=0).item()
        params = [0.4, -0.3] if scale == "per_element" else [0.4]
        size = s * (0.7 if scale == 0.7 else math.exp(-0.3) + 1e-3)
        x = np.geomspace(1e-5, 1, 9)
        law = stats.lognorm(size, scale=math.exp(m + s * 0.4))
        np.testing.assert_allclose(log_density(likelihood, params, x), law.logpdf(x), rtol=1e-9)
        found = likelihood(torch.tensor(params, dtype=torch.float64))
        np.testing.assert_allclose([found.mean.item(), found.variance.item()], [law.mean(), law.var()], rtol=1e-9)

    @pytest.mark.parametrize("dispersion", [2.5, "per_element"])
    def test_count(self, dispersion):
        x = table()[:, 2]
        likelihood = started("count", x, dispersion=dispersion)
        theta = 2.5 if dispersion == 2.5 else math.exp(0.6)
        mean = x.double().mean().item() * math.exp(0.3)
        found = log_density(likelihood, [0.3] if dispersion == 2.5 else [0.3, 0.6], np.arange(60))
        np.testing.assert_allclose(found, stats.nbinom.logpmf(np.arange(60), theta, theta / (theta + mean)), rtol=1e-9)

    def test_category(self):
        x = table()[:, 3]
        likelihood, params = started("category:3", x), np.array([0.2, -1.0, 3.0])
        counts = np.bincount(x.int().numpy(), minlength=3)
        frequencies = (counts + 0.5) / (len(x) + 1.5)
        expected = params + np.log(frequencies) - special.logsumexp(params + np.log(frequencies))
        np.testing.assert_allclose(log_density(likelihood, list(params), [0, 1, 2]), expected, rtol=1e-6)

    def test_ordered_is_a_cumulative_logit(self):
        x = table()[:, 4]
        likelihood, location = started("ordered:4", x), 0.8
        counts = np.bincount(x.int().numpy(), minlength=4)
        cuts = special.logit(np.cumsum((counts + 0.5) / (len(x) + 2))[:-1])
        below = np.array([0, *special.expit(cuts - location), 1])
        np.testing.assert_allclose(log_density(likelihood, [location], range(4)), np.log(np.diff(below)), rtol=1e-6)

    def test_binary(self):
        x = table()[:, 5]
        logit = special.logit((x.sum().item() + 0.5) / (len(x) + 1)) - 0.7
        found = log_density(started("binary", x), [-0.7], [0, 1])
        np.testing.assert_allclose(found, stats.bernoulli.logpmf([0, 1], special.expit(logit)), rtol=1e-6)

    def test_columns_are_put_where_they_belong(self):
        """Kinds in turn and several of a kind: the density of each column is that of the column alone."""
        kinds = ("binary", "real", "category:3", "real", "binary", "category:2", "real", "category:3")
        with seeded(3, "x"):
            whole = Mixed(Shapes((2, 4), 2), kinds=kinds).double()
            params = torch.randn(5, *whole.param_shape, dtype=torch.float64)
            x = whole(params).sample()
        own = dict.fromkeys(kinds)
        for kind, part in zip(own, whole.split(params), strict=True):
            own[kind] = iter(part.unbind(-2))
        with torch.no_grad():
            found = whole(params).log_prob(x).flatten(1)
            for i, kind in enumerate(kinds):
                alone = one(kind)(next(own[kind])).log_prob(x.flatten(1)[:, i : i + 1])
                torch.testing.assert_close(found[:, i : i + 1], alone)


class TestUnits:
    @pytest.mark.parametrize("options", [{}, {"scale": "per_element", "dispersion": "per_element"}], ids=str)
    def test_a_decoder_of_zeros_has_the_means_of_the_data(self, options):
        x = table()
        likelihood = Mixed(Shapes((6,), 2), kinds=KINDS, **options)
        likelihood.start_from([(x[:150], None), (x[150:], None)])
        p = likelihood(torch.zeros(likelihood.param_shape))
        kept = torch.tensor([0, 2, 3, 4, 5])
        spread = x.std(0) / len(x) ** 0.5  # half a datum is added to each level
        assert ((p.mean - x.mean(0)).abs() < 0.5 * spread)[kept].all()
        assert p.parts[1].loc.item() == pytest.approx(x[:, 1].log().mean().item(), rel=1e-5)
        start = likelihood.initial_params(x.mean(0), x.std(0))
        assert torch.allclose(likelihood(start).mean, x.mean(0), rtol=1e-3)

    def test_gaps_count_for_nothing_and_the_cut_does_not_matter(self):
        x = table()
        with seeded(1, "mask"):
            mask = torch.rand(x.shape) < 0.6
        gappy, whole = (Mixed(Shapes((6,), 2), kinds=KINDS) for _ in range(2))
        parts = zip(torch.where(mask, x, torch.nan).split(37), mask.split(37), strict=True)
        gappy.start_from(parts)
        for i in range(6):
            alone = one(KINDS[i])
            alone.start_from([(x[mask[:, i], i : i + 1].double(), None)])
            for (name, got), expected in zip(gappy.columns[i].named_buffers(), alone.columns[0].buffers(), strict=True):
                torch.testing.assert_close(got.double(), expected, msg=name, rtol=1e-5, atol=1e-6)
        whole.start_from([(torch.full_like(x, torch.nan), torch.zeros_like(mask))])
        assert whole(torch.zeros(whole.param_shape)).log_prob(x).isfinite().all()  # a column without any value

    def test_what_the_encoder_gets(self):
        x = table()
        likelihood = Mixed(Shapes((6,), 2), kinds=KINDS)
        likelihood.start_from([(x, None)])
        got = likelihood.encoder_input(x)
        assert got.shape == (400, 8) == (400, *likelihood.input_shape)
        units = torch.tensor([0, 1, 2, 6, 7])
        assert torch.allclose(got.mean(0)[units], torch.zeros(5), atol=0.02)
        assert torch.allclose(got.std(0)[units], torch.ones(5), atol=0.02)
        assert torch.equal(got[:, 3:6], torch.nn.functional.one_hot(x[:, 3].long(), 3).float())
        mask = torch.tensor([True, False, True, False, True, True])
        hidden = likelihood.encoder_input(torch.where(mask, x, 1.0), mask)
        assert (hidden[:, [1, 3, 4, 5]] == 0).all() and torch.equal(hidden[:, [0, 2, 6, 7]], got[:, [0, 2, 6, 7]])

    def test_between_codes_it_can_be_learned(self):
        """As the pseudo-inputs of VampPrior are: gradients reach a category too."""
        likelihood = one("category:3")
        x = torch.tensor([[0.25], [1.0]], dtype=torch.float64, requires_grad=True)
        got = likelihood.encoder_input(x)
        torch.testing.assert_close(got, torch.tensor([[0.75, 0.25, 0.0], [0.0, 1.0, 0.0]]).double())
        got[0, 1].backward()
        assert x.grad[0, 0] == 1


class TestBest:
    def test_a_category_is_the_most_probable_on_average(self):
        likelihood = one("category:3")
        logits = torch.tensor([[0.5, 0.4, 0.1], [0.1, 0.45, 0.45]]).double().log()  # of two codes
        averages = likelihood.averaged(likelihood(logits).to_event(1)).mean(0)
        assert likelihood.best(averages).item() == 1  # neither code alone has it, nor a rounded mean code of 0.98

    def test_other_columns_have_their_mean(self):
        likelihood = Mixed(Shapes((6,), 2), kinds=KINDS)
        params = torch.randn(7, *likelihood.param_shape)
        p = likelihood(params)
        best = likelihood.best(likelihood.averaged(p.mask(True).to_event(1)))
        kept = [0, 1, 2, 4, 5]
        assert torch.equal(best[:, kept], p.mean[:, kept])
        assert torch.equal(best[:, 3], likelihood.split(params)[3].squeeze(1).argmax(-1).float())


class TestRefusals:
    @pytest.mark.parametrize(
        ("column", "value", "said"),
        [
            (0, math.inf, "column 1 is real: finite numbers"),
            (1, 0.0, "column 2 is positive: numbers above 0"),
            (2, 1.5, "column 3 is count: whole numbers from 0"),
            (2, -1.0, "column 3 is count: whole numbers from 0"),
            (3, 3.0, "column 4 is category:3: whole numbers from 0 to 2"),
            (4, 0.5, "column 5 is ordered:4: whole numbers from 0 to 3"),
            (5, 2.0, "column 6 is binary: 0 and 1"),
        ],
    )
    def test_data_outside(self, column, value, said):
        x = table(5)
        x[2, column] = value
        with pytest.raises(DataError) as caught:
            Mixed(Shapes((6,), 2), kinds=KINDS).check(x)
        assert said in str(caught.value) and f"the first is {value:g} at (2, {column})" in str(caught.value)

    @pytest.mark.parametrize("kind", ["", "Real", "category", "category:1", "ordered:x", "real:3", "ordered:10001", 3])
    def test_unknown_kinds(self, kind):
        with pytest.raises(UsageError, match="kinds: expected one of real, positive, count, binary, category:C"):
            Mixed(Shapes((6,), 2), kinds=(kind,))

    def test_number_of_kinds(self):
        with pytest.raises(UsageError, match="expected one for each of 6 columns, or one for all, got 2"):
            Mixed(Shapes((6,), 2), kinds=("real", "binary"))
        with pytest.raises(UsageError, match="expected a list of texts"):
            Mixed(Shapes((6,), 2), kinds="real")
        assert str(Mixed(Shapes((2,), 2)).kinds[1]) == "real"

    def test_standardising(self):
        with pytest.raises(UsageError, match="is for real data and a likelihood without bounds"):
            VAE((6,), 2, likelihood=partial(Mixed, kinds=KINDS), standardize=True)


PARTS = {"likelihood": partial(Mixed, kinds=KINDS), "encoder": SMALL, "decoder": SMALL}
MAKERS = {
    "VAE": partial(VAE, (6,), 2, **PARTS),
    "VampPrior": partial(VAE, (6,), 2, prior=partial(VampPrior, components=5, bounds=None), **PARTS),
    "HierarchicalVAE": partial(HierarchicalVAE, (6,), (3, 2), **PARTS),
    "SemiSupervisedVAE": partial(SemiSupervisedVAE, (6,), 2, 2, classifier=SMALL, **PARTS),
}


@pytest.mark.parametrize("name", MAKERS)
def test_trains_in_any_autoencoder(name):
    """With a better bound on log p(x) than independent columns have log p(x), whose best fit is known."""
    x = table()
    with seeded(0, "init"):
        vae = MAKERS[name]()
    objective, adam = SemiSupervisedELBO() if vae.classes else ELBO(), partial(torch.optim.Adam, lr=0.01)
    fit(vae, x, objective, epochs=15, batch_size=50, optimizer=adam, start_at_mean=True, progress=False, compile=False)
    mean, variance = x[:, 2].mean().item(), x[:, 2].var().item()
    independent = Mixed(Shapes((6,), 2), kinds=KINDS, dispersion=mean**2 / (variance - mean))
    independent.start_from([(x, None)])
    with torch.no_grad():
        reference = independent(torch.zeros(independent.param_shape)).log_prob(x).sum(1)
    evidence = log_marginal(vae.model, vae.guide, x[:100], num_particles=100)
    assert evidence.mean > reference[:100].mean() + 1
    drawn = sample(vae, 30)
    vae.likelihood.check(drawn.x)
    back = reconstruct(vae, x[:20], num_particles=3)
    assert back.shape == (20, 6) and torch.equal(back[:, 3], back[:, 3].round())
