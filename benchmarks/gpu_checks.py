"""Part 1 of `gpu.py`: what is computed on a GPU is what is computed on the CPU.

Each check returns the largest relative difference that it found and the tolerance, or raises `AssertionError`. Random
numbers of the two devices differ, so both draw on the CPU (`DrawnOnCpu`) wherever values are compared.
"""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from common import images
from torch import Tensor, nn

from pyro_vae import VAE, ais, fit, log_marginal
from pyro_vae.compiling.backends import exact_products
from pyro_vae.evidence import Annealing
from pyro_vae.likelihoods import Normal
from pyro_vae.networks import MLP, ConvNet
from pyro_vae.objectives import ELBO, NotTensorial
from pyro_vae.process.seeding import seeded
from pyro_vae.process.torch_internals import DispatchMode, argument_names, changes_in_place
from pyro_vae.testing import AXES, Axis, Part
from pyro_vae.testing.inside_a_vae import case_of, data_for
from pyro_vae.testing.modules import perturbed, small_mlp

Found = dict[str, float]
Check = Callable[[str], Found]
TOLERANCES = {torch.float64: 1e-6, torch.float32: 2e-4}
"""Largest difference relative to the largest value of the same tensor, or for gradients of all of them.

Rounding in single precision changes the results of these checks by 2.5e-5 at most, products in TF32 would by 5e-4.
"""
IN_A_VAE = ("prior", "likelihood", "guide", "network")


def first_checks() -> Iterator[tuple[str, Check]]:
    """Each class by its defaults in double precision, and the public functions, by name."""
    yield from _of_parts("defaults", torch.float64)
    yield from _of_calls()


def more_checks() -> Iterator[tuple[str, Check]]:
    """Each class by its defaults in single precision, and by its other settings."""
    yield from _of_parts("defaults", torch.float32)
    yield from _of_parts("other settings", torch.float64)


# ---- the same on two devices


class DrawnOnCpu(DispatchMode):
    """Inside, random numbers are drawn on the CPU, also those of tensors on another device.

    By the CPU's default generator; in place of a generator of the other device by one with the same seed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.twins: dict[Any, torch.Generator] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation; on the CPU, and copied to its device, if it draws."""
        kwargs = kwargs or {}
        if not (torch.Tag.nondeterministic_seeded in func.tags or "generator" in argument_names(func)):
            return func(*args, **kwargs)
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        place = given[0].device if given else torch.device(kwargs.get("device") or "cpu")
        drawn = func(*map(self.on_cpu, args), **{name: self.on_cpu(value) for name, value in kwargs.items()})
        if changes_in_place(func):
            return args[0].copy_(drawn)
        return tuple(part.to(place) for part in drawn) if isinstance(drawn, tuple) else drawn.to(place)

    def on_cpu(self, value: Any) -> Any:
        """An argument, with the CPU in place of its device."""
        if isinstance(value, Tensor):
            return value.cpu()
        if isinstance(value, torch.device):
            return torch.device("cpu")
        if hasattr(value, "initial_seed") and value.device.type != "cpu":  # a generator
            return self.twins.setdefault(value, torch.Generator().manual_seed(value.initial_seed()))
        return value


def compare(here: Mapping[str, Tensor], there: Mapping[str, Tensor], tolerance: float) -> Found:
    """The largest difference of tensors of the same name, relative to the largest finite value of its group.

    The group of `gradient of NAME` is all gradients; any other tensor is its own group.

    Raises:
        AssertionError: if one is above the tolerance, or nan and infinite values are at other places.
    """
    assert here.keys() == there.keys(), f"other tensors: {sorted(here.keys() ^ there.keys())}"
    gradient = max((_largest(value) for name, value in here.items() if name.startswith("gradient")), default=0.0)
    found = {
        name: _difference(value, there[name].cpu(), gradient if name.startswith("gradient") else _largest(value))
        for name, value in here.items()
    }
    worst = max(found, key=lambda name: found[name])
    assert found[worst] <= tolerance, f"{worst}: relative difference {found[worst]:.2g}, allowed {tolerance:g}"
    return {"difference": found[worst], "tolerance": tolerance}


def _largest(value: Tensor) -> float:
    finite = value[value.isfinite()]
    return finite.abs().max().item() if finite.numel() else 0.0


def _difference(a: Tensor, b: Tensor, scale: float) -> float:
    same = (a == b) | (a.isnan() & b.isnan())
    apart = torch.where(same, torch.zeros_like(a), a - b).abs().max().item() if a.numel() else 0.0
    return (apart / scale if scale else apart) if apart == apart else float("inf")


# ---- parts


def _of_parts(which: str, dtype: torch.dtype) -> Iterator[tuple[str, Check]]:
    known: dict[str, Callable[[Part, torch.dtype, str], Found]]
    known = {**dict.fromkeys(IN_A_VAE, in_a_vae), "objective": as_objective}
    for axis in AXES:
        if axis.name in known:
            for part in _settings(axis, which):
                name = f"{axis.name} {part}, {str(dtype).removeprefix('torch.')}"
                yield name, partial(known[axis.name], part, dtype)


def _settings(axis: Axis, which: str) -> Iterator[Part]:
    for cls in axis.classes():
        first, *others = axis.settings(cls, variants=which != "defaults")
        yield from [first] if which == "defaults" else others


def in_a_vae(part: Part, dtype: torch.dtype, device: str) -> Found:
    """A VAE with this part: draws, densities, the ELBO and its gradients."""
    torch.manual_seed(0)
    case = case_of(part)
    vae: Any = case.vae()
    x = data_for(vae.likelihood).to(dtype)
    inputs = {name: value.to(dtype) for name, value in case.inputs.items()}
    return _on_both(_results_of_vae, without_dropout(vae.to(dtype)), {"x": x, **inputs}, device, TOLERANCES[dtype])


def _results_of_vae(vae: Any, x: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
    z = vae.encode(x, **inputs).rsample()
    prior, elements = vae.prior_distribution(inputs.get("c")), vae.decode(z, **inputs)
    loss = ELBO().tensor_loss(vae.model, vae.guide, x, torch.ones_like(x, dtype=torch.bool), **inputs)
    values = {
        "a draw of q(z|x)": z,
        "log p(z)": prior.log_prob(z),
        "log p(x|z)": elements.log_prob(x),
        "a draw of the prior": prior.sample(),
        "a draw of x": elements.sample(),
    }
    return {**values, **_with_gradients(vae, loss)}


def as_objective(part: Part, dtype: torch.dtype, device: str) -> Found:
    """An objective of a small VAE: its loss and its gradients."""
    torch.manual_seed(0)
    vae = perturbed(VAE(part.event, part.latent, likelihood=Normal, encoder=small_mlp, decoder=small_mlp)).to(dtype)
    objective = part().for_data(1000).at(0.5, 1.0)

    def results(vae: Any, x: Tensor) -> dict[str, Tensor]:
        try:
            return _with_gradients(vae, objective.tensor_loss(vae.model, vae.guide, x))
        except NotTensorial:
            return _with_gradients(vae, objective(vae.model, vae.guide, x))

    return _on_both(results, vae, {"x": torch.randn(6, *part.event, dtype=dtype)}, device, TOLERANCES[dtype])


def without_dropout(module: nn.Module) -> nn.Module:
    """In training mode but for dropout, whose draws torch makes by other operations on a GPU."""
    module.train()
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.eval()
    return module


def _with_gradients(vae: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    named = {name: p for name, p in vae.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    found = {f"gradient of {name}": g for name, g in zip(named, gradients, strict=True) if g is not None}
    return {"the loss": loss, **found}


def _on_both(
    results: Callable[..., dict[str, Tensor]], vae: nn.Module, inputs: dict[str, Tensor], device: str, tolerance: float
) -> Found:
    twin, moved = deepcopy(vae).to(device), {name: value.to(device) for name, value in inputs.items()}
    found = []
    for module, given in ((vae, inputs), (twin, moved)):
        with seeded(0, "both"), DrawnOnCpu(), exact_products():
            found.append({name: value.detach() for name, value in results(module, **given).items()})
    strays = [name for name, value in found[1].items() if value.device.type != torch.device(device).type]
    assert not strays, f"not on {device}: {', '.join(strays)}"
    here, there = found
    return compare(here, there, tolerance)


# ---- public functions


def _of_calls() -> Iterator[tuple[str, Check]]:
    import gpu_run_checks

    yield "fit, eager, against the CPU", fit_as_on_the_cpu
    yield "fit, compiled, against eager", fit_compiled
    yield "log_marginal, eager, against the CPU", evidence_as_on_the_cpu
    yield "log_marginal, compiled, against eager", evidence_compiled
    yield "log_marginal of convolutions, against the CPU", convolutions_as_on_the_cpu
    yield from gpu_run_checks.CHECKS.items()
    yield "ais against the CPU", annealing_as_on_the_cpu


SIZE = {"hidden": 32, "latent": 4, "images": 600, "pixels": 64}


def make(dtype: torch.dtype = torch.float32) -> VAE:
    """A small VAE, always with the same weights."""
    network = partial(MLP, hidden=(SIZE["hidden"],))
    with seeded(0, "init"):
        return VAE((SIZE["pixels"],), SIZE["latent"], encoder=network, decoder=network).to(dtype)


def data(dtype: torch.dtype = torch.float32) -> Tensor:
    """Synthetic images for it."""
    return torch.from_numpy(images(SIZE["images"], seed=0, pixels=SIZE["pixels"])).to(dtype)


def trained(device: str, dtype: torch.dtype = torch.float32, **options: Any) -> tuple[VAE, dict[str, Tensor], str]:
    """A VAE after a training; the losses of its epochs, nats per datum, and how it was trained."""
    vae = make(dtype)
    history = fit(vae, data(dtype), epochs=4, batch_size=100, device=device, progress=False, **options)
    return vae, {"losses": torch.tensor(history.column("loss"))}, history.mode


def fit_as_on_the_cpu(device: str) -> Found:
    """In double precision with the same draws: the losses of all epochs."""
    with DrawnOnCpu():
        here, there = (trained(where, torch.float64, compile=False)[1] for where in ("cpu", device))
    return compare(here, there, 1e-6)


def fit_compiled(device: str) -> Found:
    """In single precision on the device, with its own draws: the losses of all epochs."""
    eager, (_, compiled, mode) = trained(device, compile=False)[1], trained(device, compile=True)
    assert mode.startswith("compiled"), f"trained {mode}: the graph could not be compiled"
    return compare(eager, compiled, 1e-4)


def _evidence(device: str, compile: bool) -> dict[str, Tensor]:
    vae, x = make().to(device), data()[:120].to(device)
    found = log_marginal(vae.model, vae.guide, x, num_particles=500, compile=compile)
    return {"log p(x)": found.log_p, "standard error": found.standard_error}


def evidence_as_on_the_cpu(device: str) -> Found:
    """In single precision with the same draws."""
    with DrawnOnCpu():
        here, there = (_evidence(where, compile=False) for where in ("cpu", device))
    return compare(here, there, 1e-3)


def convolutions_as_on_the_cpu(device: str) -> Found:
    """In single precision with the same draws, and large weights: TF32 would change the result by 5e-4."""
    network = partial(ConvNet, channels=(8, 16), hidden=(32,))
    with seeded(0, "init"):
        vae = VAE((1, 8, 8), SIZE["latent"], encoder=network, decoder=network)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.mul_(2)
    found = []
    for where in ("cpu", device):
        vae, x = vae.to(where), data()[:50].reshape(-1, 1, 8, 8).to(where)
        with DrawnOnCpu():
            log_p = log_marginal(vae.model, vae.guide, x, num_particles=250, compile=False).log_p
        found.append({"log p(x)": log_p})
    return compare(found[0], found[1], 5e-5)


def evidence_compiled(device: str) -> Found:
    """On the device, with its own draws."""
    return compare(_evidence(device, compile=False), _evidence(device, compile=True), 1e-3)


def annealing_as_on_the_cpu(device: str) -> Found:
    """In double precision with the same draws; single precision makes other decisions in long chains."""
    found = []
    for where in ("cpu", device):
        vae, how = make(torch.float64).to(where), Annealing(num_temperatures=5, num_chains=4)
        with DrawnOnCpu():
            x = data(torch.float64)[:20].to(where)
            found.append({"log p(x)": ais(vae.model, vae.guide, x, annealing=how, compile=False).log_p})
    return compare(found[0], found[1], 1e-6)
