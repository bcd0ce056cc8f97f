"""`diagnostics.collapse`: a VAE whose codes fell idle is warned about once, a healthy one is not; nothing changes."""

import logging
from functools import partial

import pytest
import torch

from pyro_vae.autoencoders import VAE
from pyro_vae.data import Dataset, LinearGaussian
from pyro_vae.diagnostics import LatentStatistics, latent_statistics
from pyro_vae.diagnostics.collapse import CollapseWatch, collapse_warnings
from pyro_vae.guides import Delta
from pyro_vae.likelihoods import Normal
from pyro_vae.networks import MLP
from pyro_vae.objectives import ELBO
from pyro_vae.process.seeding import seeded
from pyro_vae.schedules import Linear
from pyro_vae.training.fitting import fit

X = LinearGaussian.random(dim=6, latent=2, scale=0.5).sample(200, seed=0)


def statistics(*variances: float, kl: float | None = 0.1, sizes=None) -> LatentStatistics:
    spread = torch.tensor(variances).double()
    return LatentStatistics(spread, None if kl is None else torch.full_like(spread, kl), sizes)


def trained(beta, epochs: int = 60, data=X, **parts) -> VAE:
    with seeded(0, "init"):
        vae = VAE((6,), 2, likelihood=partial(Normal, scale=0.5), encoder=MLP, decoder=partial(MLP, hidden=()), **parts)
    adam = partial(torch.optim.Adam, lr=0.01)
    fit(vae, data, ELBO(beta=beta), epochs=epochs, batch_size=50, optimizer=adam, progress=False, compile=False)
    return vae


def messages(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "pyro_vae"]


# ---- what is said of statistics


def test_a_code_without_active_dimensions_has_collapsed():
    (warning,) = collapse_warnings(statistics(0.0, 0.009, 0.001), beta=50.0)
    assert warning.startswith("posterior collapse: none of the 3 dimensions of z is active")
    assert "KL 0.30 nats" in warning and "lower beta, which is 50" in warning
    assert all(advice in warning for advice in ("warm up", "FreeBits", "weaker decoder"))


@pytest.mark.parametrize("beta", [None, 1.0, 0.5])
def test_beta_is_not_blamed_where_it_is_not_above_one(beta):
    assert "beta, which" not in collapse_warnings(statistics(0.0), beta)[0]


@pytest.mark.parametrize(("active", "size", "told"), [(1, 10, 0), (1, 11, 1), (2, 50, 1), (5, 50, 0), (1, 1, 0)])
def test_few_active_dimensions_are_told_below_a_tenth(active, size, told):
    warnings = collapse_warnings(statistics(*[0.5] * active, *[0.0] * (size - active)))
    assert len(warnings) == told
    if told:
        verb = "is" if active == 1 else "are"
        assert warnings[0].startswith(f"only {active} of the {size} dimensions of z {verb} active")
        assert "fewer dimensions would do as well" in warnings[0]


def test_a_layer_that_has_collapsed_is_named():
    stats = statistics(0.5, 0.4, 0.0, 0.0, 0.0, kl=None, sizes={"z1": 2, "z2": 3})
    (warning,) = collapse_warnings(stats)
    assert "none of the 3 dimensions of z2 is active" in warning and "KL" not in warning.split(")")[0]


# ---- in a training


def test_too_large_a_beta_is_warned_about_once_and_tells_what_to_do(caplog):
    vae = trained(beta=50.0)
    (warning,) = messages(caplog)
    assert "posterior collapse" in warning and "lower beta, which is 50" in warning
    assert latent_statistics(vae, X).num_active == 0


def test_a_healthy_training_is_not_warned_about(caplog):
    vae = trained(beta=1.0)
    assert messages(caplog) == [] and latent_statistics(vae, X).num_active == 2


def test_looking_changes_no_bit_of_the_training(monkeypatch):
    watched = trained(beta=50.0).state_dict()
    monkeypatch.setattr(CollapseWatch, "look", lambda self, epoch: None)
    alone = trained(beta=50.0).state_dict()
    assert all(torch.equal(watched[name], alone[name]) for name in watched)


@pytest.mark.parametrize(
    ("beta", "expected"),
    [(1.0, [20, 21, 23, 27, 35, 51, 83]), (Linear(0.0, 1.0, epochs=60.0), [60, 61, 63, 67, 75, 91]), (Linear(), [100])],
)
def test_it_looks_seldom_after_the_warm_up_and_at_validation_data(monkeypatch, beta, expected):
    looked = []
    monkeypatch.setattr(
        "pyro_vae.diagnostics.collapse.latent_statistics",
        lambda vae, x, **inputs: looked.append(x) or statistics(1.0, 1.0),
    )
    data = Dataset("x", X, valid=X[:30] + 1)
    watch = CollapseWatch(VAE((6,), 2, likelihood=Normal), data, ELBO(beta=beta), epochs=100, steps=10)
    epochs = []
    for epoch in range(1, 101):
        watch.look(epoch)
        epochs += [epoch] * (len(looked) - len(epochs))
    assert epochs == expected and all(torch.equal(x, X[:30] + 1) for x in looked)


def test_what_can_not_be_looked_at_is_left_alone(caplog):
    trained(beta=1.0, epochs=60, guide=Delta)
    CollapseWatch(torch.nn.Linear(2, 2), Dataset("x", X), ELBO(), epochs=1, steps=1000).look(1)
    CollapseWatch(VAE((3,), 2), Dataset("x", X), ELBO(), epochs=1, steps=1000).look(1)  # data of another shape
    assert [m for m in messages(caplog) if "collapse" in m] == []


def test_the_watch_warns_once_for_all(caplog):
    vae = VAE((6,), 2, likelihood=Normal)
    with torch.no_grad():
        vae.encoder.output.weight.zero_()
    watch = CollapseWatch(vae, Dataset("x", X), ELBO(), epochs=10, steps=1000)
    with caplog.at_level(logging.WARNING, logger="pyro_vae"):
        for epoch in range(1, 11):
            watch.look(epoch)
    assert len(messages(caplog)) == 1
