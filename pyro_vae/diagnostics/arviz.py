"""Draws of a (model, guide) pair as ArviZ has them: an `InferenceData`, or the `DataTree` of ArviZ 1."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from torch import Tensor

from pyro_vae.arguments.checked import checked
from pyro_vae.compiling.backends import exact_products, fast_cpu
from pyro_vae.compiling.memory import remembering
from pyro_vae.errors import UsageError
from pyro_vae.inference.hamiltonian import HMC
from pyro_vae.inference.posteriors import Method, Posterior, posterior
from pyro_vae.inference.programs import Called, Program, evaluation_mode
from pyro_vae.inference.simulating import draw
from pyro_vae.inference.tiles import TILE_DATA, filled, padded
from pyro_vae.inference.weighing import log_density, per_datum, sites_at
from pyro_vae.process.isolation import isolated
from pyro_vae.process.seeding import seeded

_AT_ONCE = 25
"""Draws of the data of one block that are made at once."""


Arrays = dict[str, np.ndarray]


@isolated
@checked
def to_arviz(
    model: Program,
    guide: Program,
    x: Tensor,
    *args: Any,
    num_draws: int = 100,
    method: Method = "psis",
    num_particles: int = 5000,
    hmc: HMC | None = None,
    seed: int = 0,
    max_rows: int = 4096,
    max_plate_nesting: int = 1,
    progress: Callable[[int], object] | None = None,
    **inputs: Tensor,
) -> Any:
    r"""Draws of codes and data, log-densities and health, for ArviZ's plots and for files.

    | group | variables | dimensions |
    |---|---|---|
    | `posterior` | latent sites | chain, draw, datum, ... |
    | `sample_stats` | `log_p`: log p(x, z) of the draws, nats | chain, draw, datum |
    | `sample_stats` | `log_q`: log q(z\|x); `log_weight`: `log_p - log_q`; not of chains | chain, draw, datum |
    | `sample_stats` | `pareto_k`, `ess`, `flagged` of the weights; of chains `r_hat`, `ess`, `flagged` | datum |
    | `posterior_predictive` | observed sites, x ~ p(x\|z) | chain, draw, datum, ... |
    | `log_likelihood` | observed sites, log p(x\|z) of the whole datum, nats | chain, draw, datum |
    | `prior` | latent sites, z ~ p(z) | chain, draw, datum, ... |
    | `observed_data` | observed sites | datum, ... |
    | `constant_data` | further arguments (`arg_1`, ...) and inputs by name | datum, ... |

    The dimensions of a site `z` are named `z_dim_0`, ... With ArviZ 0.x the result is an `arviz.InferenceData`, with
    1.x an `xarray.DataTree`; `result.to_netcdf(path)` writes the same file with both, and both read it by
    `arviz.from_netcdf`.

    With `method="guide"` the draws have the density `log_q`, so the weights correct them: `arviz.psislw` of the array
    of `log_weight`, draws last, gives their Pareto k (1.x: `arviz_stats.base.array_stats.psislw` of `-log_weight`), and
    `arviz_stats.loo_approximate_posterior(data, log_p, log_q)` the log-density of each datum when it is left out, with
    its k. The other methods have used the weights already: their draws are not to be weighted again.

    Each datum has its own code, so a datum that is left out leaves the prior, and weights from its posterior are mostly
    hopeless: expect a high k, and do not pass the result to `arviz.loo`. Compare models by `pyro_vae.compare` on
    held-out data.

    Args:
        model: Pyro program of p(x, z), with one data plate.
        guide: Pyro program of q(z|x).
        x: data `[N, *event]`.
        *args: further tensors with the data in front, passed to both programs.
        num_draws: draws of each datum. The posterior predictive takes `num_draws N` times the memory of a datum.
        method: how codes are drawn; see `posterior`.
        num_particles: K of `posterior`.
        hmc: settings of `"hmc"`; see `posterior`.
        seed: seed of the draws; the caller's generators are left alone.
        max_rows: the most (datum, particle) pairs in one run of the model for the weights.
        max_plate_nesting: number of plate dimensions the programs use.
        progress: called with the number of data whose codes are drawn.
        **inputs: tensors with the data in front that both programs take by name, e.g. `c`.

    Returns:
        The groups, with the method, K and seed among the attributes of `posterior`.

    Raises:
        UsageError: as `posterior`, or if the model has no observed site.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> data = to_arviz(vae.model, vae.guide, torch.ones(3, 4), num_draws=10, num_particles=100)
        >>> data["posterior"]["z"].dims, data["posterior"]["z"].shape
        (('chain', 'draw', 'datum', 'z_dim_0'), (1, 10, 3, 2))
    """
    drawn = posterior(
        model,
        guide,
        x,
        *args,
        num_draws=num_draws,
        method=method,
        num_particles=num_particles,
        hmc=hmc,
        seed=seed,
        max_rows=max_rows,
        max_plate_nesting=max_plate_nesting,
        progress=progress,
        expect=None,
        **inputs,
    )
    program, data = Called(model, list(inputs)), (x, *args, *inputs.values())
    with evaluation_mode(model, guide), fast_cpu(), exact_products(), remembering():
        blocks = list(_blocks(program, data, drawn, seed, max_plate_nesting))
    groups = {name: _joined([block[name] for block in blocks], name) for name in blocks[0]}
    names = [f"arg_{i}" for i in range(1, len(args) + 1)] + list(inputs)
    groups["posterior"] = {name: _by_draw(value, max_plate_nesting) for name, value in drawn.draws.items()}
    groups["sample_stats"] |= _stats(drawn, groups["sample_stats"]["log_p"])
    groups["constant_data"] = {name: _numpy(value) for name, value in zip(names, data[1:], strict=True)}
    return _container({name: groups[name] for name in _GROUPS if groups[name]}, _attributes(drawn), drawn.num_chains)


@isolated
def codes_to_arviz(
    draws: Mapping[str, Tensor], of_data: Mapping[str, Tensor], attributes: Mapping[str, Any] | None = None
) -> Any:
    """Draws of codes that are at hand, such as those of `encode_data`, in ArviZ's form.

    Args:
        draws: by site, `[num_draws, N, ...]`: the group `posterior`, with one chain.
        of_data: what else is known of each datum, `[N, ...]` by name: the group `constant_data`.
        attributes: of the groups.

    Returns:
        As `to_arviz`; `result.to_netcdf(path)` writes a file.

    Example:
        >>> codes = codes_to_arviz({"z": torch.zeros(10, 3, 2)}, {"label": torch.zeros(3)})
        >>> codes["posterior"]["z"].dims, codes["constant_data"]["label"].dims
        (('chain', 'draw', 'datum', 'z_dim_0'), ('datum',))
    """
    groups = {"posterior": draws, "constant_data": of_data}
    arrays = {group: {name: _numpy(v) for name, v in values.items()} for group, values in groups.items() if values}
    return _container(arrays, {**_library(), **(attributes or {})}, num_chains=1)


_GROUPS = (
    "posterior",
    "sample_stats",
    "posterior_predictive",
    "log_likelihood",
    "prior",
    "observed_data",
    "constant_data",
)


_OF_DATA = ("observed_data", "constant_data")
"""Groups without draws."""


def _blocks(
    program: Program, data: Sequence[Tensor], drawn: Posterior, seed: int, nesting: int
) -> Iterator[dict[str, Arrays]]:
    """The groups that the model gives, of one block of data after another."""
    for start in range(0, len(data[0]), TILE_DATA):
        block = [a[start : start + TILE_DATA] for a in data]
        size, device = len(block[0]), block[0].device
        codes = {name: v.narrow(nesting, start, size).to(device) for name, v in drawn.draws.items()}
        parts = []
        for first in range(0, drawn.num_draws, _AT_ONCE):
            part = {name: value[first : first + _AT_ONCE] for name, value in codes.items()}
            parts.append(_of_draws(program, block, part, (start, first), seed, nesting))
        whole = {
            group: {k: np.concatenate([p[group][k] for p in parts]) for k in parts[0][group]} for group in parts[0]
        }
        yield {**whole, "observed_data": _observed(program, block, codes, nesting)}


def _of_draws(
    program: Program,
    data: Sequence[Tensor],
    codes: Mapping[str, Tensor],
    place: tuple[int, int],
    seed: int,
    nesting: int,
) -> dict[str, Arrays]:
    """Predictive draws, log-densities and draws of the prior, draws in front, for some codes of a block."""
    count, size = len(next(iter(codes.values()))), len(data[0])
    sites = sites_at(program, codes, *data, max_plate_nesting=nesting)
    observed = {name: site for name, site in sites.items() if name not in codes}
    if not observed:
        raise UsageError("the model has no observed site: observe the data by `obs=x`")
    log_likelihood = {k: per_datum(s["fn"].log_prob(s["value"]), s, nesting) for k, s in observed.items()}
    full = filled(codes, _AT_ONCE, nesting)
    many: dict[str, Any] = {"num_particles": _AT_ONCE, "max_plate_nesting": nesting}
    with seeded(seed, "predictive", *place):
        predicted = draw(program, *padded(data), latents=full, **many)[1]
    with seeded(seed, "prior", *place):
        prior = draw(program, *padded(data), **many)[0]
    cut = {"posterior_predictive": predicted, "prior": prior}
    by_site = {
        group: {k: _by_draw(v[:count].narrow(nesting, 0, size), nesting) for k, v in values.items()}
        for group, values in cut.items()
    }
    log_p = log_density(sites.values(), nesting).double().expand(count, size)
    likelihoods = {k: _numpy(v.expand(count, size)) for k, v in log_likelihood.items()}
    return {**by_site, "log_likelihood": likelihoods, "sample_stats": {"log_p": _numpy(log_p)}}


def _observed(program: Program, data: Sequence[Tensor], codes: Mapping[str, Tensor], nesting: int) -> Arrays:
    """The values of the observed sites, data in front."""
    one = {name: value[:1] for name, value in codes.items()}
    sites = sites_at(program, one, *data, max_plate_nesting=nesting)
    found = {}
    for name, site in sites.items():
        if name not in codes:
            found[name] = _by_draw(site["value"].expand(site["fn"].shape()), nesting)[0]
    return found


def _by_draw(value: Tensor, nesting: int) -> np.ndarray:
    """`[draws, *plates, N, *event]` as `[draws, N, *plates, *event]`, plates that a site is not in left out."""
    value = value.movedim(nesting, 1)
    for _ in range(nesting - 1):
        value = value.squeeze(2) if value.shape[2] == 1 else value
    return _numpy(value)


def _stats(drawn: Posterior, log_p: np.ndarray) -> Arrays:
    """Weights and log q of the draws, and the health of each datum."""
    health = {"ess": _numpy(drawn.ess), "flagged": _numpy(drawn.flagged)}
    if drawn.weights is not None:
        log_weight = _numpy(drawn.weights.log_weights)
        return {
            "log_q": log_p - log_weight,
            "log_weight": log_weight,
            "pareto_k": _numpy(drawn.weights.pareto_k),
            **health,
        }
    assert drawn.r_hat is not None
    return {"r_hat": _numpy(drawn.r_hat), **health}


def _joined(parts: Sequence[Arrays], group: str) -> Arrays:
    axis = 0 if group in _OF_DATA else 1
    return {name: np.concatenate([part[name] for part in parts], axis) for name in parts[0]}


def _container(groups: Mapping[str, Arrays], attributes: Mapping[str, Any], num_chains: int) -> Any:
    """The only place that depends on ArviZ's version: 0.x has its own class, 1.x uses xarray's tree."""
    import xarray

    made: dict[str, Any] = {
        group: xarray.Dataset(
            {k: _variable(group, k, v, num_chains) for k, v in arrays.items()}, attrs=dict(attributes)
        )
        for group, arrays in groups.items()
    }
    made = {group: data.assign_coords({d: np.arange(n) for d, n in data.sizes.items()}) for group, data in made.items()}
    if int(version("arviz").partition(".")[0]) >= 1:
        return xarray.DataTree.from_dict(made)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # 0.23 announces its own refactoring
        import arviz

    return arviz.InferenceData(**made)


def _variable(group: str, name: str, values: np.ndarray, num_chains: int) -> Any:
    """A variable with the names of its dimensions."""
    if group in _OF_DATA or (group == "sample_stats" and values.ndim == 1):
        first: tuple[str, ...] = ("datum",)
    else:
        first, values = ("chain", "draw", "datum"), values.reshape(num_chains, -1, *values.shape[1:])
    return (*first, *(f"{name}_dim_{i}" for i in range(values.ndim - len(first)))), values


def _attributes(drawn: Posterior) -> dict[str, Any]:
    made = {} if drawn.weights is None else {"num_particles": drawn.weights.num_particles}
    return {**_library(), "method": drawn.method, **made, "seed": drawn.seed}


def _library() -> dict[str, str]:
    try:
        ours = version("pyro-vae")
    except PackageNotFoundError:
        ours = "not installed"
    return {"inference_library": "pyro_vae", "inference_library_version": ours}


def _numpy(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()
