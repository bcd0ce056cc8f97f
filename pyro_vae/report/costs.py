"""What costs a trained VAE how many nats, and what would change it: read from the numbers of the other sections."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from inspect import Parameter, signature
from math import hypot, isnan, nan
from typing import Any

from pyro_vae.autoencoders import VAE, Autoencoder
from pyro_vae.errors import UsageError
from pyro_vae.guides import DiagonalNormal, FullNormal, Householder, InverseAutoregressiveFlow, LowRankNormal
from pyro_vae.priors import FlowPrior, Laplace, LearnedNormal, MixtureOfNormals, StandardNormal
from pyro_vae.report.proposals import Proposal, Refit, Retrain
from pyro_vae.report.retraining import Training
from pyro_vae.statistics.averages import number
from pyro_vae.training.plan import check_weight_prior
from pyro_vae.training.refit import check_prior
from pyro_vae.training.refit_guide import check_guide

OVER_FITTING = "over-fitting of the model"

_CERTAIN = 2.0
"""Standard errors above which a cost is one."""
_WIDTH = 200
"""Fewest units of a layer of a wider encoder."""
_MOST_FULL = 50
"""Most latent dimensions for which a full covariance is proposed: the encoder's output grows with their square."""
_COMPONENTS = 50
"""Components of a mixture that is proposed as prior."""
_DROPOUT = 0.2


@dataclass(frozen=True)
class Cost:
    """By how much a part lowers the ELBO of held-out data, as far as it can be measured.

    Args:
        what: the part.
        nats: the cost, nats per datum; nan if only a training can measure it.
        standard_error: its standard error, of the data.
        meaning: what was measured.
        advice: what changes it, in words.
        proposal: what changes it, and can be tried; None for nothing that is known to fit this model.
    """

    what: str
    nats: float
    standard_error: float
    meaning: str
    advice: str
    proposal: Proposal | None = None

    @property
    def is_certain(self) -> bool:
        """Whether it is above 0 by more than 2 standard errors (false alarm 2.3 %)."""
        return self.nats > _CERTAIN * self.standard_error

    @property
    def is_open(self) -> bool:
        """Whether only a training can measure it."""
        return isnan(self.nats)

    @property
    def is_worth_trying(self) -> bool:
        """Whether it is above its error, or only a training can tell."""
        return self.is_certain or self.is_open


def costs(vae: Autoencoder, numbers: Mapping[str, Mapping[str, Any]], training: Training | None = None) -> list[Cost]:
    """The costs that the sections have measured, the largest first; those within their errors last.

    If the model was found not to over-fit, the decoder is second: no section can measure what a better one would gain,
    so it is one of the two that are tried.

    Args:
        vae: what was diagnosed.
        numbers: those of the sections, by name, as `diagnose` finds them.
        training: how it was trained, so that the whole model can be trained again; None if that is not known.
    """
    gaps = numbers.get("gaps", {})
    found = [*_of_gaps(vae, gaps, training), *_of_prior(vae, numbers.get("latents", {}), gaps.get("held-out", {}))]
    found.sort(key=lambda cost: (not cost.is_certain, -cost.nats))
    fit = [cost for cost in found if cost.what == OVER_FITTING]
    if fit and not fit[0].is_certain:
        found.insert(min(1, sum(cost.is_certain for cost in found)), _of_decoder(vae, training))
    return found


# ---- the guide, and over-fitting


def _of_gaps(vae: Autoencoder, gaps: Mapping[str, Any], training: Training | None) -> list[Cost]:
    if "held-out" not in gaps:
        return []
    held_out, differences = gaps["held-out"], gaps.get("held_out_less_train", {})
    found = [_of_family(vae, held_out["approximation"]), _of_encoder(vae, held_out["amortisation"], differences)]
    return [*found, *_of_fit(vae, differences, training)]


def _of_family(vae: Any, gap: Mapping[str, float]) -> Cost:
    wider = _wider_family(vae)
    advice = f"A wider family: {wider.__name__}." if wider else "A wider family, a class of your own."
    proposal = Refit({"guide": wider}) if wider and _fits(check_guide, vae) else None
    meaning = "log p(x) less the ELBO of the family's best member for each datum"
    return Cost("family of the guide", gap["mean"], gap["standard_error_data"], meaning, advice, proposal)


def _wider_family(vae: Any) -> type | None:
    """The next wider family."""
    narrow, full = (DiagonalNormal,), (FullNormal, LowRankNormal, Householder)
    if isinstance(vae.posterior, narrow):
        return FullNormal if vae.shapes.latent <= _MOST_FULL else LowRankNormal
    return InverseAutoregressiveFlow if isinstance(vae.posterior, full) else None


def _of_encoder(vae: Any, gap: Mapping[str, float], differences: Mapping[str, Any]) -> Cost:
    excess = differences.get("amortisation")
    meaning = "the ELBO of the family's best member for each datum, less that of the encoder's"
    if excess is not None and excess["mean"] > max(_CERTAIN * excess["standard_error"], gap["mean"] / 2):
        advice = "It over-fits: dropout, fewer units, or the weights of an earlier epoch (validation data, --patience)."
        what, changed = "encoder (over-fitting)", {"dropout": _DROPOUT}
        meaning += f"; {excess['mean']:.3f} (se {number(excess['standard_error'])}) more than on training data"
    else:
        advice = "A wider encoder, longer training of it, or SemiAmortized."
        what, changed = "encoder", _wider(vae.arguments.get("encoder"))
    return Cost(what, gap["mean"], gap["standard_error_data"], meaning, advice, _with(vae, changed))


def _with(vae: Any, changed: Mapping[str, Any]) -> Refit | None:
    """The encoder with other options; None where its class has no such options."""
    encoder = vae.arguments.get("encoder")
    if not changed or not set(changed) <= set(_options(encoder)) or not _fits(check_guide, vae):
        return None
    return Refit({"encoder": partial(encoder, **changed)})


def _fits(check: Callable[[Any], None], vae: Any) -> bool:
    """Whether this autoencoder can be trained in a way, e.g. a part of it anew alone."""
    try:
        check(vae)
    except UsageError:
        return False
    return True


def _options(network: Any) -> Mapping[str, Parameter]:
    """The options of a network's class, or of a partial of it."""
    return {} if network is None else signature(getattr(network, "func", network)).parameters


def _wider(network: Any) -> dict[str, tuple[int, ...]]:
    """The widths of a network, each doubled and at least 200; of convolutions doubled."""
    known, keywords = _options(network), getattr(network, "keywords", {})
    least = {"hidden": _WIDTH, "channels": 1}
    widths = {name: keywords.get(name, known[name].default) for name in least if name in known}
    return {name: tuple(max(2 * width, least[name]) for width in value) for name, value in widths.items()}


# ---- the model as a whole


def _of_fit(vae: Any, differences: Mapping[str, Any], training: Training | None) -> list[Cost]:
    if "log_p" not in differences:
        return []
    meaning = "log p(x) of training data less that of held-out data"
    excess, proposal = differences["log_p"], _less_fit(vae, training)
    if proposal is not None and "keep" in proposal.settings:
        advice = "Early stopping: keep the weights of the epoch that is best on validation data."
    elif proposal is not None:
        advice = "A prior on the decoder's weights; else dropout, fewer units, or more data."
    else:
        advice = "Train again with less freedom or fewer epochs: --patience, --weight_prior 1, dropout, or more data."
    return [Cost(OVER_FITTING, -excess["mean"], excess["standard_error"], meaning, advice, proposal)]


def _less_fit(vae: Any, training: Training | None) -> Retrain | None:
    """Early stopping where the run did not stop early; else a prior on the decoder's weights."""
    if training is None or not training.is_whole or not isinstance(vae, VAE):
        return None
    if not training.stops_early:
        held_out = None if training.has_valid else max(1, training.size // 10)
        return Retrain("stopped", settings={"keep": "best"}, valid_size=held_out)
    if training.config.get("weight_prior") is None and _fits(check_weight_prior, vae):
        return Retrain("weight-prior", settings={"weight_prior": 1.0})
    return None


def _of_decoder(vae: Any, training: Training | None) -> Cost:
    """What a better decoder would gain, which is not known from one run."""
    advice, proposal = "A wider decoder, or one of another kind.", None
    changed = _wider(vae.arguments.get("decoder"))
    if changed and training is not None and training.is_whole and isinstance(vae, VAE):
        advice, proposal = "A wider decoder.", Retrain("decoder", {"decoder": changed}, beside=True)
    meaning = "not known from one run; no over-fitting was found, so a more flexible decoder may gain"
    return Cost("decoder", nan, nan, meaning, advice, proposal)


# ---- the prior


def _of_prior(vae: Any, latents: Mapping[str, Any], gaps: Mapping[str, Any]) -> list[Cost]:
    r"""The marginal KL as far as the guide does not explain it.

    .. math:: KL(q(z) \| p(z)) \le KL(q(x) \| p(x)) + E[KL(q(z|x) \| p(z|x))]

    by the data processing inequality, q(x) being that of the data. So the left side less the gap of the guide is at
    most what the model misses, and a wrong guide alone makes no cost of the prior.
    """
    surgery = latents.get("surgery")
    if surgery is None:
        return []
    whole, error = surgery["marginal_kl"]["mean"], surgery["marginal_kl"]["standard_error_data"]
    least = max(0.0, surgery["kl"]["mean"] - surgery["information_upper"]["mean"])
    meaning = "KL(q(z) || p(z)) from the aggregate posterior to the prior"
    if surgery["saturated"]:  # then the estimate says more of the number of data than of the prior
        meaning += f", at least: so few data say only that it is between {least:.3f} and {whole:.3f}"
        whole = least
    if "total" in gaps:
        meaning += f"; less the gap of the guide, {gaps['total']['mean']:.3f}, which explains as much of it"
        whole, error = max(0.0, whole - gaps["total"]["mean"]), hypot(error, gaps["total"]["standard_error_data"])
    richer = _richer(vae)
    advice = f"A richer prior: {getattr(richer, 'func', richer).__name__}." if richer else "A richer prior."
    proposal = Refit({"prior": richer}) if richer and _fits(check_prior, vae) else None
    return [Cost("prior", whole, error, meaning, advice, proposal)]


def _richer(vae: Any) -> Any:
    """The next richer prior; None if there is none that can be fitted alone."""
    mixture, prior = partial(MixtureOfNormals, components=_COMPONENTS), getattr(vae, "prior", None)
    if isinstance(prior, StandardNormal | LearnedNormal | Laplace):
        return mixture
    if isinstance(prior, MixtureOfNormals):
        return FlowPrior if len(prior.logits) >= _COMPONENTS else mixture
    return None
