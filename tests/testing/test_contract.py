"""`pyro_vae.testing` told right parts from wrong ones: each check fails for a part that breaks what it names."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import pyro
import pytest
import torch
from pyro.distributions import constraints

from pyro_vae.channels import BitFlip
from pyro_vae.errors import UsageError
from pyro_vae.guides import DiagonalNormal, FullNormal
from pyro_vae.likelihoods import Bernoulli, Normal
from pyro_vae.networks import MLP
from pyro_vae.priors import Prior, StandardNormal
from pyro_vae.process.seeding import seeded
from pyro_vae.schedules import Constant, Schedule
from pyro_vae.shapes import Shapes
from pyro_vae.testing import AXES, ContractError, NotApplicable, axis_of, check_part, run_check
from pyro_vae.testing import inside_a_vae as whole
from pyro_vae.testing.measure import (
    SameNoise,
    expect_boxes_filled,
    expect_distributed,
    expect_mean,
    expect_normalised,
    grid_over,
)
from pyro_vae.testing.parts import Part, concrete_classes, options_of, parts_of
from tests.support import broken, broken_channels

RANDOM = [StandardNormal, DiagonalNormal, FullNormal, Bernoulli, Normal, BitFlip]
RANDOM_CHECKS = {"draws_follow_the_density", "moments", "gradient_of_an_average"} | {
    "restores_by_bayes_rule",
    "restored_moments",
}
CASES = [(cls, check) for cases in broken.BREAKS.values() for cls, check in cases]


def names(checks):
    return {check.__name__ for check in checks}


def named(value):
    return getattr(value, "__name__", str(value))


class TestTellsRightFromWrong:
    @pytest.mark.parametrize("part", broken.RIGHT + broken_channels.RIGHT, ids=named)
    def test_right_parts_pass(self, part):
        assert any(not outcome.left_out for outcome in check_part(part))

    def test_a_right_conditional_prior_passes(self):
        """By itself; whether a VAE takes a context is the VAE's business."""
        own = names(axis_of(Prior).checks) - names(whole.CHECKS)
        left_out = [outcome.check for outcome in check_part(broken.RightConditionalPrior, only=own) if outcome.left_out]
        assert left_out == []

    @pytest.mark.parametrize(("part", "check"), CASES, ids=named)
    def test_wrong_parts_are_told_by_the_right_check(self, part, check):
        with pytest.raises(ContractError, match=rf"^{part.__name__}\(.*\) breaks '{check}': expected (?s:.)*, got "):
            check_part(part)

    @pytest.mark.parametrize(("part", "name"), broken.WHOLE, ids=named)
    def test_wrong_parts_are_told_inside_a_vae(self, part, name):
        (check,) = [check for check in whole.CHECKS if check.__name__ == name]
        with pytest.raises(ContractError) as caught:
            run_check(check, Part(part))
        assert (caught.value.part, caught.value.check) == (f"{part.__name__}()", name)

    @pytest.mark.parametrize("axis", AXES, ids=lambda axis: axis.name)
    def test_every_check_can_fail(self, axis):
        """Each check of an axis is the first that one of the parts above breaks."""
        first = {check for _, check in broken.BREAKS[axis.base.__name__]}
        assert names(axis.checks) - names(whole.CHECKS) <= first
        assert names(whole.CHECKS) <= {name for _, name in broken.WHOLE}

    @pytest.mark.parametrize("seed", range(1, 6))
    @pytest.mark.parametrize("part", RANDOM, ids=named)
    def test_right_parts_pass_by_any_seed(self, part, seed):
        """The random checks, each with a false alarm below 1e-6."""
        random = names(axis_of(part).checks) & RANDOM_CHECKS
        assert check_part(part, seed=seed, variants=False, only=random)

    def test_numbers_of_the_caller_are_left_alone(self):
        state, validated = torch.get_rng_state(), pyro.settings.get("validate_distributions_pyro")
        check_part(DiagonalNormal, only=["moments"])
        assert torch.equal(torch.get_rng_state(), state)
        assert pyro.settings.get("validate_distributions_pyro") == validated

    def test_an_error_says_everything(self):
        with pytest.raises(ContractError) as caught:
            check_part(broken.LikelihoodThatOffersTooMuch)
        error = caught.value
        assert isinstance(error, AssertionError)
        assert str(error) == (
            "LikelihoodThatOffersTooMuch() breaks 'takes_its_options': expected scale='wide', which the annotation "
            "offers, to be taken, got UsageError: leave it out of the annotation"
        )

    def test_refuses_what_is_no_part(self):
        for wrong in (int, 3, StandardNormal(Shapes((2,), 2)), partial(StandardNormal, Shapes((2,), 2)), partial(len)):
            with pytest.raises(UsageError, match="expected a class"):
                check_part(wrong)
        with pytest.raises(UsageError, match="no check nope of a prior: expected some of takes_its_options"):
            check_part(StandardNormal, only=["nope"])


class Many(Schedule):
    """Options of every kind."""

    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"number": 3, "kind": "b"}, {"flag": True})

    def __init__(
        self,
        number: int = 1,
        kind: Literal["a", "b", "c"] | float = "a",
        flag: bool = False,
        flags: tuple[bool, ...] = (),
        maker: Callable[[int], bool] = bool,
    ) -> None:
        self.options = number, kind, flag, flags, maker

    def __call__(self, epoch, total):
        return 0.0


class TestParts:
    def test_options_are_those_of_the_signature_and_of_the_class(self):
        assert options_of(Many) == [
            {},
            {"flag": True},
            {"kind": "b"},
            {"kind": "b", "flag": True},
            {"kind": "c"},
            {"kind": "c", "flag": True},
            {"number": 3, "kind": "b"},
        ]

    def test_too_many_combinations_are_tried_one_at_a_time(self):
        class Large(Schedule):
            def __init__(self, a: bool = False, b: Literal[1, 2, 3] = 1, c: Literal["x", "y", "z"] = "x") -> None: ...

            def __call__(self, epoch, total):
                return 0.0

        assert options_of(Large) == [{}, {"a": True}, {"b": 2}, {"b": 3}, {"c": "y"}, {"c": "z"}]

    def test_a_partial_is_tried_as_it_is(self):
        assert [str(part) for part in parts_of(partial(Normal, scale=0.5))] == ["Normal(scale=0.5)"]
        network = partial(MLP, hidden=(3,))
        assert str(Part(Normal, {"network": network, "base": MLP})) == "Normal(network=MLP(hidden=(3,)), base=MLP)"

    def test_refused_combinations_are_left_out(self):
        @dataclass(frozen=True)
        class Picky(Schedule):
            a: bool = False
            b: bool = False

            def __post_init__(self):
                if self.a and self.b:
                    raise UsageError("not both")

            def __call__(self, epoch, total):
                return 0.0

        settings = axis_of(Picky).settings(Picky)
        assert [part.options for part in settings] == [{}, {"b": True}, {"a": True}]

    def test_finds_concrete_classes_in_modules_and_packages(self, tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(tmp_path)
        package = tmp_path / "some_schedules"
        package.mkdir()
        head = "from dataclasses import dataclass\nfrom pyro_vae.schedules import Constant, Schedule\n"
        (package / "__init__.py").write_text(head + "from some_schedules.one import One\n")
        body = "@dataclass(frozen=True)\nclass {}(Schedule):\n    def __call__(self, epoch, total): return 1.0\n"
        abstract = "class Open(Schedule): pass\n"
        (package / "one.py").write_text(head + body.format("One") + body.format("_Hidden") + abstract)
        (package / "two.py").write_text(head + body.format("Two"))
        import some_schedules  # pyright: ignore[reportMissingImports]

        assert [cls.__name__ for cls in concrete_classes(some_schedules, Schedule)] == ["One", "Two"]
        for name in [name for name in sys.modules if name.startswith("some_schedules")]:
            del sys.modules[name]

    def test_every_axis_finds_its_classes(self):
        assert all(len(axis.classes()) >= 1 for axis in AXES)
        assert Constant in axis_of(Schedule).classes() and Schedule not in axis_of(Schedule).classes()

    def test_sizes_can_be_chosen(self):
        shapes = []

        class Watching(broken.RightGuide):
            def __init__(self, given):
                super().__init__(given)
                shapes.append(given)

        check_part(Watching, event=(5,), latent=4, only=["moments"])
        assert {shape.event for shape in shapes} == {(5,)} and shapes[-1].latent == 4


class Thirds(constraints.Constraint):
    """Multiples of 1/3 in [0, 1], which nobody enumerates."""

    is_discrete = True

    def check(self, value):
        return ((3 * value - (3 * value).round()).abs() < 1e-6) & (value > -0.1) & (value < 1.1)


class Named(Thirds):
    """The same, by name."""

    values = torch.tensor([1.0, 0.0, 1 / 3, 2 / 3])

    def check(self, value):
        raise AssertionError("not needed")


class ThirdsOfABinomial(torch.distributions.Binomial):
    def sample(self, sample_shape=()):
        return super().sample(torch.Size(sample_shape)) / 3

    def log_prob(self, value):
        return super().log_prob((3 * value).round())


def doubles(*values):
    return [torch.tensor(value, dtype=torch.float64) for value in values]


d = torch.distributions
FAMILIES = [
    (constraints.real, d.Normal(*doubles(3.0, 1e-3))),
    (constraints.real, d.Normal(*doubles(-40.0, 100.0))),
    (constraints.real, d.Laplace(*doubles(0.3, 2.0))),
    (constraints.real, d.StudentT(*doubles(1.5, 0.0, 3.0))),
    (constraints.real, d.Gumbel(*doubles(1.0, 2.0))),
    (constraints.positive, d.LogNormal(*doubles(0.0, 2.0))),
    (constraints.nonnegative, d.Gamma(*doubles(0.7, 3.0))),
    (constraints.greater_than(2.0), d.Pareto(*doubles(2.0, 1.5))),
    (constraints.less_than(1.0), d.TransformedDistribution(d.Exponential(*doubles(2.0)), d.AffineTransform(1.0, -1.0))),
    (constraints.unit_interval, d.Beta(*doubles(0.8, 3.0))),
    (constraints.interval(-1.0, 2.0), d.Uniform(*doubles(-1.0, 2.0))),
    (constraints.boolean, d.Bernoulli(*doubles(0.3))),
    (constraints.integer_interval(0, 9), d.Binomial(9, *doubles(0.3))),
    (constraints.nonnegative_integer, d.Poisson(*doubles(300.0))),
    (constraints.nonnegative_integer, d.NegativeBinomial(*doubles(0.5, 0.99))),
    (Thirds(), ThirdsOfABinomial(3, *doubles(0.4))),
    (Named(), ThirdsOfABinomial(3, *doubles(0.4))),
]


class TestMeasures:
    @pytest.mark.parametrize(("support", "distribution"), FAMILIES, ids=lambda v: type(v).__name__)
    def test_known_families_normalise_and_draw_from_themselves(self, support, distribution):
        draws = distribution.sample((20_000, 2))
        grid = grid_over(support, draws)
        masses = grid.masses(distribution.log_prob)
        expect_normalised(masses)
        expect_distributed(draws, grid, masses)
        with pytest.raises(Exception, match="total probability"):
            expect_normalised(1.00001 * masses)
        moved = draws.roll(1, 0).where(torch.rand(draws.shape) < 0.95, draws.max(0).values)
        with pytest.raises(Exception, match="distribution functions"):
            expect_distributed(moved, grid, masses)

    def test_means_are_held_within_their_standard_errors(self):
        samples = torch.randn(10_000, 3)
        expect_mean("mean", samples, torch.zeros(3))
        with pytest.raises(Exception, match=r"mean 0\.1'.*standard error 0\.01"):
            expect_mean("mean", samples, torch.tensor([0.0, 0.1, 0.0]))

    def test_boxes_see_the_dependence_of_dimensions(self):
        scale = torch.tensor([[1.0, 0.0], [1.5, 0.5]])
        right = d.MultivariateNormal(torch.zeros(2), scale_tril=scale)
        wrong = d.MultivariateNormal(torch.zeros(2), covariance_matrix=right.covariance_matrix.diagonal().diag())

        def draw(density, n):
            z = right.sample((n,))
            return z, density.log_prob(z)

        expect_boxes_filled(partial(draw, right))
        with pytest.raises(Exception, match="proportion"):
            expect_boxes_filled(partial(draw, wrong))
        with pytest.raises(NotApplicable):
            expect_boxes_filled(lambda n: (torch.ones(n, 2), torch.zeros(n)))

    @pytest.mark.parametrize(
        "draw",
        [
            lambda t: torch.randn(50, dtype=t),
            lambda t: torch.randn_like(torch.ones(50, dtype=t)),
            lambda t: torch.rand(50, dtype=t),
            lambda t: torch.ones(50, dtype=t).exponential_(),
            lambda t: d.Normal(torch.zeros(50, dtype=t), 1.0).rsample(),
            lambda t: d.Laplace(torch.zeros(50, dtype=t), 1.0).rsample(),
            lambda t: d.Gamma(torch.ones(50, dtype=t), 1.0).rsample(),
            lambda t: d.Bernoulli(torch.full((50,), 0.5, dtype=t)).sample(),
            lambda t: d.Categorical(torch.ones(50, dtype=t)).sample((50,)).to(t),
        ],
    )
    def test_same_noise_in_both_precisions(self, draw):
        found = []
        for dtype in (torch.float32, torch.float64):
            with seeded(3), SameNoise():
                found.append(draw(dtype))
        assert found[0].dtype == torch.float32 and found[1].dtype == torch.float64
        torch.testing.assert_close(found[0].double(), found[1], rtol=1e-5, atol=1e-6)
        with seeded(3):
            torch.testing.assert_close(draw(torch.float64), found[1])
