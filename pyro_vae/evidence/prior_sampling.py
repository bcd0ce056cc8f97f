"""log p(x) by draws from the prior: correct, but useful for the smallest models only, as its health shows."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.arguments.checked import checked
from pyro_vae.distributed import World
from pyro_vae.errors import UsageError
from pyro_vae.evidence.importance_sampling import Evidence, log_marginal
from pyro_vae.inference.programs import Program, evaluation_mode, sample_sites
from pyro_vae.process.isolation import isolated
from pyro_vae.process.seeding import seeded


@isolated
@checked
def prior_sampling(
    model: Program,
    guide: Program | None,
    x: Tensor,
    *args: Any,
    num_particles: int = 5000,
    seed: int = 0,
    max_rows: int = 4096,
    max_plate_nesting: int = 1,
    compile: Literal["auto"] | bool = "auto",
    world: World | None = None,
    progress: Callable[[int], object] | None = None,
    **inputs: Tensor,
) -> Evidence:
    r"""Estimate log p(x) of every datum by the mean likelihood of draws from the prior.

    .. math:: \log \hat p(x) = \log \frac1K \sum_{k=1}^K p(x|z_k), \qquad z_k \sim p(z)

    The estimate of p(x) is unbiased, so that of log p(x) is below it in expectation. It needs of the order of
    `exp(KL(p(z|x) || p(z)))` draws: a datum with a KL of 20 nats needs 5e8. With fewer, no draw comes near the
    posterior, and the estimate is too low by many of its standard errors. The tail of the weights shows it: `pareto_k`
    and `ess`, by which the result is `flagged`.

    Args:
        model: Pyro program of p(x, z), with one data plate.
        guide: not used; here so that all methods have the same arguments.
        x: data `[N, *event]`.
        *args: further tensors with the data in front, passed to the program.
        num_particles: K, draws for each datum.
        seed: seed of the draws; the caller's generators are left alone.
        max_rows: the most (datum, particle) pairs in one run of the model.
        max_plate_nesting: number of plate dimensions the program uses.
        compile: whether to run it as a compiled graph, as for `log_marginal`.
        world: the processes to share the data with.
        progress: called with the number of data done so far by this process, after each block of 50.
        **inputs: tensors with the data in front that the program takes by name, e.g. `c`.

    Returns:
        An `Evidence` with method `"prior"`. Its ELBO is that with the prior as the guide, E_p(z)[log p(x|z)].

    Raises:
        UsageError: as `log_marginal`.
        NumericalError: as `log_marginal`.

    References:
        Wu et al. 2017, On the quantitative analysis of decoder-based generative models, section 2.
        Chatterjee & Diaconis 2018, The sample size required in importance sampling.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> prior_sampling(vae.model, None, torch.ones(3, 4), num_particles=100).log_p.shape
        torch.Size([3])
    """
    if len(x) == 0:
        raise UsageError("need data, got 0 data")
    named: dict[str, Any] = dict(inputs)
    first = {name: value[:1] for name, value in inputs.items()}
    evidence = log_marginal(
        model,
        PriorGuide(model, latent_sites(model, x[:1], *(a[:1] for a in args), **first)),
        x,
        *args,
        num_particles=num_particles,
        seed=seed,
        max_rows=max_rows,
        max_plate_nesting=max_plate_nesting,
        compile=compile,
        world=world,
        progress=progress,
        **named,
    )
    return replace(evidence, method="prior")


def latent_sites(model: Program, *args: Any, **inputs: Any) -> list[str]:
    """The names of the sites that the model draws, in order."""
    with evaluation_mode(model), seeded(0, "structure"):
        sites = sample_sites(poutine.trace(model).get_trace(*args, **inputs))
    return [name for name, site in sites.items() if not site["is_observed"]]


class PriorGuide:
    """The prior of a model as a guide: it draws the latent sites from p(z) and stops before x is reached.

    Args:
        model: Pyro program of p(x, z).
        names: its latent sites.
    """

    def __init__(self, model: Program, names: Iterable[str]) -> None:
        self.model, self.names = model, tuple(names)
        self.__self__ = getattr(model, "__self__", model)  # whose modules it uses; see `inference.programs.owners`

    def __call__(self, *args: Any, **inputs: Any) -> None:
        """Draw the sites."""
        with suppress(_AllDrawn), poutine.block(hide_fn=_is_observed), _Until(self.names):
            self.model(*args, **inputs)


def _is_observed(site: Any) -> bool:
    return site["type"] == "sample" and site["is_observed"]


class _AllDrawn(Exception):  # noqa: N818 - control flow, not an error
    """The last latent site has its value."""


class _Until(Messenger):
    """Leave a program as soon as all of these sites have values; the decoder, which comes later, does not run."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.left = set(names)

    def _pyro_post_sample(self, msg: Any) -> None:
        self.left.discard(msg["name"])
        if not self.left:
            raise _AllDrawn
