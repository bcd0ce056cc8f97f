"""`sites` and what uses it: the same results, by name, in whatever order a guide draws its sites.

The process is linear and Gaussian with two latent sites, a before b; the guide is its exact posterior, drawn as
q(b|x) q(a|b, x). Everything that puts the sites side by side must have a's columns first.
"""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.autoencoders import HierarchicalVAE, SemiSupervisedVAE
from pyro_vae.diagnostics import latent_statistics
from pyro_vae.diagnostics.arviz import to_arviz
from pyro_vae.diagnostics.calibration import simulation_based_calibration
from pyro_vae.diagnostics.collapse import collapse_warnings
from pyro_vae.diagnostics.surgery import elbo_surgery
from pyro_vae.evidence import log_marginal
from pyro_vae.evidence.annealing import ais, bdmc
from pyro_vae.evidence.annealing_results import Annealing
from pyro_vae.inference.hamiltonian import HMC
from pyro_vae.inference.posteriors import METHODS, posterior
from pyro_vae.inference.simulating import simulate
from pyro_vae.inference.sites import element_names, flattened, in_order
from pyro_vae.inference.unconstrained import Target
from pyro_vae.inference.weighing import importance, model_order

DIM, NOISE = 4, 0.6


class Reversed:
    """a ~ N(1, 1), b ~ N(-2, 0.3^2), x ~ N(W [a, b], NOISE^2), and its exact posterior drawn as b, then a."""

    def __init__(self, size_a, size_b):
        self.sizes = size_a, size_b
        torch.manual_seed(0)
        self.weight = torch.randn(DIM, size_a + size_b).double()
        self.mean = torch.cat([torch.ones(size_a), -2 * torch.ones(size_b)]).double()
        self.scale = torch.cat([torch.ones(size_a), 0.3 * torch.ones(size_b)]).double()
        precision = torch.diag(self.scale**-2) + self.weight.T @ self.weight / NOISE**2
        self.covariance = precision.inverse()

    def model(self, x):
        (mean_a, mean_b), (scale_a, scale_b) = self.mean.split(self.sizes), self.scale.split(self.sizes)
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Normal(mean_a, scale_a).to_event(1))
            b = pyro.sample("b", dist.Normal(mean_b, scale_b).to_event(1))
            mean = torch.cat([a, b], -1) @ self.weight.T
            pyro.sample("x", dist.Normal(mean, NOISE).to_event(1), obs=x)

    def guide(self, x):
        self._draw(x, "b", "a", self.sizes[1])

    def misnamed(self, x):
        """a's posterior under the name of b, drawn first, where the model has a: right by its place alone."""
        self._draw(x, "b", "a", self.sizes[0], flip=True)

    def _draw(self, x, first, second, size, flip=False):
        """q(first|x), of `size` dimensions, then q(second|first, x): b and a, or with `flip` a and b."""
        rest = sum(self.sizes) - size
        order = slice(None) if flip else [*range(rest, rest + size), *range(rest)]
        mean, c = self.means(x)[:, order], self.covariance[order][:, order]
        (mean_1, mean_2), gain = mean.split([size, rest], -1), c[size:, :size] @ c[:size, :size].inverse()
        with pyro.plate("data", len(x), dim=-1):
            value = pyro.sample(first, dist.MultivariateNormal(mean_1, c[:size, :size]))
            left = c[size:, size:] - gain @ c[:size, size:]
            pyro.sample(second, dist.MultivariateNormal(mean_2 + (value - mean_1) @ gain.T, left))

    def means(self, x):
        """E[a, b|x], `[N, size]`."""
        return (self.mean / self.scale**2 + x @ self.weight / NOISE**2) @ self.covariance

    def log_evidence(self, x):
        covariance = (self.weight * self.scale**2) @ self.weight.T + NOISE**2 * torch.eye(DIM).double()
        return dist.MultivariateNormal(self.weight @ self.mean, covariance).log_prob(x)


SIZES = pytest.mark.parametrize("sizes", [(2, 2), (1, 3)], ids=["equal", "different"])
BLANK = torch.zeros(250, DIM).double()


def data_of(pair, num=20):
    return simulate(pair.model, BLANK[:num]).x


def calibrated(pair, blank=BLANK):
    return simulation_based_calibration(pair.model, pair.guide, blank, num_draws=39)


class TestFlattened:
    def test_by_name_and_not_by_place(self):
        values = {"b": torch.arange(6.0).reshape(1, 3, 2), "a": torch.arange(3.0).reshape(1, 3)}
        expected = torch.tensor([[0.0, 0, 1], [1, 2, 3], [2, 4, 5]])
        assert torch.equal(flattened(values, ["a", "b"])[0], expected)
        assert torch.equal(flattened(dict(reversed(values.items())), ["a", "b"])[0], expected)
        assert torch.equal(flattened(values, ["b", "a"])[0], expected[:, [1, 2, 0]])
        assert element_names(values, ["a", "x", "b"]) == ["a[0]", "b[0]", "b[1]"]

    def test_inner_plates_and_matrices(self):
        values = {"w": torch.randn(5, 3, 7, 2, 2), "z": torch.randn(5, 1, 7)}
        flat = flattened(values, ["z", "w"], nesting=2)
        assert flat.shape == (5, 7, 13) and len(element_names(values, ["z", "w"], nesting=2)) == 13
        assert torch.equal(flat[..., 0], values["z"][:, 0]) and torch.equal(
            flat[:, :, 1:5], values["w"][:, 0].flatten(2)
        )

    def test_a_site_that_the_order_lacks_is_no_silent_loss(self):
        with pytest.raises(KeyError):
            in_order({"a": 1, "c": 2}, ["a", "b"])


@SIZES
class TestCalibration:
    def test_the_exact_guide_is_calibrated(self, sizes):
        found = calibrated(Reversed(*sizes))
        assert found.calibrated and not found.coverage((0.5, 0.9)).flagged.any() and not found.location().flagged.any()
        assert found.names[:4] == tuple(f"a[{i}]" for i in range(sizes[0])) + tuple(f"b[{i}]" for i in range(sizes[1]))

    def test_the_users_quantities_see_the_models_order(self, sizes):
        seen, pair = [], Reversed(*sizes)

        def joined(latents, x):
            seen.append(list(latents))
            return torch.cat([*latents.values()], -1)[..., 0]

        found = simulation_based_calibration(pair.model, pair.guide, BLANK, num_draws=39, summaries={"first": joined})
        assert all(names == ["a", "b"] for names in seen) and found.verdicts["first"] == "calibrated"


class TestWrongGuide:
    def test_what_is_right_by_its_place_alone_is_flagged(self):
        pair = Reversed(2, 2)
        found = simulation_based_calibration(pair.model, pair.misnamed, BLANK, num_draws=39)
        assert all(found.verdicts[name] != "calibrated" for name in ("a[0]", "a[1]", "b[0]", "b[1]"))
        names = list(found.names)
        biased = {name for name, bad in zip(names, found.location().flagged.tolist(), strict=True) if bad}
        assert {"a[0]", "a[1]", "b[0]", "b[1]"} <= biased
        assert found.coverage((0.5,)).flagged[0, :4].all()


@SIZES
class TestOrder:
    def test_of_all_draws(self, sizes):
        pair = Reversed(*sizes)
        x = data_of(pair)
        assert list(importance(pair.model, pair.guide, x, num_particles=2).latents) == ["a", "b"]
        assert list(simulate(pair.model, x).latents) == ["a", "b"]
        for method in METHODS:
            options = {"num_draws": 8, "num_particles": 50, "hmc": HMC(2, 5)}
            assert list(posterior(pair.model, pair.guide, x, method=method, **options).draws) == ["a", "b"], method

    def test_of_targets(self, sizes):
        pair = Reversed(*sizes)
        drawn = simulate(pair.model, BLANK[:20])
        target = Target(pair.model, pair.guide, drawn.x)
        truth = target.flat(dict(reversed(drawn.latents.items())))
        assert torch.equal(truth, torch.cat([drawn.latents["a"], drawn.latents["b"]], -1))
        assert {name: v.shape[-1] for name, v in target.latents(truth).items()} == dict(zip("ab", sizes, strict=True))
        z, _ = target.draw_guide(400)
        error = pair.covariance.diagonal().sqrt() / 20
        assert ((z.mean(0) - pair.means(drawn.x)).abs() < 5 * error).all()
        assert abs(target.draw_prior(400)[..., : sizes[0]].mean() - 1) < 0.1

    def test_of_the_export(self, sizes):
        pair = Reversed(*sizes)
        data = to_arviz(pair.model, pair.guide, data_of(pair, 5), num_draws=4, num_particles=50)
        for group in ("posterior", "prior"):
            assert list(data[group].data_vars) == ["a", "b"]
            assert data[group]["a"].shape[-1] == sizes[0]

    def test_of_chains(self, sizes):
        pair = Reversed(*sizes)
        x = data_of(pair, 5)
        found = posterior(
            pair.model, pair.guide, x, method="hmc", num_draws=800, hmc=HMC(num_chains=16, num_warmup=60), seed=1
        )
        columns = torch.cat([found.draws["a"], found.draws["b"]], -1)
        assert found.chains is not None and torch.equal(found.chains.draws.transpose(0, 1).flatten(0, 1), columns)
        error = (pair.covariance.diagonal() / found.ess.min()).sqrt()
        assert ((columns.mean(0) - pair.means(x)).abs() < 5 * error).all()


@SIZES
class TestDensities:
    """Every log-weight of the exact guide is log p(x), whichever sites come first."""

    def test_evidence_and_surgery(self, sizes):
        pair = Reversed(*sizes)
        x = data_of(pair)
        found = log_marginal(pair.model, pair.guide, x, num_particles=20)
        torch.testing.assert_close(found.log_p, pair.log_evidence(x), rtol=0, atol=1e-8)
        assert elbo_surgery(pair.model, pair.guide, x).elbo == pytest.approx(pair.log_evidence(x).mean().item())

    @pytest.mark.usefixtures("few_adapted")
    def test_annealing(self, sizes):
        pair, how = Reversed(*sizes), Annealing(num_temperatures=10, num_chains=2)
        x = data_of(pair, 5)
        torch.testing.assert_close(ais(pair.model, pair.guide, x, annealing=how).log_p, pair.log_evidence(x))
        both = bdmc(pair.model, pair.guide, 5, BLANK[0], annealing=how)
        assert list(both.latents) == ["a", "b"]
        torch.testing.assert_close(both.upper.log_p, pair.log_evidence(both.x))


class TestAutoencoders:
    @torch.no_grad()
    def test_a_hierarchy_with_its_defaults(self):
        """Decoders that see no code, and a guide at the prior: exact. Its guide goes up, its model down."""
        vae = HierarchicalVAE((4,))
        for network in (*vae.encoders, *vae.upper_decoders, vae.decoder):
            for parameter in network.parameters():
                parameter.zero_()
        for network in (vae.encoders[0], vae.upper_decoders[0]):
            network.output.bias[:100] = 3.0  # the mean of z1
        found = simulation_based_calibration(vae.model, vae.guide, torch.zeros(100, 4), num_draws=19)
        assert found.names[:2] == ("z2[0]", "z2[1]") and found.names[50] == "z1[0]" and found.calibrated
        vae.encoders[1].output.bias[:50] = 3.0
        assert simulation_based_calibration(vae.model, vae.guide, torch.zeros(100, 4), num_draws=19).flagged[:50].all()

    def test_statistics_of_each_site(self):
        vae = HierarchicalVAE((4,), latent_dims=(5, 2))
        with torch.no_grad():
            vae.encoders[0].output.weight.mul_(50)
            vae.encoders[1].output.weight.zero_()
        x = torch.rand(40, 4).round()
        found = latent_statistics(vae, x)
        assert dict(found.sizes or {}) == {"z2": 2, "z1": 5} and list(found.sizes or {}) == ["z2", "z1"]
        assert not found.active[:2].any() and found.active[2:].all() and str(found) == "z2: 0 of 2, z1: 5 of 5"
        assert [text[:60] for text in collapse_warnings(found)] == [
            "posterior collapse: none of the 2 dimensions of z2 is active"
        ]

    def test_discrete_sites_too(self):
        vae = SemiSupervisedVAE((4,), classes=3, latent_dim=2)
        x = torch.rand(6, 4).round()
        latents = importance(vae.model, vae.guide, x, num_particles=2).latents
        reversed_ = dict(reversed(latents.items()))
        assert model_order(vae.model, reversed_, x) == ["y", "z"]
