"""`impute`: several values for each missing element, a single best one, and their errors where the truth is known."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments.checked import checked_but_values
from pyro_vae.autoencoders import Autoencoder
from pyro_vae.errors import DataError, UsageError
from pyro_vae.inference.hamiltonian import HMC
from pyro_vae.inference.posteriors import Method, Posterior, posterior
from pyro_vae.inference.programs import Called, evaluation_mode, takes
from pyro_vae.inference.tiles import TILE_DATA, filled, padded, pieces
from pyro_vae.inference.weighing import sites_at
from pyro_vae.process.isolation import isolated
from pyro_vae.process.seeding import seeded
from pyro_vae.statistics.averages import Averaged
from pyro_vae.statistics.intervals import crps, interval
from pyro_vae.tasks.generation import averages_of, fitted_mask, inputs_of, mean_of, variance_of

_DRAWS = 50
"""Draws of a datum in one run of the model."""


@dataclass(frozen=True, eq=False)
class Imputed:
    """Data whose gaps are filled, several times over. All tensors are on the CPU.

    Args:
        draws: draws of x given what was observed of it, `[num_draws, N, *event]`; observed elements as they came.
        best: E[x given what was observed], `[N, *event]`: the values of least squared error; of a category (`Mixed`)
            its most probable level. Observed elements as they came.
        sd: standard deviation of each element given what was observed, `[N, *event]`, double precision; 0 where
            observed.
        mask: True where an element was observed, `[N, *event]`.
        codes: the draws of the latent sites behind `draws`, with their health.
    """

    draws: Tensor
    best: Tensor
    sd: Tensor
    mask: Tensor
    codes: Posterior

    @property
    def num_draws(self) -> int:
        """Imputations of each datum."""
        return len(self.draws)

    @property
    def ess(self) -> Tensor:
        """Effective sample size of the draws from p(z|x), `[N]`."""
        return self.codes.ess

    @property
    def pareto_k(self) -> Tensor | None:
        """Shape of the tail of their weights, `[N]`; None for `"hmc"`, which has none."""
        return self.codes.pareto_k

    @property
    def flagged(self) -> Tensor:
        """Which data's imputations are not to be trusted, `[N]` bool; see `Posterior.flagged`."""
        return self.codes.flagged

    @property
    def unreliable(self) -> float:
        """Share of the data that are `flagged`."""
        return self.codes.unreliable

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """The equal-tailed interval of each element by the draws: its lower and upper ends, each `[N, *event]`.

        It needs at least `2 / (1 - level) - 1` draws; see `statistics.intervals.interval`.

        Raises:
            UsageError: if `level` is not between 0 and 1, or there are fewer draws.
        """
        if not 0 < level < 1:
            raise UsageError(f"level must be between 0 and 1, got {level}")
        if self.num_draws + 1 < 2 / (1 - level) - 1e-9:
            least = int(2 / (1 - level) - 1e-9)
            raise UsageError(f"an interval of level {level} needs num_draws >= {least}, got {self.num_draws}")
        return interval(self.draws, level)

    def __repr__(self) -> str:
        share = 1 - self.mask.double().mean().item()
        return (
            f"Imputed({self.num_draws} draws of {list(self.best.shape)}, {share:.1%} missing, by "
            f"{self.codes.method!r}, median ESS {self.ess.median():.0f}, flagged {self.unreliable:.1%})"
        )


@isolated
@checked_but_values
def impute(
    vae: Autoencoder,
    x: Tensor,
    mask: Tensor | None = None,
    num_draws: int = 20,
    *,
    method: Method = "psis",
    num_particles: int = 1000,
    hmc: HMC | None = None,
    seed: int = 0,
    c: Tensor | None = None,
    max_rows: int = 4096,
    progress: Callable[[int], object] | None = None,
    **inputs: Tensor,
) -> Imputed:
    r"""Fill the gaps of data: draws of the missing elements given the observed ones, and their mean.

    .. math::
        z_m \sim p(z|x_{obs}), \quad x_{mis, m} \sim p(x_{mis}|z_m); \qquad
        E[x_{mis}|x_{obs}] \approx \sum_{k=1}^K \bar w_k E[x_{mis}|z_k], \quad
        \bar w_k \propto \frac{p(x_{obs}, z_k)}{q(z_k|x_{obs})}

    The codes are drawn by `posterior`: from the guide, resampled by their weights (`"psis"`, `"sir"`), or by HMC. The
    best value and the standard deviation use all K weighed draws of the guide (all of the chains'), not only the
    `num_draws` that are returned. A model of why elements are missing draws the missing elements
    itself, and its weights account for it: the result is then given what was observed *and* that the rest was missing.

    To carry the uncertainty into what is computed from the data, compute it on each imputation and `pool` the results.
    The imputations are given the model's weights: these are taken as known. Evaluation mode; the result is a function
    of the arguments and the seed, and not of later data.

    Args:
        vae: the VAE, or any other `Autoencoder` whose programs take `mask`; left as it is.
        x: data `[N, *event]`; any value, also nan, where not observed. Without a mask, nan is a gap.
        mask: True where an element of `x` is observed, broadcastable to `x`; None where all are but nan.
        num_draws: imputations of each datum.
        method: guide | sir | psis | hmc, as for `posterior`.
        num_particles: K, draws of the guide that are weighed for each datum.
        hmc: settings of `"hmc"`; None for `HMC()`.
        seed: seed of the draws; the caller's generators are left alone.
        c: the context of a conditional VAE, `[N, *context]` or `[*context]`.
        max_rows: the most (datum, particle) pairs in one run of the decoder; bounds memory.
        progress: called with the number of data done so far.
        **inputs: what else the programs are to be given by name, `[N, ...]`.

    Returns:
        An `Imputed`: draws and best values of the data's type, `ess`, `pareto_k` and `flagged` per datum.

    Raises:
        UsageError: if a size is not positive, the mask does not fit, the programs take no mask, or p(x|z) has no known
            mean.
        DataError: if the data have another shape than the VAE's, an observed element is nan or outside the support, or
            there are no data.
        NumericalError: if weights or the decoder's output are not finite.

    References:
        Rezende et al. 2014, section 5.4 and appendix F. Mattei & Frellsen 2019, MIWAE: deep generative modelling and
        imputation of incomplete data sets, section 3. Rubin 1987, Multiple imputation for nonresponse in surveys.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> x = torch.ones(5, 4)
        >>> x[:, 1] = torch.nan
        >>> impute(VAE((4,), latent_dim=2), x, num_draws=3, num_particles=50).draws.shape
        torch.Size([3, 5, 4])
    """
    x, mask = _with_gaps(vae, x, mask)
    given: dict[str, Any] = {"mask": mask, **inputs_of(vae, len(x), inputs, c)}
    given = {name: value.to(x.device) for name, value in given.items()}
    filler = _Filler(vae, list(given))
    options = {"num_draws": num_draws, "method": method, "num_particles": num_particles, "hmc": hmc, "seed": seed}
    codes = posterior(
        vae.model, vae.guide, x, **options, max_rows=max_rows, progress=progress, expect=filler.moments, **given
    )
    with evaluation_mode(vae):
        drawn = filler.draws(codes.draws, [x, *given.values()], seed)
    assert codes.expected is not None
    first, second, expected = filler.unpacked(codes.expected)
    sd = torch.where(mask.cpu(), 0.0, (second - first.square()).clamp(min=0).sqrt())
    x, mask = x.cpu(), mask.cpu()
    kind = x.dtype if x.is_floating_point() else drawn.dtype
    best, drawn = (torch.where(mask, x.to(kind), value.to(kind)) for value in (expected, drawn))
    return Imputed(drawn, best, sd, mask, codes)


def _with_gaps(vae: Autoencoder, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The data with a value of the support in each gap, and the mask, `[N, *event]`; checked."""
    if not takes(vae.model, "mask"):
        raise UsageError(f"the programs of this {type(vae).__name__} take no mask, so they need complete data")
    if len(x) == 0:
        raise DataError(f"x: expected shape [N >= 1, {', '.join(map(str, vae.shapes.event))}], got {list(x.shape)}")
    mask = ~x.isnan() if mask is None else fitted_mask(mask, x).to(x.device)
    if (bad := mask & x.isnan()).any():
        where = tuple(bad.nonzero()[0].tolist())
        raise DataError(f"x: nan at {where}, where the mask has True (observed): set the mask to False there")
    filled_in = torch.where(mask, x, torch.as_tensor(vae.likelihood.placeholder, dtype=x.dtype, device=x.device))
    vae.likelihood.check(filled_in)
    return filled_in, mask


class _Filler:
    """The missing elements given latents: as a site of the model draws them, else as its site `"x"` is distributed.

    Args:
        vae: the model.
        names: the names of its inputs after x.
    """

    def __init__(self, vae: Autoencoder, names: Sequence[str]) -> None:
        self.program, self.site, self.vae = Called(vae.model, names), vae.missing_site, vae
        self.numbers = vae.shapes.event  # shape of what is averaged for the best values

    def moments(self, latents: Mapping[str, Tensor], data: Sequence[Tensor]) -> Tensor:
        """E[x|latents], E[x^2|latents], averages for the best values: `[particles, batch, all]`, double precision."""
        if self.site is not None:
            mean, variance = latents[self.site].double(), torch.zeros(())
            averages = mean
        else:
            likelihood = sites_at(self.program, latents, *data)["x"]["fn"]
            mean, variance = mean_of(likelihood).double(), variance_of(likelihood).double()
            averages = averages_of(self.vae, likelihood).double()
        self.numbers = averages.shape[2:]
        return torch.cat([part.flatten(2) for part in (mean, mean.square() + variance, averages)], 2)

    def unpacked(self, expected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `moments` gave, averaged over latents: E[x], E[x^2] and the best x, each `[N, *event]`."""
        size, event = self.vae.shapes.event_size, self.vae.shapes.event
        first, second = (part.unflatten(1, event) for part in expected[:, : 2 * size].split(size, 1))
        averages = expected[:, 2 * size :].unflatten(1, self.numbers)
        return first, second, averages if self.site is not None else self.vae.likelihood.best(averages)

    def draws(self, latents: Mapping[str, Tensor], data: Sequence[Tensor], seed: int) -> Tensor:
        """Draws of x, one for each of the latents', `[num_draws, N, *event]`, on the CPU."""
        if self.site is not None:
            return latents[self.site].cpu()
        tiles = []
        for start in range(0, len(data[0]), TILE_DATA):
            block = [a[start : start + TILE_DATA] for a in data]
            of_block = {
                name: value[:, start : start + TILE_DATA].to(block[0].device) for name, value in latents.items()
            }
            parts = enumerate(pieces(of_block, _DRAWS))
            tiles.append(torch.cat([self._tile(part, block, seed, start, i) for i, part in parts]))
        return torch.cat(tiles, 1)

    def _tile(self, latents: Mapping[str, Tensor], block: Sequence[Tensor], seed: int, start: int, part: int) -> Tensor:
        """Draws of one block, with noise that does not depend on how many data or draws follow."""
        size, count = len(next(iter(latents.values()))), len(block[0])
        with seeded(seed, "impute", start, part):
            sites = sites_at(self.program, filled(latents, _DRAWS), *padded(block))
            return sites["x"]["fn"].sample()[:size, :count].cpu()


@dataclass(frozen=True, eq=False)
class ImputationError:
    """How far imputations are off, over elements whose truth is known.

    Args:
        num_elements: how many elements.
        rmse: root mean squared error of the best values, in the unit of the data.
        rmse_error: its standard error from having N data.
        coverage: share of the elements inside their interval of `level`.
        coverage_error: its standard error, of shares that differ from datum to datum.
        crps: mean continuous ranked probability score of the draws, in the unit of the data.
        crps_error: its standard error.
        level: what the coverage should be.
    """

    num_elements: int
    rmse: float
    rmse_error: float
    coverage: float
    coverage_error: float
    crps: float
    crps_error: float
    level: float

    def __repr__(self) -> str:
        return (
            f"RMSE {self.rmse:.4f} (se {self.rmse_error:.4f}), {self.level:.0%} intervals cover {self.coverage:.1%} "
            f"(se {self.coverage_error:.1%}), CRPS {self.crps:.4f} (se {self.crps_error:.4f}), over "
            f"{self.num_elements} elements"
        )


@isolated
def imputation_error(
    imputed: Imputed, truth: Tensor, known: Tensor | None = None, level: float = 0.9
) -> ImputationError:
    r"""Compare imputations with the truth, where it is known.

    .. math:: RMSE = \sqrt{\frac{\sum_{n,d} (x_{nd} - \hat x_{nd})^2}{\#}}

    over missing elements. Standard errors treat data as independent, and the elements of a datum as one cluster.

    Args:
        imputed: as `impute` gives it.
        truth: the data, `[N, *event]`; any value where it is not known.
        known: True where the truth of a missing element is known, `[N, *event]`; None where that of all is.
        level: of the intervals.

    Returns:
        An `ImputationError`.

    Raises:
        UsageError: if the truth has another shape, no missing element has a known truth, or the draws are too few for
            the interval.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> x, mask = torch.ones(5, 4), torch.arange(4) < 3
        >>> imputed = impute(VAE((4,), latent_dim=2), x, mask, num_particles=50)
        >>> imputation_error(imputed, x).num_elements
        5
    """
    if truth.shape != imputed.best.shape:
        raise UsageError(f"truth: expected shape {list(imputed.best.shape)}, got {list(truth.shape)}")
    truth, wanted = truth.detach().cpu().double(), ~imputed.mask
    wanted = wanted if known is None else wanted & fitted_mask(known, truth).cpu()
    if not wanted.any():
        raise UsageError("there is no missing element whose truth is known: hide some of the observed ones")
    low, high = imputed.interval(level)
    squares = (imputed.best.double() - truth).square()
    inside = ((low <= truth) & (truth <= high)).double()
    mean_square, error = _ratio(squares, wanted)
    coverage, scores = _ratio(inside, wanted), _ratio(crps(imputed.draws, truth), wanted)
    rmse = mean_square**0.5
    rmse_error = error / (2 * rmse) if rmse else 0.0
    return ImputationError(int(wanted.sum()), rmse, rmse_error, *coverage, *scores, level)


def _ratio(values: Tensor, wanted: Tensor) -> tuple[float, float]:
    """The mean of the wanted elements, and its standard error with each datum a cluster."""
    total = torch.where(wanted, values, 0.0).flatten(1).sum(1)
    count = wanted.flatten(1).sum(1).double()
    mean = total.sum() / count.sum()
    per_datum = (total - mean * count) / count.mean()
    return mean.item(), Averaged(per_datum, torch.zeros(())).standard_error_data
