"""Every public function that computes something, called small: for tests of what holds for all of them."""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property, partial
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae import diagnostics, evidence, plots, report
from pyro_vae.channels import BitFlip, Missing
from pyro_vae.diagnostics import Compared, Comparison, Round, SearchResult
from pyro_vae.diagnostics.calibration import Calibration, simulation_based_calibration
from pyro_vae.diagnostics.predictive import posterior_predictive_check
from pyro_vae.evidence import Annealing, log_marginal
from pyro_vae.evidence.methods import METHODS
from pyro_vae.guides import SemiAmortized
from pyro_vae.inference.best_member import Search
from pyro_vae.inference.hamiltonian import HMC, hmc
from pyro_vae.inference.posteriors import METHODS as DRAWN_BY
from pyro_vae.inference.posteriors import posterior
from pyro_vae.inference.simulating import simulate
from pyro_vae.inference.unconstrained import Target
from pyro_vae.networks import MLP
from pyro_vae.objectives import ELBO
from pyro_vae.priors import MixtureOfNormals
from pyro_vae.process.seeding import seeded
from pyro_vae.schedules import Linear
from pyro_vae.tasks import codes
from pyro_vae.tasks import generation as tasks
from pyro_vae.tasks.classification import label_evidence
from pyro_vae.tasks.generation import Generated
from pyro_vae.tasks.restoring import restore
from pyro_vae.tasks.scores import METHODS as SCORED_BY
from pyro_vae.tasks.scores import detection, score, states, threshold
from pyro_vae.tasks.strength import infer_strength
from pyro_vae.training.refit import compare_priors, cross_entropy

SMALL = {"encoder": partial(MLP, hidden=(4,)), "decoder": partial(MLP, hidden=(4,))}
ANNEALING = {"num_temperatures": 2, "num_chains": 2, "num_leapfrog": 1}
GAPS = torch.arange(4) < 3
SETTINGS = HMC(num_chains=2, num_warmup=3, num_leapfrog=2)
RESTORING = {"search": Search(max_steps=5), "hmc": SETTINGS}
OPTIONS = {
    "importance": {"num_particles": 60},
    "psis": {"num_particles": 60},
    "prior": {"num_particles": 60},
    "ais": ANNEALING,
    "appendix_d": {**vars(SETTINGS), "num_samples": 50},
    "quadrature": {"tolerance": 1e-2},
}


def data(num=6, size=4) -> Tensor:
    return (torch.rand(num, size, generator=torch.Generator().manual_seed(0)) < 0.5).float()


class Things:
    """What the calls are made with, each made when it is first asked for: in the mode of that moment."""

    @cached_property
    def x(self) -> Tensor:
        return data()

    @cached_property
    def dataset(self) -> pv.data.Dataset:
        return pv.data.Dataset("some", data(12), valid=data(5), inputs={})

    @cached_property
    def vae(self) -> pv.VAE:
        with seeded(0, "init"):
            return pv.VAE((4,), latent_dim=2, **SMALL)

    @cached_property
    def mixture(self) -> pv.VAE:
        with seeded(0, "init"):
            return pv.VAE((4,), 2, prior=partial(MixtureOfNormals, components=2), **SMALL)

    @cached_property
    def refined(self) -> pv.VAE:
        with seeded(0, "init"):
            return pv.VAE((4,), 2, guide=partial(SemiAmortized, steps=2), **SMALL)

    @cached_property
    def vqvae(self) -> pv.VQVAE:
        with seeded(0, "init"):
            return pv.VQVAE((4,), codes=(2,), codebook_size=3, **SMALL)

    @cached_property
    def classes(self) -> pv.SemiSupervisedVAE:
        with seeded(0, "init"):
            return pv.SemiSupervisedVAE((4,), classes=2, latent_dim=2, **SMALL)

    @cached_property
    def layers(self) -> pv.HierarchicalVAE:
        with seeded(0, "init"):
            return pv.HierarchicalVAE((4,), latent_dims=(2, 1))

    @cached_property
    def modules(self) -> list[nn.Module]:
        return [self.vae, self.mixture, self.refined, self.vqvae, self.classes, self.layers]


def fitted(vae: nn.Module, given: Any, **options: Any) -> Any:
    """The rows of a training, without its seconds, and the weights."""
    history = pv.fit(vae, given, epochs=1, batch_size=5, progress=False, device="cpu", log_every=1, **options)
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in history.rows]
    return rows, dict(vae.state_dict())


def pair(things: Things, vae: str = "vae") -> tuple[Any, Any, Tensor]:
    module = getattr(things, vae)
    return module.model, module.guide, things.x


def subject(things: Things) -> report.Subject:
    sizes = report.Sizes(
        num_particles=60,
        num_bracketed=3,
        num_gaps=3,
        num_simulated=20,
        num_compared=2,
        num_replicated=160,
        annealing=Annealing(**ANNEALING),
    )
    return report.Subject(things.vae, report.Given(things.x), sizes=sizes)


@dataclass(frozen=True)
class Call:
    """A call of a public function.

    Args:
        run: with the things.
        covers: the function.
        runs: whether it runs a network, which can fail.
    """

    run: Callable[[Things], Any]
    covers: str
    runs: bool = True


def _aggregate(t: Things) -> Any:
    """What the distribution holds, and its density outside of the mode in which it was made."""
    found = codes.aggregate_posterior(t.vae, t.x)
    with torch.inference_mode(False):
        return [part.mean for part in found.parts], found.log_prob(torch.zeros(3, 2))


def _information(t: Things) -> Any:
    q = codes.aggregate_posterior(t.vae, t.x)
    with torch.inference_mode(False):
        prior = t.vae.prior_distribution()
    return pv.diagnostics.code_information(q, prior)


def _searched(t: Things) -> Any:
    def make(options: Any) -> Any:
        return pv.VAE((4,), **options, **SMALL), {"batch_size": 5}

    how: dict[str, Any] = {"budget": 2, "num_particles": 20, "progress": False, "device": "cpu"}
    with TemporaryDirectory() as folder:
        found = pv.search(make, {"latent_dim": [1, 2]}, t.dataset, run=folder, **how)
    return {name: value for name, value in found.summary().items() if name != "run"}


def _stored(t: Things) -> Any:
    with TemporaryDirectory() as folder:
        stored = pv.store_data(torch.utils.data.TensorDataset(t.x), f"{folder}/x", progress=False)
        return {path.name: np.load(path) for path in sorted(stored.glob("*.npy"))}


def _log_marginal(t: Things) -> Any:
    return log_marginal(*pair(t), num_particles=60)


CALLS: dict[str, Call] = {
    "log_marginal": Call(_log_marginal, "log_marginal"),
    "log_marginal in bf16": Call(lambda t: log_marginal(*pair(t), num_particles=60, precision="bf16"), "log_marginal"),
    "log_marginal, refined guide": Call(lambda t: log_marginal(*pair(t, "refined"), num_particles=20), "log_marginal"),
    "log_marginal, layers": Call(lambda t: log_marginal(*pair(t, "layers"), num_particles=20), "log_marginal"),
    "importance": Call(
        lambda t: seeded_importance(*pair(t)),
        "importance",
    ),
    "importance, refined guide": Call(lambda t: seeded_importance(*pair(t, "refined")), "importance"),
    "ais": Call(lambda t: pv.ais(*pair(t), annealing=Annealing(**ANNEALING)), "ais"),
    "reverse_ais": Call(
        lambda t: evidence.reverse_ais(*pair(t), latents={"z": torch.zeros(1, 6, 2)}, annealing=Annealing(**ANNEALING)),
        "reverse_ais",
    ),
    "bdmc": Call(lambda t: pv.bdmc(*pair(t)[:2], 3, like=t.x[0], annealing=Annealing(**ANNEALING)), "bdmc"),
    "bound": Call(lambda t: evidence.bound(*pair(t)), "bound"),
    **{
        f"estimate by {name}": Call(lambda t, name=name: pv.estimate(name, *pair(t), **OPTIONS[name]), "estimate")
        for name in METHODS
    },
    **{
        f"posterior by {name}": Call(
            lambda t, name=name: posterior(*pair(t), num_draws=8, method=name, num_particles=60, hmc=SETTINGS),
            "posterior",
        )
        for name in DRAWN_BY
    },
    "hmc": Call(
        lambda t: hmc(lambda z: -z.square().sum(-1) / 2, torch.zeros(2, 3, 2), 4, settings=SETTINGS), "hmc", False
    ),
    "hmc on a target": Call(
        lambda t: hmc(Target(*pair(t)).log_joint, torch.zeros(2, 6, 2), 4, settings=SETTINGS), "hmc"
    ),
    "simulate": Call(lambda t: simulate(t.vae.model, t.x), "simulate"),
    "latent_statistics": Call(lambda t: pv.latent_statistics(t.vae, t.x), "latent_statistics"),
    "inference_gaps": Call(
        lambda t: pv.inference_gaps(t.vae, t.x, num_particles=60, search=Search(max_steps=50, selection=4)),
        "inference_gaps",
    ),
    "elbo_surgery": Call(lambda t: pv.elbo_surgery(*pair(t)), "elbo_surgery"),
    "simulation_based_calibration": Call(
        lambda t: simulation_based_calibration(*pair(t), num_draws=5), "simulation_based_calibration"
    ),
    "expected_coverage": Call(lambda t: diagnostics.expected_coverage(*pair(t), num_draws=5), "expected_coverage"),
    "local_c2st": Call(
        lambda t: diagnostics.local_c2st(*pair(t), num_simulated=20, num_draws=5, num_null=19), "local_c2st"
    ),
    "conformal_scaling": Call(
        lambda t: diagnostics.conformal_scaling(*pair(t), levels=[0.5], num_draws=20), "conformal_scaling"
    ),
    "compare_with_hmc": Call(
        lambda t: diagnostics.compare_with_hmc(*pair(t), num_draws=40, hmc=SETTINGS), "compare_with_hmc"
    ),
    "evidence_check": Call(
        lambda t: diagnostics.evidence_check(*pair(t), num_simulated=40, num_particles=20), "evidence_check"
    ),
    "posterior_predictive_check": Call(
        lambda t: posterior_predictive_check(*pair(t), num_draws=160), "posterior_predictive_check"
    ),
    "compare": Call(lambda t: pv.compare({"a": _log_marginal(t), "b": _log_marginal(t)}), "compare"),
    "sample": Call(lambda t: pv.sample(t.vae, 3), "sample"),
    "reconstruct": Call(lambda t: pv.reconstruct(t.vae, t.x), "reconstruct"),
    "manifold": Call(lambda t: tasks.manifold(t.vae, side=2), "manifold"),
    "impute": Call(lambda t: pv.impute(t.vae, t.x, torch.arange(4) < 3, 3, num_particles=60), "impute"),
    "impute by HMC": Call(
        lambda t: pv.impute(t.vae, t.x, torch.arange(4) < 3, 3, method="hmc", hmc=SETTINGS), "impute"
    ),
    "restore": Call(lambda t: restore(t.vae, t.x, Missing(), num_draws=5, num_particles=50, **RESTORING), "restore"),
    "infer_strength": Call(
        lambda t: infer_strength(
            t.vae, t.x, [BitFlip(0.1), BitFlip(0.3)], num_particles=20, refine=False, method="weights"
        ),
        "infer_strength",
    ),
    "pool": Call(lambda t: pv.pool(t.x, 1 + t.x), "pool", False),
    "fit": Call(lambda t: fitted(t.vae, t.dataset), "fit"),
    "store_data": Call(_stored, "store_data", False),
    "search": Call(lambda t: _searched(t), "search", False),  # it makes its networks
    "candidates": Call(lambda t: pv.training.candidates({"a": [1, 2]}), "candidates", False),
    "fit on a tensor": Call(lambda t: fitted(t.vae, t.x, start_at_mean=True), "fit"),
    "fit in bf16": Call(lambda t: fitted(t.vae, t.x, precision="bf16"), "fit"),
    "fit, refined guide": Call(lambda t: fitted(t.refined, t.x, objective=ELBO()), "fit"),
    "fit, codes": Call(lambda t: fitted(t.vqvae, t.x, objective=pv.objectives.VQBound()), "fit"),
    "refit_prior": Call(
        lambda t: pv.refit_prior(
            t.vae, t.dataset, partial(MixtureOfNormals, components=2), epochs=1, batch_size=5, progress=False
        ),
        "refit_prior",
    ),
    "refit_guide": Call(
        lambda t: pv.refit_guide(t.vae, t.dataset, epochs=1, batch_size=5, progress=False), "refit_guide"
    ),
    "compare_guides": Call(lambda t: pv.compare_guides(t.vae, t.vae, t.x, num_particles=2), "compare_guides"),
    "cross_entropy": Call(lambda t: cross_entropy(t.vae, t.x), "cross_entropy"),
    "compare_priors": Call(lambda t: compare_priors(t.vae, t.vae, t.x, num_particles=2), "compare_priors"),
    "has_elbo": Call(lambda t: evidence.has_elbo(t.vae.guide, t.x), "has_elbo"),
    "with_clusters": Call(lambda t: pv.with_clusters(t.vae, t.x, components=2, restarts=2), "with_clusters"),
    "cluster": Call(lambda t: pv.cluster(t.mixture, t.x), "cluster"),
    "clustering_scores": Call(
        lambda t: pv.clustering_scores(t.x[:, 0].long(), t.x[:, 1].long()), "clustering_scores", False
    ),
    "codebook_usage": Call(lambda t: pv.codebook_usage(t.vqvae, t.x), "codebook_usage"),
    **{
        f"score by {name}": Call(
            lambda t, name=name: score(t.vae, t.x, name, num_particles=20, **scoring(t, name)), "score"
        )
        for name in SCORED_BY
    },
    "score, layers": Call(lambda t: score(t.layers, t.x, "ratio", num_particles=20), "score"),
    "states": Call(lambda t: states(t.vae, t.x, num_particles=20), "states"),
    "threshold": Call(lambda t: threshold(t.x[:, 0], 0.5), "threshold", False),
    "detection": Call(lambda t: detection(t.x[:, 0], t.x[:, 1], num_resamples=9), "detection", False),
    "encode_data": Call(lambda t: codes.encode_data(t.vae, t.x, 3), "encode_data"),
    "encode_data, layers": Call(lambda t: codes.encode_data(t.layers, t.x, 3), "encode_data"),
    "aggregate_posterior": Call(lambda t: _aggregate(t), "aggregate_posterior"),
    "code_information": Call(lambda t: _information(t), "code_information"),
    "with_aggregate": Call(lambda t: codes.with_aggregate(t.vae, t.x), "with_aggregate"),
    "mig": Call(lambda t: codes.mig(t.x[:, :2], torch.arange(6) % 2), "mig", False),
    "sap": Call(lambda t: codes.sap(t.x[:, :2], torch.arange(6) % 2), "sap", False),
    "traverse": Call(lambda t: codes.traverse(t.vae, t.x, 3), "traverse"),
    "interpolate": Call(
        lambda t: codes.interpolate(t.vae, t.x[:2, :2], t.x[2:4, :2] + 1, "geodesic", steps=3, bends=1),
        "interpolate",
    ),
    "attribute_vector": Call(
        lambda t: codes.attribute_vector(t.x[:, :2], torch.arange(6) < 3), "attribute_vector", False
    ),
    "edit": Call(lambda t: codes.edit(t.vae, t.x, torch.ones(2)), "edit"),
    "fit_code_prior": Call(
        lambda t: pv.fit_code_prior(t.vqvae, t.dataset, epochs=1, batch_size=5, progress=False), "fit_code_prior"
    ),
    "classify": Call(lambda t: pv.classify(t.classes, t.x), "classify"),
    "label_evidence": Call(lambda t: label_evidence(t.classes, t.x, num_particles=20), "label_evidence"),
    "accuracy": Call(lambda t: pv.accuracy(t.x[:, :2].softmax(-1), t.x[:, 0].long()), "accuracy", False),
    "to_arviz": Call(lambda t: pv.to_arviz(*pair(t), num_draws=4, num_particles=60), "to_arviz"),
    "load_data": Call(lambda t: pv.load_data("linear_gaussian"), "load_data", False),
    "diagnose": Call(
        lambda t: report.diagnose(subject(t), ["evidence", "bracket", "latents", "predictive"]), "diagnose"
    ),
    "check_part": Call(lambda t: len(pv.testing.check_part(Linear, variants=False)), "check_part", False),
}
"""By a name of their own. Whatever draws has a seed."""


def scoring(things: Things, method: str) -> dict[str, Any]:
    """The options that a score can't do without, and small ones."""
    return {
        "typicality": {"reference": things.x},
        "density_of_states": {"reference": data(12)},
        "ensemble": {"others": [things.refined]},
        "ratio": {"background": things.refined},
        "regret": {"max_steps": 50, "selection": 4},
    }.get(method, {})


def seeded_importance(model: Any, guide: Any, x: Tensor) -> Any:
    """`importance` draws from the caller's generator."""
    with seeded(0, "draw"):
        samples = pv.inference.importance(model, guide, x, num_particles=3)
    with torch.inference_mode(False):
        return [value.detach() for value in (samples.log_weights, samples.kl, samples.latents["z"])]


ROWS = [{"epoch": i, "train_elbo": -i, "train_reconstruction": -i, "train_kl": 0.1 * i} for i in range(1, 4)]
_RANKS = Calibration(torch.arange(60).reshape(20, 3) % 20, ("a", "b", "log q(z|x)"), 19, seed=0)
_MODELS = tuple(Compared(name, d - 90, 1.0, d, 0.1, 0.0, 0.0, 0.0, 0.5) for name, d in (("a", 0.0), ("b", -1.0)))
_ROUNDS = (Round(2, Comparison(_MODELS, 50), ("a",), {}),)
_RESULT = SearchResult({"a": {"lr": 0.1}, "b": {"lr": 0.2}}, _ROUNDS, "a", "runs/a", True, 4, 4, 100, 0)
PLOTS: dict[str, Callable[[Things], Any]] = {
    "active_units": lambda t: plots.active_units(pv.latent_statistics(t.vae, t.x)),
    "anomaly_scores": lambda t: plots.anomaly_scores(
        CALLS["score by elbo"].run(t), CALLS["score by elbo"].run(t), 3.0, t.x.reshape(-1, 2, 2), t.x[:, 0]
    ),
    "codes": lambda t: plots.codes(t.x, t.x, t.x[:, 0]),
    "comparison": lambda t: plots.comparison(pv.compare({"a": _log_marginal(t), "b": _log_marginal(t)})),
    "conformal_scaling": lambda t: plots.conformal_scaling(CALLS["conformal_scaling"].run(t)),
    "coverage": lambda t: plots.coverage(_RANKS.coverage()),
    "curves": lambda t: plots.curves(ROWS),
    "edits": lambda t: plots.edits(
        codes.Edited(torch.zeros(1), t.x[None], t.x.reshape(1, -1, 2, 2), t.x[None, :, 0]), t.x.reshape(-1, 2, 2)
    ),
    "elbo_surgery": lambda t: plots.elbo_surgery(pv.elbo_surgery(*pair(t))),
    "evidence_check": lambda t: plots.evidence_check(CALLS["evidence_check"].run(t)),
    "hmc_comparison": lambda t: plots.hmc_comparison(CALLS["compare_with_hmc"].run(t)),
    "image_grid": lambda t: plots.image_grid(t.x.reshape(-1, 2, 2)),
    "imputations": lambda t: plots.imputations(pv.impute(t.vae, t.x, GAPS, 20, num_particles=20), t.x),
    "inference_gaps": lambda t: plots.inference_gaps({"a": CALLS["inference_gaps"].run(t)}),
    "interpolations": lambda t: plots.interpolations(
        codes.Paths("straight", t.x[None], t.x.reshape(1, -1, 2, 2), *t.x[:1, :3].T)
    ),
    "latent_kl": lambda t: plots.latent_kl(pv.latent_statistics(t.vae, t.x)),
    "local_c2st": lambda t: plots.local_c2st(CALLS["local_c2st"].run(t)),
    "manifold": lambda t: plots.manifold(tasks.manifold(t.vae, side=2).reshape(2, 2, 2, 2)),
    "pareto_k": lambda t: plots.pareto_k(_log_marginal(t)),
    "predictive_check": lambda t: plots.predictive_check(CALLS["posterior_predictive_check"].run(t)),
    "rank_ecdf": lambda t: plots.rank_ecdf(_RANKS),
    "reconstructions": lambda t: plots.reconstructions(t.x.reshape(-1, 2, 2), t.x.reshape(-1, 2, 2)),
    "restorations": lambda t: plots.restorations(
        restore(t.vae, t.x, Missing(), num_draws=2, num_particles=20, method="encoder"), t.x
    ),
    "samples": lambda t: plots.samples(Generated({"z": t.x}, t.x.reshape(-1, 2, 2), t.x.reshape(-1, 2, 2))),
    "search": lambda t: plots.search(_RESULT),
    "traversal": lambda t: plots.traversal(
        codes.Traversal(
            torch.arange(1), *t.x[:1, :2].T, t.x[0], t.x[:1], t.x[0], t.x.reshape(1, -1, 2, 2)[:, :4], "the prior"
        )
    ),
    "value_limits": lambda t: plots.value_limits(t.x.reshape(-1, 2, 2)),
}


def plain(value: Any) -> Any:
    """A result as nested lists of bytes, numbers and strings, to compare to the bit."""
    if isinstance(value, Tensor):
        assert not value.requires_grad and not value.is_inference(), "a result is an ordinary tensor"
        return str(value.dtype), list(value.shape), value.detach().numpy().tobytes()
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, nn.Module):
        assert not any(p.is_inference() for p in value.parameters()), "weights can be trained"
        return plain({name: x.detach() for name, x in value.state_dict().items()})
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if is_dataclass(value):
        return [plain(getattr(value, field.name)) for field in fields(value)]
    if hasattr(value, "groups") or hasattr(value, "children"):  # ArviZ, of whichever version
        return plain({name: np.asarray(x) for name, x in value["posterior"].data_vars.items()})
    return repr(value)
