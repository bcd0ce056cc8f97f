"""What `pyro-vae refit` can fit: a new prior, or a new guide; each checked to fit the run, fitted, and compared."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from pyro_vae.autoencoders import VAE
from pyro_vae.data import Dataset
from pyro_vae.errors import UsageError
from pyro_vae.priors import AutoregressiveCodes, CodePrior, Prior
from pyro_vae.statistics.averages import standard_error
from pyro_vae.training.refit import check_prior, compare_priors, refit_prior
from pyro_vae.training.refit_guide import check_guide, compare_guides, refit_guide

Numbers = dict[str, float]

DRAWS = 10
"""For each held-out datum, where the new part is compared with the old one."""


class NewPart(ABC):
    """A part of a run's autoencoder that is fitted anew."""

    what: ClassVar[str]
    """The name of the part."""
    fits: ClassVar[str]
    """What it does well or less well."""
    parts: Mapping[str, Any]
    """By the name of the autoencoder's argument, the new class or partial."""

    @abstractmethod
    def fitted(self, data: Dataset, **settings: Any) -> Any:
        """The autoencoder with the new part."""

    @abstractmethod
    def compared(self, vae: Any, data: Dataset, seed: int) -> dict[str, Any]:
        """What is reported of the new and the old one on the held-out data."""


class NewPrior(NewPart):
    """A new prior.

    Args:
        vae: the trained autoencoder.
        prior: the class, or a partial; None for the usual one of discrete codes.

    Raises:
        UsageError: if the autoencoder has no prior that can be fitted, or the class is none for it.
    """

    what, fits = "prior", "fits the held-out codes"

    def __init__(self, vae: Any, prior: Any) -> None:
        self.vae = vae
        check_prior(vae)
        base = CodePrior if isinstance(vae.prior, CodePrior) else Prior
        if prior is None and base is Prior:
            raise UsageError("--prior: expected the class of the new prior, e.g. --prior MixtureOfNormals")
        prior = AutoregressiveCodes if prior is None else prior
        if not issubclass(cls := getattr(prior, "func", prior), base):
            kinds = {
                Prior: "priors p(z), such as MixtureOfNormals",
                CodePrior: "priors p(k), such as AutoregressiveCodes",
            }
            raise UsageError(f"--prior: a {type(vae).__name__} takes {kinds[base]}, got {cls.__name__}")
        self.parts = {"prior": prior}

    def fitted(self, data: Dataset, **settings: Any) -> Any:
        """See `NewPart`."""
        return refit_prior(self.vae, data, self.parts["prior"], **settings)

    def compared(self, vae: Any, data: Dataset, seed: int) -> dict[str, Any]:
        """See `NewPart`."""
        found = compare_priors(self.vae, vae, data.split("valid"), DRAWS, seed=seed, mask=data.observed("valid"))
        return {
            "prior": type(vae.prior).__name__,
            "before": type(self.vae.prior).__name__,
            "cross_entropy": _numbers(found.after.mean, found.after.standard_error),
            "cross_entropy_before": _numbers(found.before.mean, found.before.standard_error),
            "gain": _numbers(found.gain, found.standard_error),
            **({"draws_per_datum": DRAWS, "seed": seed} if isinstance(vae, VAE) else {}),
            "verdict": found.verdict,
        }


class NewGuide(NewPart):
    """A new guide, encoder, or both.

    Args:
        vae: the trained autoencoder.
        parts: `guide`, `encoder`, as classes or partials.

    Raises:
        UsageError: if the autoencoder is no `VAE`.
    """

    what, fits = "guide", "fits the posteriors of held-out data"

    def __init__(self, vae: Any, parts: Mapping[str, Any]) -> None:
        check_guide(vae)
        self.vae, self.parts = vae, parts

    def fitted(self, data: Dataset, **settings: Any) -> VAE:
        """See `NewPart`."""
        return refit_guide(self.vae, data, **self.parts, **settings)

    def compared(self, vae: VAE, data: Dataset, seed: int) -> dict[str, Any]:
        """See `NewPart`."""
        found = compare_guides(self.vae, vae, data.split("valid"), DRAWS, seed=seed, **data.given("valid"))
        return {
            "guide": _guide(vae),
            "before": _guide(self.vae),
            "elbo": _numbers(found.after.elbo.mean().item(), standard_error(found.after.elbo)),
            "elbo_before": _numbers(found.before.elbo.mean().item(), standard_error(found.before.elbo)),
            "gain": _numbers(found.gain, found.standard_error),
            "draws_per_datum": DRAWS,
            "seed": seed,
            "verdict": found.verdict,
        }


def _numbers(mean: float, standard_error: float) -> Numbers:
    return {"mean": mean, "standard_error": standard_error}


def _guide(vae: VAE) -> str:
    """The guide and its encoder, in words."""
    size = sum(p.numel() for p in vae.encoder.parameters())
    return f"{type(vae.posterior).__name__} with {type(vae.encoder).__name__} of {size:,} weights"
