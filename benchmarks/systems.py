"""What is measured: the systems, and the suites that run some of them over some settings.

To add a system, write its script and name it in `TRAINING` or `EVIDENCE`; to add a row of settings, extend a `Suite`.
"""

from dataclasses import dataclass

OURS, BY_HAND = "ours, compiled", "by hand"


@dataclass(frozen=True)
class System:
    """A command.

    Args:
        script: a file of this folder.
        options: its options.
        environment: whose Python runs it: "project", or a file of `requirements/`.
        cache: what TorchInductor finds of earlier runs: "kept", "cold" (nothing) or "warm" (all that it needs).
        processes: how many `torchrun` starts; 0 for a plain run.
        scaled: whether the scale's number of images holds, or fewer: a quarter, and the script's own for log p(x).
    """

    script: str
    options: tuple[str, ...] = ()
    environment: str = "project"
    cache: str = "kept"
    processes: int = 0
    scaled: bool = True


ONEDNN = ("--onednn",)
TRAINING = {
    OURS: System("ours.py", ("--mode", "compiled", *ONEDNN)),
    "ours, eager": System("ours.py", ("--mode", "eager", *ONEDNN)),
    "ours, bf16": System("ours.py", ("--mode", "bf16", *ONEDNN)),
    "PyTorch, usual loop": System("torch_loop.py", ("--kind", "usual", *ONEDNN)),
    "PyTorch, best loop": System("torch_loop.py", ("--kind", "best", *ONEDNN)),
    "PyTorch, torch.compile": System("torch_loop.py", ("--kind", "compiled", *ONEDNN)),
    "PyTorch, torch.compile, bf16": System("torch_loop.py", ("--kind", "compiled", "--bf16", *ONEDNN)),
    "Pyro's example": System("pyro_example.py", ONEDNN),
    "pythae": System("pythae_trainer.py", ONEDNN, "pythae"),
    "Lightning": System("lightning_trainer.py", ONEDNN, "lightning"),
    "NumPyro": System("numpyro_svi.py", environment="numpyro"),
    "products and Adam alone": System("step_floor.py", ONEDNN),
    "PyTorch, usual loop (as installed)": System("torch_loop.py", ("--kind", "usual")),
    "Pyro's example (as installed)": System("pyro_example.py"),
    "pythae (as installed)": System("pythae_trainer.py", environment="pythae"),
}
EVIDENCE = {
    OURS: System("ours_evidence.py", ("--mode", "compiled", *ONEDNN)),
    "ours, eager": System("ours_evidence.py", ("--mode", "eager", *ONEDNN)),
    "ours, bf16": System("ours_evidence.py", ("--mode", "bf16", *ONEDNN)),
    "Pyro RenyiELBO, vectorized": System("pyro_renyi.py", ("--vectorized", *ONEDNN)),
    "Pyro RenyiELBO, looped": System("pyro_renyi.py", ("--looped", *ONEDNN)),
    "Pyro Importance": System("pyro_importance.py", ONEDNN, scaled=False),
    "pythae get_nll": System("pythae_nll.py", ONEDNN, "pythae", scaled=False),
    "NumPyro RenyiELBO": System("numpyro_renyi.py", environment="numpyro"),
    "JAX by hand": System("jax_chunked.py", environment="numpyro"),
    "matrix products alone": System("matmul_floor.py", ONEDNN),
}
PARTS_TIMED = (
    "DiagonalNormal",
    "FullNormal",
    "InverseAutoregressiveFlow",
    "ELBO(num_particles=5)",
    "ELBO(analytic_kl=True)",
    "IWAE(5)",
    "IWAE(50)",
    "DReG(5)",
    "DReG(50)",
    "MixtureOfNormals prior",
    "VampPrior(50)",
    "VampPrior(500)",
    "ConvNet(16, 32)",
    "ResNet(16, 32)",
    "HierarchicalVAE, two layers",
    "VQVAE",
    "SemiSupervisedVAE, a tenth labelled",
    "IWAE(5), half the pixels missing",
)
"""The names in `our_parts.PARTS`, which this file does not import: that would take torch."""
MANY_DRAWS = ("IWAE(50)", "DReG(50)")
"""Parts that take some thirty times as long for an image: a fifth of the images of the others."""
PARTS = {
    OURS: System("our_parts.py", ("--mode", "compiled", *ONEDNN), scaled=False),
    "ours, eager": System("our_parts.py", ("--mode", "eager", *ONEDNN), scaled=False),
    BY_HAND: System("twins.py", ONEDNN, scaled=False),
}
ANNEALING = {
    "AIS": System("ours_annealing.py", ("--sampler", "ais", "--compile", *ONEDNN)),
    "HMC": System("ours_annealing.py", ("--sampler", "hmc", *ONEDNN)),
}
EQUALLY_TIGHT = {
    "guide": ("--leapfrog", "1", "--steps", "1", "--fewer", "10"),
    "prior": ("--leapfrog", "3", "--steps", "1", "--fewer", "2"),
}
"""By start: the steps with which peers do best for their gradients, and how many fewer temperatures ours needs for an
error that is no larger. At 500 temperatures 1, 2 and 3 steps leave a standard error of 0.009, 0.006 and 0.020 nats
from the guide, 0.0045, 0.0029 and 0.0007 from the prior, for 10 images."""
ANNEALED = {
    OURS: System("ours_annealing.py", ("--sampler", "ais", "--compile", *ONEDNN)),
    "ours, eager": System("ours_annealing.py", ("--sampler", "ais", *ONEDNN)),
    "PyTorch by hand": System("torch_annealing.py", ONEDNN),
    "NumPyro's HMC": System("jax_annealing.py", ("--library", "numpyro"), "numpyro"),
    "BlackJAX's HMC": System("jax_annealing.py", ("--library", "blackjax"), "blackjax"),
}
FIRST_STEP = {
    "ours, eager": System("ours.py", ("--mode", "eager")),
    "ours, compiled, cold cache": System("ours.py", ("--mode", "compiled"), cache="cold"),
    "ours, compiled, warm cache": System("ours.py", ("--mode", "compiled"), cache="warm"),
    "PyTorch, best loop": System("torch_loop.py", ("--kind", "best")),
    "PyTorch, torch.compile, cold cache": System("torch_loop.py", ("--kind", "compiled"), cache="cold"),
    "PyTorch, torch.compile, warm cache": System("torch_loop.py", ("--kind", "compiled"), cache="warm"),
    "Pyro's example": System("pyro_example.py"),
    "NumPyro": System("numpyro_svi.py", environment="numpyro"),
}
PROCESSES = {
    OURS: System("ours.py", ("--mode", "compiled", *ONEDNN)),
    "ours, eager": System("ours.py", ("--mode", "eager", *ONEDNN)),
}


@dataclass(frozen=True)
class Suite:
    """Some systems over some settings, in one table.

    Args:
        title: heading of the table.
        kind: "training", "evidence" or "first step": which line the scripts print.
        systems: what to run, by name.
        axis: the option that is varied, e.g. "--batch"; "" for none; "processes" for `torchrun`'s number.
        settings: its values.
        options: options of all runs; they win over those of the scale.
        busy: whether a process beside each run keeps a core busy.
    """

    title: str
    kind: str
    systems: dict[str, System]
    axis: str = ""
    settings: tuple[str, ...] = ("",)
    options: tuple[str, ...] = ()
    busy: bool = False


@dataclass(frozen=True)
class Scale:
    """How much work a run is.

    Args:
        threads: of every run, unless they are what is varied.
        num: images in an epoch.
        epochs: timed epochs.
        images: images of an evidence run.
        few: whether growth takes its first and last setting only.
        onednn: whether the products of all torch systems go to oneDNN: where it is better, as `pyro_vae` finds.
    """

    threads: int
    num: int = 60_000
    epochs: int = 2
    images: int = 100
    few: bool = False
    onednn: bool = True


def _some(systems: dict[str, System], *names: str) -> dict[str, System]:
    return {name: systems[name] for name in names}


_GROWTH = _some(TRAINING, OURS, "ours, eager", "PyTorch, best loop", "Pyro's example", "pythae", "NumPyro")
_HINDERED = _some(TRAINING, OURS, "ours, eager", "PyTorch, best loop", "Pyro's example", "NumPyro")


def _annealing(growth: str, axis: str, settings: tuple[str, ...], scale: Scale) -> Suite:
    """Markov chains of 500 temperatures, or draws."""
    temperatures = "20" if scale.few else "500"
    return Suite(
        f"AIS and HMC by {growth}", "evidence", ANNEALING, axis, settings, options=("--temperatures", temperatures)
    )


def _annealed(start: str, scale: Scale) -> Suite:
    """AIS beside peers, with the error of log p(x) over three passes."""
    images, temperatures = ("2", "20") if scale.few else ("50", "500")
    title = f"Annealed importance sampling from the {start} to equal accuracy, 16 chains"
    length = ("--images", images, "--temperatures", temperatures, "--repeats", "3")
    return Suite(title, "evidence", ANNEALED, options=("--start", start, *length, *EQUALLY_TIGHT[start]))


def suites(scale: Scale) -> dict[str, Suite]:
    """All suites, in the order in which they run."""
    powers = [2**k for k in range(scale.threads.bit_length())]
    cores = tuple(str(count) for count in sorted({*powers, scale.threads}))
    equal = {name: system for name, system in TRAINING.items() if "as installed" not in name}
    training = TRAINING if scale.onednn else equal
    deep = ("--decoder", "50-200-200-784")
    estimators = _some(EVIDENCE, OURS, "ours, eager", "Pyro RenyiELBO, vectorized", "NumPyro RenyiELBO", "JAX by hand")
    found = {
        "training": Suite("Training, batches of 100", "training", training),
        "training-256": Suite("Training, batches of 256", "training", equal, options=("--batch", "256")),
        "training-1024": Suite("Training, batches of 1024", "training", equal, options=("--batch", "1024")),
        "training-beside": Suite(
            "Training, batches of 100, beside one busy process of equal priority", "training", _HINDERED, busy=True
        ),
        "training-one-thread": Suite(
            "Training, batches of 100, one thread", "training", _HINDERED, options=("--threads", "1")
        ),
        "evidence": Suite("log p(x), K = 5000, decoder 20-500-784", "evidence", EVIDENCE),
        "evidence-deep": Suite("log p(x), K = 5000, decoder 50-200-200-784", "evidence", EVIDENCE, options=deep),
        "first-step": Suite("Seconds to the first step", "first step", FIRST_STEP),
        "parts": Suite("Parts, beside the same written by hand in PyTorch", "training", PARTS, "--part", PARTS_TIMED),
        "batch": Suite("Training by batch size", "training", _GROWTH, "--batch", ("100", "256", "1024", "4096")),
        "width": Suite("Training by width", "training", _GROWTH, "--hidden", ("125", "250", "500", "1000", "2000")),
        "latent": Suite("Training by latent size", "training", _GROWTH, "--latent", ("2", "20", "200")),
        "threads": Suite("Training by threads", "training", _GROWTH, "--threads", cores),
        "particles": Suite("log p(x) by K", "evidence", estimators, "--particles", ("500", "5000", "50000")),
        "ais-guide": _annealed("guide", scale),
        "ais-prior": _annealed("prior", scale),
        "ais-chains": _annealing("chains", "--chains", ("1", "4", "16", "64"), scale),
        "ais-images": _annealing("images", "--images", ("10", "50", "200"), scale),
        "ais-latent": _annealing("latent size", "--latent", ("2", "10", "50", "200"), scale),
        "processes": Suite("Training by processes, one thread each", "training", PROCESSES, "processes", cores),
    }
    return {name: _reduced(suite) for name, suite in found.items()} if scale.few else found


def _reduced(suite: Suite) -> Suite:
    ends = dict.fromkeys((suite.settings[0], suite.settings[-1]))
    growth = suite.axis not in ("", "--part")
    return Suite(**{**vars(suite), "settings": tuple(ends)}) if growth else suite


@dataclass(frozen=True)
class Case:
    """One run: a system of a suite at a setting, with all of its options."""

    suite: str
    system: str
    setting: str
    command: tuple[str, ...]
    environment: str
    cache: str
    processes: int
    busy: bool


def cases(name: str, suite: Suite, scale: Scale, turn: int) -> list[Case]:
    """The runs of one round: setting by setting, the systems in turn, their order rotated by `turn`."""
    names = list(suite.systems)
    first = turn % len(names)
    order = names[first:] + names[:first]
    return [_case(name, suite, system, setting, scale) for setting in suite.settings for system in order]


def _case(name: str, suite: Suite, system: str, setting: str, scale: Scale) -> Case:
    what = suite.systems[system]
    options = {"--threads": str(scale.threads), **_work(suite, what, setting, scale)}
    processes = what.processes
    if suite.axis == "processes":
        options["--threads"], processes = "1", int(setting)
    elif suite.axis:
        options[suite.axis] = setting
    flat = tuple(word for option in options.items() for word in option)
    command = tuple(w for w in (what.script, *what.options, *flat, *suite.options) if scale.onednn or w not in ONEDNN)
    return Case(name, system, setting, command, what.environment, what.cache, processes, suite.busy)


def _work(suite: Suite, what: System, setting: str, scale: Scale) -> dict[str, str]:
    """The options that say how much to do."""
    if suite.kind == "first step":
        return {"--num": "100", "--epochs": "0"}
    if suite.kind == "training":
        parts = 20 if setting in MANY_DRAWS else 4
        return {"--num": str(scale.num if what.scaled else scale.num // parts), "--epochs": str(scale.epochs)}
    if not what.scaled:
        return {}
    per_k = 5000 / int(setting) if suite.axis == "--particles" else 1.0
    return {"--images": str(max(2, round(scale.images * per_k)))}
