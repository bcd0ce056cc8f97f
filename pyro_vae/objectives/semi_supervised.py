"""The ELBO with discrete latent sites summed out, and a classifier's term where their values are known."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyro_vae.errors import UsageError
from pyro_vae.inference.programs import Program, sample_sites
from pyro_vae.objectives.base import Objective
from pyro_vae.process.pyro_internals import is_enumerated

_NESTING = 2
"""Plate dimensions in use: the data's, and one for the particles."""


@dataclass(frozen=True)
class SemiSupervisedELBO(Objective):
    r"""The ELBO with a sum over the values of discrete sites, and the log-probability that a classifier gives labels.

    .. math:: \sum_{x} \sum_y q(y|x) \left(\log q(y|x) - \mathcal L(x, y)\right)
        + \sum_{(x, y)} \left(-\mathcal L(x, y) - \alpha \log q(y|x)\right), \quad
        \mathcal L(x, y) = E_{q(z|x, y)}\left[\log \frac{p(x, y, z)}{q(z|x, y)}\right]

    The first sum is over the data without a label, the second over those with one; a batch may hold both. Every site of
    the guide that is marked `infer={"enumerate": "parallel"}` is summed exactly, so its gradient has no score function:
    the value and the gradient of Pyro's `TraceEnum_ELBO`, draw for draw, by operations on tensors alone, which `fit`
    compiles. A row costs as much as it has values to sum over, whether it is labelled or not. All other sites of the
    guide must be reparameterised. Scales on sites are ignored, masks count.

    Where labels are known the guide is a point mass on them, which gives its classifier no gradient; hence the last
    term. The guide passes what this needs: `infer={"enumerate": "parallel", "labels": y, "classifier": q}` at the site,
    with q the distribution q(y|x) and y the labels, `[B]`, -1 where there is none. With `alpha=0`, and for programs
    that pass no labels, the loss is minus the ELBO.

    Args:
        alpha: weight of log q(y|x) of each labelled datum, not negative; None for 0.1 N / N_labelled of the data that
            `fit` trains on (as published), and elsewhere of the batch.
        num_particles: draws of the other sites for each datum and each value, at least 1.
        labels: name of the programs' input that holds the labels, which `fit` counts if `alpha` is None.

    Raises:
        UsageError: for an option out of range; if called with a guide that has a site neither marked nor
            reparameterised, or with more plates than that of the data.

    References:
        Kingma et al. 2014, Semi-supervised learning with deep generative models, eq. 6 to 9.

    Example:
        >>> from pyro_vae.autoencoders.semi_supervised import SemiSupervisedVAE
        >>> vae = SemiSupervisedVAE((4,), classes=3, latent_dim=2)
        >>> SemiSupervisedELBO()(vae.model, vae.guide, torch.ones(3, 4), y=torch.tensor([2, -1, -1])).shape
        torch.Size([])
    """

    alpha: float | None = None
    num_particles: int = 1
    labels: str = "y"

    def __post_init__(self) -> None:
        self._require(num_particles=1)
        if self.alpha is not None:
            self._require(alpha=0)

    @property
    def is_bound(self) -> bool:
        """Only without the classifier's term."""
        return self.alpha == 0

    @property
    def couples_rows(self) -> bool:
        """Where the labelled data are counted in each batch; `fit` has counted them before."""
        return self.alpha is None

    def for_data(self, num_data: int, inputs: Mapping[str, Tensor] | None = None) -> Self:
        """With alpha, where it was left open and the inputs hold labels."""
        if self.alpha is not None or inputs is None:
            return self
        labels = inputs.get(self.labels)
        known = 0 if labels is None else int((labels >= 0).sum())
        return replace(self, alpha=0.1 * num_data / known if known else 0.0)

    def for_validation(self, train: Mapping[str, Tensor], valid: Mapping[str, Tensor]) -> Self:
        """With alpha for another share of labelled data, so that the classifier's term weighs per datum as in training.

        Validation data without labels as an input, as `--labelled` makes them, have no such term.
        """
        if not self.alpha:
            return self
        in_train, in_valid = (self._share_labelled(inputs) for inputs in (train, valid))
        return replace(self, alpha=self.alpha * in_train / in_valid if in_valid else 0.0)

    def _share_labelled(self, inputs: Mapping[str, Tensor]) -> float:
        labels = inputs.get(self.labels)
        return 0.0 if labels is None else (labels >= 0).double().mean().item()

    def __call__(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The loss, summed over the batch, nats."""
        with pyro.plate("particles", self.num_particles, dim=-_NESTING):
            enumerated = poutine.enum(guide, first_available_dim=-1 - _NESTING)
            guide_trace = poutine.trace(enumerated).get_trace(*args, **kwargs)
            model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
        drawn, scored = sample_sites(guide_trace), sample_sites(model_trace)
        _check_sites(drawn)
        log_weights = _log_density(scored) - _log_density(drawn)
        loss = -(_probability(drawn) * log_weights).sum() / self.num_particles
        return loss - sum(self._classification(site["infer"]) for site in drawn.values())

    def _classification(self, infer: Mapping[str, Any]) -> Tensor | float:
        """Alpha times log q(y|x) of the labels known at a site, summed over the batch, nats."""
        if "classifier" not in infer or self.alpha == 0:
            return 0.0
        labels: Tensor = infer["labels"]
        known = labels >= 0
        log_q = torch.where(known, infer["classifier"].log_prob(labels.clamp(min=0)), 0.0)
        alpha = 0.1 * len(labels) / known.sum().clamp(min=1).to(log_q) if self.alpha is None else self.alpha
        return alpha * log_q.sum()


def _log_density(sites: Mapping[str, Any]) -> Tensor:
    """The log-density of all sites together, `[*values, particles, batch]`, nats."""
    log_probs = [scale_and_mask(site["fn"].log_prob(site["value"]), mask=site["mask"]) for site in sites.values()]
    return sum(log_probs, torch.zeros(()))


def _probability(drawn: Mapping[str, Any]) -> Tensor:
    """The guide's probability of each combination of values; over them it sums to 1, also where a site is masked."""
    summed = [site for site in drawn.values() if is_enumerated(site)]
    return sum((site["fn"].log_prob(site["value"]) for site in summed), torch.zeros(())).exp()


def _check_sites(drawn: Mapping[str, Any]) -> None:
    for name, site in drawn.items():
        if not is_enumerated(site) and not getattr(site["fn"], "has_rsample", False):
            raise UsageError(
                f"site {name!r} of the guide ({type(site['fn']).__name__}) is neither reparameterised nor summed: mark "
                "it infer={'enumerate': 'parallel'} if it is discrete, or take ScoreFunction"
            )
