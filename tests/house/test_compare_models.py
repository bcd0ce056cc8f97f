"""The example that puts a VAE beside other models: its estimators against exact values, and all of it, small."""

import importlib
import json
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from torch.distributions import MultivariateNormal
from torch.distributions import Normal as Scalar

from pyro_vae import log_marginal, seeded
from pyro_vae.data import LinearGaussian
from pyro_vae.testing.ppca import linear_vae, make_exact

pytest.importorskip("sklearn", reason="scikit-learn is an extra")
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch):
    """A function that imports a module of the example; afterwards none of them is loaded."""
    monkeypatch.syspath_prepend(EXAMPLES)
    yield importlib.import_module
    for name in [name for name in sys.modules if name.split(".")[0] in ("other_models", "compare_models")]:
        del sys.modules[name]


def machine(example, visible, hidden, scale=1.0):
    with seeded(0, "machine"):
        weights = scale * torch.randn(visible, hidden), torch.randn(visible), torch.randn(hidden)
    return example("other_models.boltzmann").Machine(*weights)


def all_bits(count):
    return torch.tensor(list(product((0.0, 1.0), repeat=count)))


def test_log_z_by_states_of_h_is_that_by_states_of_v(example):
    small = machine(example, 8, 4).double()
    by_v = small.log_unnormalised(all_bits(8).double()).logsumexp(0).item()
    assert example("other_models.boltzmann").exact_log_z(small) == pytest.approx(by_v, abs=1e-12)


def test_the_bracket_has_the_exact_log_z(example):
    """Within 4 standard errors at each end: false alarm below 1e-4. With a single temperature it is wide."""
    boltzmann, annealing = example("other_models.boltzmann"), example("other_models.annealing")
    real = machine(example, 64, 12, 0.5)
    exact = boltzmann.exact_log_z(real)
    with seeded(0, "bracket"):
        draws = boltzmann.exact_draws(real, 200)
        found = annealing.bracket(real, torch.zeros(64), 300, draws)
        wide = annealing.bracket(real, torch.zeros(64), 1, draws)
    assert found.contains(exact) and found.upper - found.lower < 0.3
    assert wide.lower < exact - 1 and wide.upper > exact + 1 and not found.contains(exact + 1)


def test_draws_of_a_machine_have_its_distribution(example):
    """Means of 4 visible bits over 40,000 exact draws, each within 5 standard errors: false alarm 3e-6."""
    small = machine(example, 4, 3)
    p = small.log_unnormalised(all_bits(4)).softmax(0)
    with seeded(0, "draws"):
        means = example("other_models.boltzmann").exact_draws(small, 40000).mean(0)
    exact = p @ all_bits(4)
    assert ((means - exact).abs() < 5 * (exact * (1 - exact) / 40000).sqrt()).all()


def test_a_step_of_a_machine_follows_the_gradient(example):
    """Of log p(x), with 100,000 exact draws as the chains: each element within 5 standard errors (0.5 / 316 each)."""
    small = machine(example, 4, 3)
    boltzmann, x = example("other_models.boltzmann"), all_bits(4)[3:9]
    leaves = [value.clone().requires_grad_() for value in (small.weight, small.visible, small.hidden)]
    open_to = boltzmann.Machine(*leaves)
    log_z = open_to.log_unnormalised(all_bits(4)).logsumexp(0)
    (open_to.log_unnormalised(x).mean() - log_z).backward()
    with seeded(0, "gradient"):
        after = boltzmann.climbed(small, x, boltzmann.exact_draws(small, 100000), 1.0)
    decay = 1e-4 * small.weight
    assert torch.allclose(after.weight - small.weight + decay, leaves[0].grad, atol=5 * 0.5 / 316)
    assert torch.allclose(after.visible - small.visible, leaves[1].grad, atol=5 * 0.5 / 316)
    assert torch.allclose(after.hidden - small.hidden, leaves[2].grad, atol=5 * 0.5 / 316)


def test_a_machine_fills_gaps_with_its_conditional_mean(example):
    """Over 2,000 chains of 75 kept steps; a bit's error is below 0.5 / 2000^0.5, whatever the steps' dependence."""
    small, seen = machine(example, 4, 3), torch.tensor([1.0, 0.0, 0.0, 0.0])
    mask = (torch.arange(4) < 2).expand(2000, 4)
    with seeded(0, "gaps"):
        filled = example("other_models.boltzmann").clamped(small, seen.expand(2000, 4), mask, steps=100)
    alike = all_bits(4)[(all_bits(4)[:, :2] == seen[:2]).all(1)]
    exact = small.log_unnormalised(alike).softmax(0) @ alike
    assert torch.allclose(filled.mean(0), exact, atol=5 * 0.5 / 2000**0.5)


def test_the_bound_of_a_chain_is_a_mean_of_probabilities(example):
    """Over all x it sums to 1, and its error over independent states is that of the delta method."""
    with seeded(0, "states"):
        states = 2 * torch.randn(4000, 8)
    x = all_bits(8)
    found = example("other_models.stochastic").conservative(states, x, 4000)
    assert found.values.logsumexp(0).item() == pytest.approx(0, abs=1e-5)
    p = (x @ states.T - torch.nn.functional.softplus(states).sum(1)).exp()
    of_mean = (p / p.mean(1, keepdim=True)).mean(0).std().item() / 4000**0.5
    assert found.monte_carlo == pytest.approx(of_mean, rel=0.5)


def test_mixtures_of_bernoullis_sum_to_one(example):
    with seeded(0, "bernoullis"):
        weights, means = torch.rand(3).softmax(0), torch.rand(3, 8)
    log_joint = example("other_models.bernoullis").log_joint
    x, mask = all_bits(8), (torch.arange(8) < 3).expand(256, 8)
    assert log_joint(x, weights, means).logsumexp((0, 1)).item() == pytest.approx(0, abs=1e-5)
    assert log_joint(x[:1], weights, means, mask[:1] & False).softmax(1)[0].tolist() == pytest.approx(weights.tolist())


def test_probabilistic_pca_is_the_closed_form(example):
    """scikit-learn's density, the example's, that of `LinearGaussian`, and the VAE with the exact guide."""
    gaussians, common = example("other_models.gaussians"), example("other_models.common")
    budget, data = common.Budget(epochs=2, latent=4), common.Data.load(20, 0)
    pca = gaussians.PCA(4).fit(gaussians.dequantised(data, budget))
    weight, mean = torch.as_tensor(gaussians.loadings(pca)), torch.as_tensor(pca.mean_)
    process = LinearGaussian(weight, mean, float(pca.noise_variance_) ** 0.5)
    y = data.test.double() + gaussians.CENTRE
    exact = torch.as_tensor(pca.score_samples(y.numpy()))
    assert torch.allclose(process.log_prob(y), exact, atol=1e-9)
    assert torch.allclose(-gaussians.probabilistic(data, budget).anomaly(data.test), exact, atol=1e-9)
    vae = make_exact(linear_vae(process), process)
    found = log_marginal(vae.model, vae.guide, y, num_particles=10)
    assert torch.allclose(found.log_p, exact, atol=1e-9)


def test_the_dequantised_bound_is_below_the_probability_of_bits(example):
    """With independent normals the probability of a cell is a difference of distribution functions."""
    gaussians, common = example("other_models.gaussians"), example("other_models.common")
    x = all_bits(4)
    normals = gaussians.Normals([1.0], torch.full((1, 4), 0.8), 0.3 * torch.eye(4)[None])
    inside = [Scalar(0.8, 0.3**0.5).cdf(x + end) for end in (1.0, 0.0)]
    exact = (inside[0] - inside[1]).log().sum(1)
    found = gaussians.dequantised_log_p(normals.log_density, x, common.Budget(draws=40000))
    assert found.kind == "lower bound" and found.ends[1] == float("inf")
    assert found.values.mean().item() == pytest.approx(exact.mean().item(), abs=5 * found.monte_carlo + 1e-3)
    few = gaussians.dequantised_log_p(normals.log_density, x, common.Budget(draws=40))
    assert few.values.mean() < exact.mean()


def test_expected_values_of_a_mixture_given_some_elements(example):
    gaussians = example("other_models.gaussians")
    covariances = torch.tensor([[[1.0, 0.8], [0.8, 1.0]], [[0.5, -0.2], [-0.2, 2.0]]])
    normals = gaussians.Normals([0.3, 0.7], [[0.0, 0.0], [1.0, -1.0]], covariances)
    y = torch.tensor([[0.6, 0.0]]).double()
    grid = torch.linspace(-12, 12, 4001).double()
    parts = [MultivariateNormal(m, s) for m, s in zip(normals.means, normals.covariances, strict=True)]
    points = torch.stack([torch.full_like(grid, 0.6), grid], 1)
    p = sum(w * part.log_prob(points).exp() for w, part in zip(normals.weights, parts, strict=True))
    assert normals.expected(y, torch.tensor([0]))[0, 1].item() == pytest.approx(((p * grid).sum() / p.sum()).item())


def test_nearest_neighbours_tell_what_differs(example):
    """Of the same distribution 0.5 within 5 standard errors of 2,000 dependent votes (0.06); of others almost 1."""
    nearest = example("other_models.measuring").nearest
    with seeded(0, "nearest"):
        x, y, z = (torch.bernoulli(torch.full((1000, 64), p)) for p in (0.1, 0.1, 0.9))
        assert abs(nearest(x, y).item() - 0.5) < 0.06 and nearest(x, z) > 0.99


def test_compare_models(example, tmp_path, capsys):
    """Every model has its row, with a dash where it can't; what is saved is what is printed."""
    script = example("compare_models")
    sizes = ["--epochs", 1, "--hidden", 16, "--draws", 20, "--temperatures", 20, "--chains", 20, "--num_data", 40]
    options = script.parser().parse_args([str(word) for word in [*sizes, "--out", tmp_path]])
    result = script.main(options)
    assert json.loads((tmp_path / "compare_models.json").read_text()) == result
    rows, printed = result["rows"], capsys.readouterr().out
    assert list(rows) == list(script.MODELS) and all(f"| {row['name']} |" in printed for row in rows.values())
    without = {name for name, row in rows.items() if row["log_p"] is None}
    assert without == {"pca", "ae", "dae", "gan"} and rows["gan"]["reconstruction"] is None is rows["ae"]["two_sample"]
    each = [torch.tensor(rows[name]["log_p"]["each"]).double() for name in ("vae", "rbm")]
    assert rows["rbm"]["vae_minus_this"]["value"] == pytest.approx((each[0] - each[1]).mean().item(), abs=1e-4)
    for name in ("families", "samples"):
        assert (tmp_path / f"{name}.png").stat().st_size > 1000
