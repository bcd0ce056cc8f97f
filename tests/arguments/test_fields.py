"""Settings that are dataclasses: a field that is a number takes no text, in any of them."""

import dataclasses
import inspect

import pytest
import torch

from pyro_vae import objectives, schedules
from pyro_vae.arguments.values import plain_fields
from pyro_vae.channels import __dict__ as channels
from pyro_vae.errors import UsageError
from pyro_vae.evidence import Annealing
from pyro_vae.inference.best_member import Search
from pyro_vae.inference.hamiltonian import HMC

FOUND = [cls for names in (vars(objectives), vars(schedules), channels) for cls in names.values()]
SETTINGS = [cls for cls in FOUND if inspect.isclass(cls) and dataclasses.is_dataclass(cls)] + [Annealing, HMC, Search]
NUMBERS = {int, float, int | None, float | None, float | schedules.Schedule}
FIELDS = [
    pytest.param(cls, field, id=f"{cls.__name__}.{field.name}")
    for cls in dict.fromkeys(SETTINGS)
    if not inspect.isabstract(cls)
    for field in dataclasses.fields(cls)
    if field.init and field.type in (*NUMBERS, bool)
]


def _made(cls, name, value):
    """The settings with one value; a number where others have no default."""
    needed = [f.name for f in dataclasses.fields(cls) if f.init and f.default is f.default_factory]
    return cls(**{**dict.fromkeys(needed, 1), name: value})


@pytest.mark.parametrize(("cls", "field"), FIELDS)
@pytest.mark.parametrize("value", ["x", (1, 2), object()])
def test_a_value_of_another_type_is_refused_by_name(cls, field, value):
    with pytest.raises(UsageError, match=field.name):
        _made(cls, field.name, value)


def test_all_kinds_of_settings_are_looked_at():
    assert len(FIELDS) > 60 and {cls.__name__ for cls, _ in (param.values for param in FIELDS)} >= {
        "Annealing",
        "HMC",
        "IWAE",
        "Linear",
        "GaussianNoise",
        "MonteCarloEM",
        "Search",
    }


@pytest.mark.parametrize("value", [1.5, True])
def test_whole_numbers(value):
    with pytest.raises(UsageError, match=f"num_temperatures: expected a whole number, got {value}"):
        Annealing(num_temperatures=value)


def test_a_tensor_of_one_number_is_that_number():
    assert Annealing(num_chains=torch.tensor(3), resample=torch.tensor(0.5)) == Annealing(num_chains=3, resample=0.5)


def test_classes_of_users_are_their_own_affair():
    """Their annotations may say less than their code takes."""

    @dataclasses.dataclass
    @plain_fields
    class Mine:
        count: int = 1

    assert Mine(count="many").count == "many"


@pytest.mark.parametrize(("cls", "name"), [(schedules.Linear, "epochs"), (schedules.Cosine, "epochs")])
@pytest.mark.parametrize("value", [0, -1.0, float("nan")])
def test_a_length_is_more_than_0(cls, name, value):
    with pytest.raises(UsageError, match=f"{name}, the length of a schedule, must be more than 0 epochs, got {value}"):
        cls(**{name: value})
    with pytest.raises(UsageError, match=f"period, the length of a schedule, .* got {value}"):
        schedules.Cyclical(period=value)
