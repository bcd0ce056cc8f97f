"""What costs a trained VAE most nats, and what would change it: read from the numbers of the other sections."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from math import hypot
from typing import Any

from pyro_vae.autoencoders import VAE, Autoencoder
from pyro_vae.guides import DiagonalNormal, FullNormal, Householder, InverseAutoregressiveFlow, LowRankNormal
from pyro_vae.priors import FlowPrior, Laplace, LearnedNormal, MixtureOfNormals, StandardNormal
from pyro_vae.report.html import Section
from pyro_vae.report.subject import Finding
from pyro_vae.runs.describing import describe
from pyro_vae.statistics.averages import number

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
class Proposal:
    """A part of a trained VAE to be fitted anew, as `refit_prior` and `refit_guide` do.

    Args:
        parts: classes, or partials of them, by name: `prior`, or `guide` and `encoder`.
    """

    parts: Mapping[str, Any]

    @property
    def lr(self) -> float:
        """Learning rate of Adam: a prior has few weights, and components that must travel."""
        return 1e-2 if "prior" in self.parts else 1e-3

    def command(self, run: str) -> str:
        """The command that does it.

        Args:
            run: the run directory.
        """
        words = [word for name, part in self.parts.items() for word in _words(name, describe(part))]
        options = [*words, "--optimizer.lr", f"{self.lr:g}", "--out", f"{run}-{'-'.join(self.parts)}"]
        return shlex.join(["pyro-vae", "refit", run, *options])


@dataclass(frozen=True)
class Cost:
    """By how much a part lowers the ELBO of held-out data, as far as it can be measured.

    Args:
        what: the part.
        nats: the cost, nats per datum.
        standard_error: its standard error, of the data.
        meaning: what was measured.
        advice: what changes it, in words.
        proposal: what changes it and can be tried at once; None if the whole model must be trained again.
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


def costs(vae: Autoencoder, numbers: Mapping[str, Mapping[str, Any]]) -> list[Cost]:
    """The costs that the sections have measured, the largest first; those within their errors last.

    Args:
        vae: what was diagnosed.
        numbers: those of the sections, by name, as `diagnose` finds them.
    """
    gaps = numbers.get("gaps", {})
    found = [*_of_gaps(vae, gaps), *_of_prior(vae, numbers.get("latents", {}), gaps.get("held-out", {}))]
    return sorted(found, key=lambda cost: (not cost.is_certain, -cost.nats))


def conclusions(found: Sequence[Cost], run: str, tried: Sequence[Mapping[str, str]] = ()) -> Finding:
    """Conclusions: what costs most, and what to do about it.

    Args:
        found: the costs.
        run: the run directory, for the commands.
        tried: rows of a table of what was tried.
    """
    rows = [
        {
            "part": cost.what,
            "costs, nats per datum": f"{cost.nats:.3f} (se {number(cost.standard_error)})",
            "what was measured": cost.meaning,
            "what changes it": cost.advice,
        }
        for cost in found
    ]
    commands = [{"to try": cost.what, "command": cost.proposal.command(run)} for cost in found if cost.proposal]
    text = _sentence(found)
    note = (
        "Each is a part of the ELBO of held-out data, and some overlap: gains need not add up. How far log p(x) itself "
        "is below that of the best decoder is not measurable from one run: train another one, and compare them."
    )
    tables = [table for table in (rows, commands, list(tried)) if table]
    numbers = {"costs": [_plain(cost, run) for cost in found]}
    return Finding(Section("Conclusions", text, tables, note=note), numbers)


def _sentence(found: Sequence[Cost]) -> str:
    if not found:
        return "Nothing was measured that shows what to change: the sections on gaps and codes were left out."
    if not found[0].is_certain:
        return (
            "No part costs more than the error of its measurement: more data (--num_data, --num_gaps) would show less."
        )
    first = found[0]
    return f"The {first.what} costs most: {first.nats:.2f} nats per datum. {first.advice}"


def _plain(cost: Cost, run: str) -> dict[str, Any]:
    command = {"command": cost.proposal.command(run)} if cost.proposal else {}
    names = ("what", "nats", "standard_error", "meaning", "advice")
    return {**{name: getattr(cost, name) for name in names}, "certain": cost.is_certain, **command}


# ---- the guide, and over-fitting


def _of_gaps(vae: Autoencoder, gaps: Mapping[str, Any]) -> list[Cost]:
    if "held-out" not in gaps:
        return []
    held_out, differences = gaps["held-out"], gaps.get("held_out_less_train", {})
    found = [_of_family(vae, held_out["approximation"]), _of_encoder(vae, held_out["amortisation"], differences)]
    return [*found, *_of_fit(differences)]


def _of_family(vae: Any, gap: Mapping[str, float]) -> Cost:
    wider = _wider_family(vae)
    advice = f"A wider family: {wider.__name__}." if wider else "A wider family, a class of your own."
    proposal = Proposal({"guide": wider}) if wider and isinstance(vae, VAE) else None
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


def _with(vae: Any, changed: Mapping[str, Any]) -> Proposal | None:
    """The encoder with other options; None where its class has no such options."""
    encoder = vae.arguments.get("encoder")
    known = signature(getattr(encoder, "func", encoder)).parameters if encoder is not None else {}
    if not isinstance(vae, VAE) or not changed or not set(changed) <= set(known):
        return None
    return Proposal({"encoder": partial(encoder, **changed)})  # pyright: ignore[reportArgumentType]


def _wider(encoder: Any) -> dict[str, tuple[int, ...]]:
    """The widths of an encoder, each doubled and at least 200; of convolutions doubled."""
    cls, keywords = getattr(encoder, "func", encoder), getattr(encoder, "keywords", {})
    known = signature(cls).parameters if cls is not None else {}
    least = {"hidden": _WIDTH, "channels": 1}
    widths = {name: keywords.get(name, known[name].default) for name in least if name in known}
    return {name: tuple(max(2 * width, least[name]) for width in value) for name, value in widths.items()}


def _of_fit(differences: Mapping[str, Any]) -> list[Cost]:
    if "log_p" not in differences:
        return []
    meaning = "log p(x) of training data less that of held-out data"
    advice = (
        "Train again with less freedom or fewer epochs: --patience, --vae.decoder.dropout 0.1, --weight_prior 1, or "
        "more data."
    )
    excess = differences["log_p"]
    return [Cost("over-fitting of the model", -excess["mean"], excess["standard_error"], meaning, advice)]


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
    proposal = Proposal({"prior": richer}) if richer and isinstance(vae, VAE) else None
    return [Cost("prior", whole, error, meaning, advice, proposal)]


def _richer(vae: Any) -> Any:
    """The next richer prior; None if there is none that can be fitted alone."""
    mixture, prior = partial(MixtureOfNormals, components=_COMPONENTS), getattr(vae, "prior", None)
    if isinstance(prior, StandardNormal | LearnedNormal | Laplace):
        return mixture
    if isinstance(prior, MixtureOfNormals):
        return FlowPrior if len(prior.logits) >= _COMPONENTS else mixture
    return None


# ---- as options of the command


def _words(name: str, description: Any) -> list[str]:
    """A described part as options: `--encoder MLP --encoder.hidden [400]`."""
    path, options = description["class_path"], description.get("init_args", {})
    own = [word for key, value in options.items() for word in (f"--{name}.{key}", _value(value))]
    return [f"--{name}", path.rpartition(".")[2] if path.startswith("pyro_vae.") else path, *own]


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
