"""The examples of physics: exact formulas against enumeration, samples against them, estimates where all is known."""

import importlib
import json
import runpy
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pyro_vae.testing import check_part

PHYSICS = Path(__file__).parents[2] / "examples" / "physics"
NAMES = [path.stem for path in PHYSICS.glob("*.py")]


@pytest.fixture(scope="module")
def physics():
    """The files of the folder as modules, as they find each other when a script runs."""
    sys.path.insert(0, str(PHYSICS))
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in NAMES})
    sys.path.remove(str(PHYSICS))
    for name in NAMES:
        sys.modules.pop(name)


def run(name, words):
    namespace = runpy.run_path(str(PHYSICS / f"{name}.py"))
    return namespace["main"](namespace["parser"]().parse_args([str(word) for word in words]))


@pytest.mark.parametrize("size", [3, 4])
def test_kaufman_is_the_sum_over_all_states(physics, size):
    exact = physics.exact_ising
    temperature = torch.tensor([0.7, 1.6, 2.2, exact.CRITICAL, 2.3, 3.0, 20.0], dtype=torch.float64)
    formula, enumerated = exact.thermodynamics(temperature, size), exact.enumerated(temperature, size)
    for got, expected in zip(formula, enumerated, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-8)


def test_kaufman_of_a_large_lattice_is_onsager(physics):
    """At the transition the infinite lattice has energy -sqrt(2) and a known entropy; finite ones are off by O(1/L)."""
    critical = torch.tensor([physics.exact_ising.CRITICAL])
    found = {size: physics.exact_ising.thermodynamics(critical, size) for size in (64, 128)}
    energy, entropy = (2 * found[128][name] - found[64][name] for name in (1, 0))
    assert energy.item() == pytest.approx(-(2**0.5), abs=1e-4)
    assert entropy.item() == pytest.approx(physics.exact_ising.critical_entropy(), abs=1e-4)


def test_states_have_the_exact_energy(physics):
    """Means over 300 chains within 4.5 standard errors at 5 temperatures: false alarm 3e-5."""
    temperature = torch.tensor([1.8, 2.2, 2.4, 2.8, 4.0], dtype=torch.float64)
    states = physics.conditional.simulate(physics.swendsen_wang.ising, temperature, 6, 300, 2, 0)
    each = physics.exact_ising.energies(states.x.double()).mean(2) / 36
    off = each.mean(1) - physics.exact_ising.thermodynamics(temperature, 6).energy
    assert (off.abs() < 4.5 * each.std(1) / 300**0.5).all()


def test_angles_are_in_equilibrium(physics):
    """<(dE/da)^2> = T <d^2E/da^2> holds for the Boltzmann distribution: within 4.5 errors at 3 T, false alarm 2e-5."""
    temperature = torch.tensor([0.4, 0.9, 2.0], dtype=torch.float64)
    angle = physics.conditional.simulate(physics.swendsen_wang.xy, temperature, 6, 200, 2, 0).x
    assert -np.pi <= angle.min() and angle.max() < np.pi
    steps = torch.stack([angle - angle.roll(shift, axis) for shift in (1, -1) for axis in (-1, -2)])
    excess = steps.sin().sum(0).square() - temperature.reshape(-1, 1, 1, 1, 1) * steps.cos().sum(0)
    each = excess.mean((2, 3, 4))
    assert (each.mean(1).abs() < 4.5 * each.std(1) / 200**0.5).all()
    total = physics.helicity.energies(angle)
    torch.testing.assert_close(total, -steps.cos().sum((0, -1, -2)) / 2)


def test_copies_have_the_same_energy(physics):
    spins = torch.randn(100, 5, 5).sign()
    copies = physics.conditional.moved(spins, 2, seed=0)
    energy = physics.exact_ising.energies(spins)
    torch.testing.assert_close(physics.exact_ising.energies(copies), energy.repeat(2))
    assert not torch.equal(copies[:100], spins) and not torch.equal(copies[100:], copies[:100])


def test_heat_capacities_agree_for_the_exact_distribution(physics):
    """With log p = -E/T - log Z all ways but differences of entropies are Var(E)/T^2, on the same states."""
    temperature = torch.linspace(2.0, 2.6, 7, dtype=torch.float64)
    states = physics.conditional.simulate(physics.swendsen_wang.ising, temperature, 4, 20, 2, 0)
    energy, t = physics.exact_ising.energies(states.x.double()), temperature.reshape(-1, 1, 1)
    slope = (energy - energy.mean((1, 2), keepdim=True)) / t**2
    log_z = physics.exact_ising.log_partition(1 / temperature, 4).reshape(t.shape)
    nothing = torch.zeros_like(energy)
    measured = physics.ising_vae.Measured(-energy / t - log_z, slope, energy, nothing, nothing, nothing)
    found = physics.transition.curves(measured, temperature, 16)
    biased = found["energy"] * (40 - 1) / 40  # a covariance with 1 / n
    torch.testing.assert_close(found["variance"], found["energy"])
    torch.testing.assert_close(found["slopes"], found["energy"])
    torch.testing.assert_close(found["fluctuations"], biased)


def test_differences_of_the_exact_entropy_are_the_heat_capacity(physics):
    temperature = torch.linspace(2.0, 2.6, 61, dtype=torch.float64)
    exact = physics.exact_ising.thermodynamics(temperature, 4)
    log_p = (-16 * exact.entropy).reshape(-1, 1, 1).expand(-1, 2, 2)
    found = physics.transition.curves(physics.ising_vae.Measured(*[log_p] * 6), temperature, 16)
    torch.testing.assert_close(found["differences"][1:-1], exact.heat_capacity[1:-1], rtol=1e-3, atol=0)


def test_exact_peaks_extrapolate_to_the_transition(physics):
    """The fit of the peak and the line in 1/L together are off by less than 0.01 J/k_B where there is no noise."""
    temperature = torch.arange(2.0, 2.81, 0.05, dtype=torch.float64)
    exact = {size: physics.exact_ising.thermodynamics(temperature, size).heat_capacity for size in (8, 12, 16)}
    peaks = {size: physics.transition.peak(temperature, c) for size, c in exact.items()}
    assert physics.transition.extrapolated(peaks) == pytest.approx(physics.exact_ising.CRITICAL, abs=0.01)
    assert peaks[8] == pytest.approx(2.362, abs=0.01) and peaks[16] == pytest.approx(2.3175, abs=0.01)


def test_cumulants_cross(physics):
    temperature = torch.linspace(1.9, 2.6, 15, dtype=torch.float64)
    crossing = partial(physics.transition.crossing, temperature, torch.zeros_like(temperature))
    assert crossing(0.01 - 0.1 * (temperature - 2.2)) == pytest.approx(2.3, abs=1e-3)
    assert np.isnan(crossing(torch.ones_like(temperature)))
    gaussian = physics.transition.binder(torch.randn(1, 400, 500, dtype=torch.float64))
    assert gaussian.item() == pytest.approx(0.0, abs=0.02)  # 9 standard errors
    assert physics.transition.binder(torch.tensor([[[1.0, -1.0]]])).item() == pytest.approx(2 / 3)


def test_von_mises_keeps_the_promises_of_a_likelihood(physics):
    checked = check_part(physics.von_mises.VonMises)
    left_out = {outcome.check for outcome in checked if outcome.left_out}
    by_rejection = {"vae_stays_on_its_device"}  # torch's sampler repeats until all draws are accepted: it needs values
    assert len(checked) > 20 and left_out == {"mean", "starts_at_the_mean"} | by_rejection


def test_von_mises_direction(physics):
    """E[cos x] and E[sin x] against quadrature, also where the concentration is 0; `best` has their angle."""
    a, b = torch.tensor([[0.0, 1.5, -30.0], [0.0, -2.0, 4.0]], dtype=torch.float64)
    elements = physics.von_mises._VonMises(a, b)
    x = torch.linspace(-np.pi, np.pi, 4001, dtype=torch.float64)[:-1, None]
    p = elements.log_prob(x).exp() * 2 * np.pi / 4000
    for got, of in zip(elements.direction, (x.cos(), x.sin()), strict=True):
        torch.testing.assert_close(got, (p * of).sum(0), rtol=1e-6, atol=1e-6)
    likelihood = physics.von_mises.VonMises(SimpleNamespace(event=(3,), latent=2, context=None))
    best = likelihood.best(likelihood.averaged(elements))
    torch.testing.assert_close(best[1:], torch.atan2(b, a)[1:])


def test_kosterlitz_thouless_of_the_law_itself(physics):
    """A helicity modulus with Weber and Minnhagen's size dependence at T = 0.88 and more or less of it elsewhere."""
    t = torch.arange(0.6, 1.05, 0.05, dtype=torch.float64)
    law = {size: 2 * np.log(size) * (1 + 2 * (t - 0.88)) + 3 for size in (8, 16)}
    helicity = {size: 2 * t / np.pi * (1 + 1 / inverse) for size, inverse in law.items()}
    assert physics.helicity.kosterlitz_thouless(t, helicity).item() == pytest.approx(0.88, abs=1e-6)
    assert physics.helicity.kosterlitz_thouless(t[:4], {s: y[:4] for s, y in helicity.items()}).isnan()


def test_ordered_angles_are_stiff(physics):
    """Without fluctuations the helicity modulus is 1; a code that is the magnetisation, turned, is aligned with it."""
    ordered = torch.full((2, 3, 1, 4, 4), 0.3, dtype=torch.float64)
    of = physics.helicity.winding(ordered)
    torch.testing.assert_close(physics.helicity.stiffness(of, torch.ones(2).double(), 4), torch.ones(2).double())
    m = torch.polar(torch.rand(2, 50, 1).double(), 6 * torch.rand(2, 50, 1).double())
    mirrored = torch.view_as_real(m.conj() * torch.polar(torch.tensor(2.0), torch.tensor(1.0)))
    torch.testing.assert_close(physics.xy.alignment(mirrored, m), torch.ones(2).double())
    options = SimpleNamespace(seed=0, resamples=5)
    found = physics.xy._with_errors(physics.xy.alignment, (mirrored, m), options)  # code and m of the same chains
    assert min(found["low"]) > 1 - 1e-9 and max(found["standard_error"]) < 1e-9
    assert physics.xy.alignment(torch.randn(2, 50, 1, 2).double(), m).max() < 0.6  # Rayleigh: exp(-50 * 0.36) each


SIZES = ["--chains", 20, "--kept", 4, "--every", 2, "--copies", 6, "--hidden", 16, "--num_particles", 20]


def test_ising(physics, tmp_path, capsys):
    words = [*SIZES, "--sizes", 3, 4, "--temperatures", 1.6, 2.0, 2.2, 2.4, 3.2, "--latent_dim", 1, "--epochs", 15]
    table = run("ising", [*words, "--resamples", 5, "--out", tmp_path])
    saved = json.loads((tmp_path / "table.json").read_text())
    assert saved["L = 4"] == table["L = 4"] and list(saved) == list(table) and len(saved["transition"]) == 8
    for size in (3, 4):
        row = table[f"L = {size}"]
        gap = np.array(row["values"]["cross_entropy"]) - np.array(row["exact"]["entropy"])
        assert (gap > -4 * np.array(row["standard_errors"]["cross_entropy"])).all()
        assert row["values"]["correlation"] > 0.5 and row["health"]["num_data"] == 5 * 20 * 2
    for name in ("order", "thermodynamics", "transition"):
        assert (tmp_path / f"{name}.png").stat().st_size > 1000
    told = capsys.readouterr().out
    assert "exact T_c = 2.269" in told and "states flagged at K = 20" in told


def test_xy(physics, tmp_path, capsys):
    words = [*SIZES, "--sizes", 3, 4, "--temperatures", 0.3, 0.9, 1.5, "--epochs", 20]
    table = run("xy", [*words, "--resamples", 5, "--out", tmp_path])
    assert list(json.loads((tmp_path / "table.json").read_text())) == list(table)
    assert table["alignment"]["value"][0] > 0.5 and len(table["helicity, L = 4"]["value"]) == 3
    assert table["magnetisation"]["value"][0] > table["magnetisation"]["value"][-1]
    for name in ("circles", "transition"):
        assert (tmp_path / f"{name}.png").stat().st_size > 1000
    assert "95 % interval" in capsys.readouterr().out
