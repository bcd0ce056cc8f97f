"""Training on data with gaps: bounds of what was observed, and MIWAE, which is `IWAE` with a mask."""

from functools import partial

import pytest
import torch
from torch.distributions import MultivariateNormal

from pyro_vae.autoencoders import VAE
from pyro_vae.data import Dataset, LinearGaussian, as_dataset
from pyro_vae.diagnostics.predictive import posterior_predictive_check
from pyro_vae.errors import DataError, UsageError
from pyro_vae.evidence import log_marginal
from pyro_vae.guides import FullNormal
from pyro_vae.likelihoods import Bernoulli, Mixed, Normal
from pyro_vae.networks import MLP
from pyro_vae.objectives import ELBO, IWAE
from pyro_vae.priors import MixtureOfNormals, VampPrior
from pyro_vae.process.seeding import seeded
from pyro_vae.tasks import cluster, impute
from pyro_vae.training import steps
from pyro_vae.training.fitting import fit
from pyro_vae.training.refit import refit_prior
from tests.support.ppca import truth, vae_of

QUIET = {"progress": False, "compile": False}


def with_gaps(x, share=0.5, seed=0):
    """The data with nan in each element with a probability."""
    generator = torch.Generator().manual_seed(seed)
    return x.masked_fill(torch.rand(x.shape, generator=generator) < share, torch.nan)


def exact_log_p(process, x):
    """Log p of the observed elements of each datum under a linear Gaussian process."""
    covariance = process.weight @ process.weight.T + process.scale**2 * torch.eye(len(process.weight)).to(x)
    found = []
    for row in x:
        seen = ~row.isnan()
        of_seen = MultivariateNormal(process.bias[seen], covariance[seen][:, seen]) if seen.any() else None
        found.append(torch.zeros((), dtype=x.dtype) if of_seen is None else of_seen.log_prob(row[seen]))
    return torch.stack(found)


def vae_with(x, seed=0, **options):
    with seeded(seed, "init"):
        return VAE(tuple(x.shape[1:]), 2, **{"likelihood": Normal, **options})


class TestBounds:
    """Sums over the observed terms."""

    def test_an_elbo_is_the_sum_of_the_observed_terms(self):
        x = with_gaps(torch.randn(7, 4, generator=torch.Generator().manual_seed(1)))
        vae, mask = vae_with(x), ~x.isnan()
        with seeded(0, "draw"):
            z = vae.encode(x, mask).rsample()
        terms = vae.decode(z).base_dist.log_prob(x.nan_to_num())
        q, p = vae.encode(x, mask).log_prob(z), vae.prior_distribution().log_prob(z)
        with seeded(0, "draw"):
            loss = ELBO()(vae.model, vae.guide, x, mask=mask)
        assert torch.allclose(-loss, terms[mask].sum() + (p - q).sum(), rtol=1e-5)

    def test_iwae_is_that_of_the_observed_terms(self):
        x = with_gaps(torch.randn(7, 4, generator=torch.Generator().manual_seed(1)))
        vae, mask = vae_with(x), ~x.isnan()
        with seeded(0, "draw"):
            z = vae.encode(x, mask).rsample((5,))
        terms = torch.where(mask, vae.decode(z).base_dist.log_prob(x.nan_to_num()), 0.0).sum(-1)
        weights = terms + vae.prior_distribution().log_prob(z) - vae.encode(x, mask).log_prob(z)
        expected = (weights.logsumexp(0) - torch.tensor(5.0).log()).sum()
        with seeded(0, "draw"):
            loss = IWAE(num_particles=5)(vae.model, vae.guide, x, mask=mask)
        assert torch.allclose(-loss, expected, rtol=1e-5)

    def test_the_evidence_of_linear_models_is_exact(self):
        """By draws of the prior; 4 standard errors, a false alarm in some 1,000 seeds."""
        process = truth()
        x = with_gaps(process.sample(10, 3).double())
        x[0] = torch.nan
        vae = vae_of(process)
        for p in vae.encoder.parameters():
            torch.nn.init.zeros_(p)
        found = log_marginal(vae.model, vae.guide, x, num_particles=2000, mask=~x.isnan())
        expected = exact_log_p(process, x)
        assert expected[0] == 0  # nothing observed
        assert ((found.log_p - expected).abs() < 4 * found.standard_error + 1e-9).all()


class TestFit:
    """`fit` with a mask."""

    @pytest.mark.parametrize("objective", [ELBO(), IWAE(num_particles=3)], ids=["ELBO", "IWAE"])
    def test_all_observed_trains_to_the_bits_of_no_mask(self, objective):
        x = torch.randn(60, 4, generator=torch.Generator().manual_seed(1))
        kept = []
        for data in (Dataset("x", x, x[:10]), Dataset("x", x, x[:10], inputs=observed_all(x, x[:10]))):
            vae = vae_with(x, standardize=True)
            history = fit(vae, data, objective, epochs=2, batch_size=25, start_at_mean=True, **QUIET)
            kept.append((vae.state_dict(), history.rows[-1]["valid_loss"]))
        (full, loss), (masked, other) = kept
        assert loss == other and all(torch.equal(full[name], masked[name]) for name in full)

    def test_unobserved_values_do_not_matter(self):
        x = with_gaps(torch.randn(60, 4, generator=torch.Generator().manual_seed(1)))
        weights = []
        for value in (0.0, 1e6):
            vae = vae_with(x, standardize=True)
            data = as_dataset(x.nan_to_num(nan=value), mask=~x.isnan())
            fit(vae, data, epochs=2, batch_size=25, start_at_mean=True, **QUIET)
            weights.append(vae.state_dict())
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

    @pytest.mark.usefixtures("without_a_compiler")
    def test_graphs_make_the_steps_of_the_programs(self):
        """By graphs that are run as they are, which takes no compiler."""
        x = with_gaps(torch.randn(60, 4, generator=torch.Generator().manual_seed(1)))
        found = []
        for compile in (False, True):
            vae, data = vae_with(x, standardize=True), as_dataset(x, missing="nan")
            options = {"epochs": 3, "batch_size": 25, "progress": False}
            history = fit(vae, data, IWAE(num_particles=3), compile=compile, **options)
            assert history.mode == ("compiled (graph)" if compile else "eager")
            found.append(torch.cat([p.detach().flatten() for p in vae.parameters()]))
        assert torch.allclose(*found, atol=1e-5)

    def test_standardisation_and_the_start_are_of_observed_values(self):
        x = with_gaps(torch.randn(60, 2, generator=torch.Generator().manual_seed(1)) * 50 + 300)
        vae = vae_with(x, standardize=True)
        fit(vae, as_dataset(x, missing="nan"), epochs=1, start_at_mean=True, **QUIET)
        assert torch.allclose(vae.data_mean, x.nanmean(0)) and torch.allclose(
            vae.data_std, (x - x.nanmean(0)).square().nanmean(0).sqrt()
        )
        table = vae_with(x, likelihood=Mixed)
        fit(table, as_dataset(x, missing="nan"), epochs=1, **QUIET)
        assert torch.allclose(table.likelihood.columns[0].shift, x.nanmean(0), rtol=1e-5)

    def test_a_prior_that_starts_from_data(self):
        x = with_gaps(torch.randn(60, 4, generator=torch.Generator().manual_seed(1)))
        vae = vae_with(x, prior=partial(VampPrior, components=5, bounds=None))
        fit(vae, as_dataset(x, missing="nan"), epochs=1, **QUIET)
        assert all(p.isfinite().all() for p in vae.parameters())

    def test_a_linear_model_comes_near_the_exact_likelihood(self):
        """Half the values missing. The exact log-likelihood of the trained weights, in closed form, is compared with
        that of the truth on new data: estimating 16 numbers from 600 half-empty data costs about 0.03 nats.
        """
        process = LinearGaussian.random(5, 2, 0.5, 4)
        x, new = (with_gaps(process.sample(n, s), seed=s) for n, s in ((600, 1), (300, 2)))
        vae = linear(5, 2)
        options = {"epochs": 30, "batch_size": 60, "optimizer": partial(torch.optim.Adam, lr=0.01)}
        fit(vae, as_dataset(x, missing="nan"), IWAE(num_particles=5), start_at_mean=True, **options, **QUIET)
        output = vae.decoder.output
        scale = vae.likelihood.scale_of((torch.zeros(()),)).item()
        trained = LinearGaussian(output.weight.detach(), output.bias.detach(), scale)
        at_start = LinearGaussian(torch.zeros(5, 2), x.nanmean(0), 1.0)
        best, found, none = (exact_log_p(p, new).mean().item() for p in (process, trained, at_start))
        assert best - 0.15 < found < best + 0.03 and none < best - 0.8

    def test_values_outside_the_support_are_found_where_observed(self):
        x = torch.tensor([[1.0, torch.nan], [0.0, 1.0]])
        fit(vae_with(x, likelihood=Bernoulli), as_dataset(x, missing="nan"), epochs=1, **QUIET)
        x[1, 1] = 0.5
        with pytest.raises(DataError, match=r"1 of 4 values .* the first is 0.5 at \(1, 1\)"):
            fit(vae_with(x, likelihood=Bernoulli), as_dataset(x, missing="nan"), epochs=1, **QUIET)

    def test_programs_that_take_no_mask(self):
        class Plain(torch.nn.Module):
            def model(self, x):
                raise AssertionError

            guide = model

        with pytest.raises(UsageError, match="the data have a mask, and the programs of this Plain take no `mask`"):
            fit(Plain(), as_dataset(torch.tensor([[1.0, torch.nan], [0.0, 1.0]]), missing="nan"), epochs=1, **QUIET)

    def test_masks_reach_the_programs_as_bool(self):
        seen = []

        class Watching(VAE):
            def model(self, x, mask=None, c=None):
                seen.append((mask.dtype, bool(x.isnan().any())))
                return super().model(x, mask, c)

        x = with_gaps(torch.randn(20, 4))
        data = Dataset("x", *(x[:10], x[10:]), inputs={"mask": {"train": ~x[:10].isnan(), "valid": ~x[10:].isnan()}})
        fit(Watching((4,), 2, likelihood=Normal), data, epochs=1, **QUIET)
        assert set(seen) == {(torch.bool, False)}
        assert steps.Batch(x).inputs == {}


class TestTasks:
    """What takes the data of a run, with gaps."""

    def test_impute_takes_a_split_as_it_is(self):
        x = with_gaps(torch.randn(20, 4, generator=torch.Generator().manual_seed(1)))
        data = as_dataset(x, missing="nan")
        found = impute(vae_with(x), data.split("train"), num_draws=2, num_particles=20)
        assert torch.equal(found.mask, data.observed("train")) and found.best.isfinite().all()

    def test_codes_of_gaps_do_not_depend_on_what_is_there(self):
        x = with_gaps(torch.randn(20, 4, generator=torch.Generator().manual_seed(1)))
        vae, data = vae_with(x), as_dataset(x, missing="nan")
        refitted = refit_prior(vae, data, partial(MixtureOfNormals, components=2), epochs=1, progress=False)
        found = cluster(refitted, data.split("train"), mask=data.observed("train"))
        other = cluster(refitted, data.split("train").nan_to_num(nan=8.0), mask=data.observed("train"))
        assert torch.equal(found.probabilities, other.probabilities) and found.probabilities.isfinite().all()

    def test_predictive_checks_are_of_what_was_observed(self):
        """The exact model is not flagged: alpha 1 %, one fixed seed; a shifted one is, though it has the mask."""
        process = truth()
        x = with_gaps(process.sample(100, 3).double())
        options = {"method": "prior", "num_draws": 800, "alpha": 0.01, "mask": ~x.isnan()}
        for shift, flagged in ((0.0, False), (1.0, True)):
            vae = vae_of(LinearGaussian(process.weight, process.bias + shift, process.scale))
            assert bool(posterior_predictive_check(vae.model, vae.guide, x, **options).flagged.any()) == flagged


def observed_all(*splits):
    names = ("train", "valid")
    return {"mask": {name: torch.ones_like(x, dtype=torch.bool) for name, x in zip(names, splits, strict=True)}}


def linear(dim, latent):
    parts = {"likelihood": partial(Normal, scale="learned"), "guide": FullNormal}
    with seeded(0, "init"):
        return VAE((dim,), latent, **parts, encoder=partial(MLP, hidden=(32,)), decoder=partial(MLP, hidden=()))
