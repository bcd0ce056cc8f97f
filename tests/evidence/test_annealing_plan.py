"""`evidence.annealing_moves` and `annealing_pilot`: exact turns, their cost, and where temperatures are put."""

from functools import partial
from math import pi

import pytest
import torch

from pyro_vae.autoencoders import VAE
from pyro_vae.evidence.annealing import ais, bdmc
from pyro_vae.evidence.annealing_moves import transition
from pyro_vae.evidence.annealing_path import GRAPHS, Path
from pyro_vae.evidence.annealing_pilot import (
    _FIRST_STEPS,
    _LEAST_CHAINS,
    Plan,
    _equal_lengths,
    _Moments,
    num_adapted,
    pilot,
)
from pyro_vae.evidence.annealing_results import Annealing
from pyro_vae.inference.unconstrained import Target
from pyro_vae.priors import VampPrior
from tests.support.ppca import truth, vae_of

MEAN, SCALE = torch.tensor([3.0, -1.0, 100.0]).double(), torch.tensor([1e-2, 1.0, 50.0]).double()


def normal_terms(z):
    """f_0 standard normal; p(x, z) normal with MEAN and SCALE, whose integral is e^2."""
    base, joint = -z.square().sum(-1) / 2, 2 - ((z - MEAN) / SCALE).square().sum(-1) / 2
    return [base, joint - base, -z, -(z - MEAN) / SCALE**2 + z]


def moved(num_leapfrog, angle, momentum, start, uniform=0.5):
    """A transition at beta = 1, without jitter, and its acceptance."""
    ones = torch.ones(1).double()
    uniforms = torch.tensor([0.5, uniform], dtype=torch.float64).expand(*start.shape[:2], 2)
    inputs = [start, *normal_terms(start), ones, angle * ones[:, None], SCALE[None], momentum, uniforms]
    *point, accept = transition(normal_terms, num_leapfrog, inputs)
    return point, accept


class TestTransition:
    @pytest.mark.parametrize("num_leapfrog", [1, 3])
    def test_a_right_angle_makes_a_new_draw_of_a_normal_density(self, num_leapfrog):
        """`mean + scale * momentum`, wherever the chain was, with probability 1: for any mean, in any dimension."""
        torch.manual_seed(0)
        start, momentum = MEAN + 3 * SCALE * torch.randn(5, 1, 3).double(), torch.randn(5, 1, 3).double()
        point, accept = moved(num_leapfrog, pi / 2 / num_leapfrog, momentum, start, uniform=1 - 1e-9)
        torch.testing.assert_close(point[0], MEAN + SCALE * momentum)
        torch.testing.assert_close(accept, torch.ones(5, 1).double(), rtol=1e-6, atol=0)
        torch.testing.assert_close(point[1:], normal_terms(point[0]))

    def test_it_can_be_reversed(self):
        """From where it leads, with the momentum there turned round, back to the start: volume is kept."""
        torch.manual_seed(0)
        start, momentum = MEAN + SCALE * torch.randn(5, 1, 3).double(), torch.randn(5, 1, 3).double()
        angle = 0.3
        point, _ = moved(2, angle, momentum, start, uniform=0.0)
        turned = torch.tensor(2 * angle).double()
        at_end = momentum * turned.cos() - (start - MEAN) / SCALE * turned.sin()
        back, _ = moved(2, angle, -at_end, point[0], uniform=0.0)
        torch.testing.assert_close(back[0], start, rtol=1e-6, atol=1e-8)

    def test_a_rejected_chain_stays_with_all_its_values(self):
        start = torch.randn(4, 1, 3).double()
        far = torch.full((4, 1, 3), torch.nan).double()
        point, accept = moved(1, 0.5, far, start)
        assert torch.equal(point[0], start) and (accept == 0).all()
        assert all(torch.equal(a, b) for a, b in zip(point[1:], normal_terms(start), strict=True))


class TestCost:
    @pytest.mark.parametrize("num_leapfrog", [1, 3])
    def test_each_temperature_takes_its_leapfrog_steps_and_no_more(self, num_leapfrog):
        """T - 1 transitions, since the first draws need none; backwards T. One more run where the chains start."""
        vae, how = VAE((4,), 2), Annealing(num_temperatures=6, num_chains=3, num_leapfrog=num_leapfrog)
        both = bdmc(vae.model, vae.guide, 2, annealing=how)
        first = _LEAST_CHAINS * (1 + num_leapfrog * (_FIRST_STEPS + num_adapted(how) + 1))
        assert both.lower.evaluations == first + 3 * (1 + 5 * num_leapfrog)
        assert both.upper.evaluations == first + 3 * (1 + 6 * num_leapfrog)

    def test_components_of_a_prior_are_computed_once(self):
        """A VampPrior runs the encoder on its inputs: as often for 2 temperatures as for 6, and with the same value."""
        vae, runs = VAE((4,), 2, prior=partial(VampPrior, components=3)), []
        vae.encoder.register_forward_hook(lambda *_: runs.append(1))
        for number in (2, 6):
            how = Annealing(num_temperatures=number, num_chains=2, start="prior")
            ais(vae.model, vae.guide, torch.ones(3, 4), annealing=how)
            runs.append(0)
        first = runs.index(0)
        assert 0 < first < 15 and len(runs) == 2 * (first + 1)
        target, z = Target(vae.model, vae.guide, torch.ones(3, 4)), torch.randn(5, 3, 2)
        moves = Path(Annealing(start="prior"), 4096, compile=False).moves(target)
        torch.testing.assert_close(moves.at(z)[1], target.log_prior(z).detach())

    @pytest.mark.slow
    def test_a_second_call_compiles_nothing(self):
        vae, how = VAE((16,), 2), Annealing(num_temperatures=3, num_chains=4)
        target = Target(vae.model, vae.guide, torch.rand(7, 16).round())
        one, two = (Path(how, 4096, compile=True).moves(target).graph for _ in range(2))
        assert one is not None and one is two and len(GRAPHS.of(vae)) == 1


class TestPlan:
    def test_temperatures_cut_the_length_into_equal_parts(self):
        """A spread of 1 / (beta + c): the length is a logarithm, so temperatures form a geometric series."""
        grid = torch.linspace(0, 1, 2001).double() ** 2
        spreads = torch.stack([1 / (grid + c) for c in (0.1, 1.0)], 1)
        betas = _equal_lengths(grid, spreads, 10)
        assert betas.shape == (11, 2) and (betas[0] == 0).all() and (betas[-1] == 1).all()
        for column, c in zip(betas.T, (0.1, 1.0), strict=True):
            ratios = (column[1:] + c) / (column[:-1] + c)
            torch.testing.assert_close(ratios, ratios[:1].expand(10), rtol=1e-3, atol=0)

    def test_unknown_spreads_give_even_temperatures_and_none_are_far_apart(self):
        grid = torch.linspace(0, 1, 51).double()
        unknown = _equal_lengths(grid, torch.full((51, 1), torch.nan).double(), 10)
        torch.testing.assert_close(unknown[:, 0], torch.linspace(0, 1, 11).double())
        steep = torch.ones(51, 1).double()
        steep[0] = 1e9
        assert _equal_lengths(grid, steep, 100).diff(dim=0).max() < 6 / 100

    def test_steps_between_two_known_temperatures(self):
        grid, log = torch.tensor([0.0, 0.5, 1.0]).double(), torch.tensor([0.0, 1.0, 3.0]).double()
        scales = log[:, None, None].expand(3, 2, 4)
        plan = Plan(torch.zeros(2, 2), grid, -scales[..., :1], scales, 0)
        angles, found = plan.steps(torch.tensor([0.25, 0.75]).double())
        torch.testing.assert_close(found, torch.tensor([0.5, 2.0]).double().exp()[:, None].expand(2, 4))
        torch.testing.assert_close(angles, torch.tensor([-0.5, -2.0]).double().exp()[:, None])

    def test_scales_are_those_of_a_normal_posterior(self):
        """Without the error of so few draws: exact to 1e-6 where dimensions are independent (x = z + noise)."""
        process = truth(dim=2, latent=2)
        vae = vae_of(process)
        with torch.no_grad():
            vae.decoder.output.weight.copy_(torch.diag(torch.tensor([1.0, 5.0])))
        x = process.sample(3, seed=1).double()
        moves = Path(Annealing(start="prior", num_chains=4), 4096, compile=False).moves(Target(vae.model, vae.guide, x))
        plan = pilot(moves, Annealing(start="prior"), 0, 0, lambda: None)
        precision = 1 + vae.decoder.output.weight.diagonal().square() / process.scale**2
        scales = plan.steps(torch.ones(3).double())[1].detach()
        torch.testing.assert_close(scales, precision.rsqrt().detach().expand(3, 2), rtol=1e-6, atol=0)


class TestLongestTrajectories:
    def longest(self, slope, curvature):
        """The angle where the rise is `slope z - curvature z^2 / 2` and the chains are standard normal."""
        z = torch.randn(4, 1, 1).double()
        z = (z - z.mean(0)) / z.std(0)
        zeros = torch.zeros(4, 1).double()
        return _Moments((z, zeros, zeros, -z, slope - curvature * z)).longest(torch.ones(1, 1).double()).item()

    def test_a_quadratic_rise_asks_for_a_right_angle(self):
        assert self.longest(0.0, 3.0) == pytest.approx(pi / 2)

    def test_no_other_angle_gives_a_smaller_variance(self):
        """Of sums over many temperatures: of a first-order autoregression for each of the two parts."""
        angles = torch.linspace(0.01, pi - 0.01, 10000).double()
        for slope, curvature in ((1.0, 1.0), (1.0, 3.0), (2.0, 1.0)):
            share, c = slope**2 / (slope**2 + curvature**2 / 2), angles.cos()
            variance = share * (1 + c) / (1 - c) + (1 - share) * (1 + c**2) / (1 - c**2)
            assert self.longest(slope, curvature) == pytest.approx(angles[variance.argmin()].item(), abs=1e-3)

    def test_they_are_never_periodic(self):
        assert pi / 2 < self.longest(1e6, 1.0) < 0.8 * pi


@pytest.mark.usefixtures("few_adapted")
def test_the_plan_is_the_datum_s_own():
    """Its temperatures and steps do not depend on the other data."""
    vae, x = VAE((4,), 2).double(), torch.rand(5, 4).round()
    make = partial(pilot, annealing=Annealing(), first=0, tick=lambda: None)
    path = Path(Annealing(), 4096, compile=False)
    all_of_them, some = (make(path.moves(Target(vae.model, vae.guide, data)), seed=0) for data in (x, x[:2]))
    torch.testing.assert_close(all_of_them.betas[:, :2], some.betas)
    torch.testing.assert_close(all_of_them.log_scales[:, :2], some.log_scales)
