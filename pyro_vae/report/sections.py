"""All diagnostics of a trained VAE on some data, section by section: numbers, pictures and text.

To add a section, write a function of a `Subject` that returns a `Finding`, and name it in `SECTIONS`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from pyro_vae import plots
from pyro_vae.diagnostics import latent_statistics
from pyro_vae.diagnostics.calibration import simulation_based_calibration
from pyro_vae.diagnostics.collapse import collapse_warnings
from pyro_vae.diagnostics.gaps import InferenceGaps, compare_gaps, inference_gaps
from pyro_vae.diagnostics.predictive import posterior_predictive_check
from pyro_vae.diagnostics.surgery import elbo_surgery
from pyro_vae.errors import NumericalError, UsageError
from pyro_vae.evidence import Evidence
from pyro_vae.evidence.annealing import ais, bdmc
from pyro_vae.evidence.base import MOST_UNRELIABLE
from pyro_vae.evidence.interval import Interval
from pyro_vae.evidence.sandwich import CROSSED_BEYOND, Sandwich
from pyro_vae.process.isolation import isolated
from pyro_vae.report.guide_checks import against_hmc, likeness, regions
from pyro_vae.report.html import Section, Warned
from pyro_vae.report.subject import MUCH, Finding, Given, Subject
from pyro_vae.statistics.averages import Averaged, at_least, number, standard_error

MOST_BRACKET = 1.0
"""Width of the bracket, nats, above which the report warns."""


_CERTAIN = 3.0
"""Standard errors above which a difference is reported."""


@isolated
def diagnose(subject: Subject, sections: Sequence[str] | None = None) -> dict[str, Finding]:
    """Measure section by section.

    A section that makes no sense for the model (gaps of other models than `VAE`, annealing of discrete codes) gives the
    reason as a warning, so that nobody believes that it was measured.

    Args:
        subject: what is diagnosed.
        sections: which, of `SECTIONS`; None for all.

    Returns:
        The findings by section.

    Raises:
        UsageError: if there is no such section, or `subject` is none.

    Example:
        >>> import torch
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> found = diagnose(Subject(VAE((4,), latent_dim=2), Given(torch.ones(20, 4))), ["evidence", "latents"])
        >>> list(found), found["evidence"].numbers["num_data"]
        (['evidence', 'latents'], 20)
    """
    if not isinstance(subject, Subject):
        raise UsageError(f"subject: expected a Subject(vae, held_out), got a {type(subject).__name__}")
    chosen = list(SECTIONS) if sections is None else list(sections)
    unknown = [name for name in chosen if name not in SECTIONS]
    if unknown:
        raise UsageError(f"unknown section {unknown[0]!r}: expected some of {', '.join(SECTIONS)}")
    return {name: _measured(SECTIONS[name], subject) for name in chosen}


def _measured(measure: Callable[[Subject], Finding], subject: Subject) -> Finding:
    try:
        return measure(subject)
    except (UsageError, NumericalError) as error:
        title = (measure.__doc__ or "").split(":")[0]
        warned = Warned(f"{title}: not measured.", f"{error}.")
        return Finding(Section(title, warnings=[warned]), {"not_measured": str(error)})


def evidence(subject: Subject) -> Finding:
    """Log p(x): the estimate, its errors and its health."""
    found = subject.evidence
    rows = [
        _row("log p(x)", found.mean, found.standard_error_data, found.error_text()),
        *_upper_row("log p(x), upper bound", found.interval),
        _row("ELBO", found.elbo_mean, standard_error(found.elbo), None),
    ]
    warnings = []
    if found.mean_flagged:
        what = (
            f"Pareto k is above {found.threshold:.2f} for {found.pareto_k_above:.1%} of the data, and "
            f"{found.unreliable:.1%} are flagged (more than {MOST_UNRELIABLE:.0%}): the guide's draws miss part of "
            "those posteriors, log p(x) is likely too low, for the mean as well, and the errors of draws are larger "
            "than these."
        )
        advice = (
            "The bracket with annealed importance sampling (AIS) says by how much; take a wider family (FullNormal, "
            "InverseAutoregressiveFlow), or a larger K."
        )
        warnings.append(Warned(what, advice))
    text = (
        f"Importance sampling from the guide with K = {found.num_particles} draws for each of {len(found.log_p)} data. "
        "The estimate is below log p(x) in expectation, and rises to it with K. The upper bound, by the same draws, is "
        "above it in expectation. Both are too low where the draws miss a part of the posterior, which the flags tell."
    )
    figures = {"Pareto k of each datum; what to trust is decided from all k together": plots.pareto_k(found)}
    return Finding(Section("Log p(x)", text, [rows], figures, warnings, _seed(subject)), found.summary())


def bracket(subject: Subject) -> Finding:
    """Log p(x) bracketed: compared with annealed importance sampling, and bounded from both sides on simulated data."""
    sizes, few = subject.sizes, subject.held_out.first(subject.sizes.num_bracketed)
    vae, options = subject.vae, {"annealing": subject.sizes.annealing, "seed": subject.seed}
    annealed = ais(
        vae.model, vae.guide, few.x, progress=subject.teller("bracket, data", len(few.x)), **options, **few.inputs
    )
    tell = subject.teller("bracket, simulated", len(few.x))
    simulated = bdmc(vae.model, vae.guide, len(few.x), progress=tell, **options, **few.inputs)
    importance = subject.evidence.log_p[: len(few.x)]
    higher = annealed.log_p - importance
    lower, upper, gap = simulated.lower, simulated.upper, simulated.gap
    rows = [
        _row("the data: importance sampling", importance.mean().item(), standard_error(importance), None),
        _row("the data: AIS", annealed.mean, annealed.standard_error_data, annealed.error_text()),
        *_upper_row("the data: AIS, upper bound", annealed.interval),
        _row("the data: AIS less importance sampling", higher.mean().item(), standard_error(higher), None),
        _row("simulated: lower bound, AIS", lower.mean, lower.standard_error_data, lower.error_text()),
        _row("simulated: upper bound, reverse AIS", upper.mean, upper.standard_error_data, upper.error_text()),
        _row("simulated: gap", gap.mean, gap.standard_error_data, None),
    ]
    warnings = _of_crossing(simulated)
    if higher.mean() > max(0.1, _CERTAIN * standard_error(higher)):
        found = f"{higher.mean():.2f} +- {standard_error(higher):.2f}"
        what = f"AIS finds log p(x) {found} nats higher than importance sampling."
        warnings.append(Warned(what, "Report the higher one (both are lower bounds), or raise K, or widen the guide."))
    if gap.mean > MOST_BRACKET:
        what = f"The bracket is {gap.mean:.2f} nats wide (more than {MOST_BRACKET:g})."
        warnings.append(Warned(what, "Anneal over more temperatures: the gap falls about as one over their number."))
    text = (
        "Annealed importance sampling walks from the guide to the posterior by Hamiltonian Monte Carlo. On data that "
        "the model draws itself, whose codes are known, the walk backwards bounds log p(x) from above: the gap says "
        "how far the lower bound can be off on data like these."
    )
    if simulated.crossed == "within error":
        text += f" Here the two sides agree within error: log p(x) of these is {_equality(simulated)}."
    how, cost = sizes.annealing, annealed.evaluations
    note = (
        f"{len(few.x)} data and {len(few.x)} simulated ones, {how.num_chains} chains over {how.num_temperatures} "
        f"temperatures from the {how.start}, {cost:,} gradients of the decoder a datum. {_seed(subject)}"
    )
    numbers = {"ais": annealed.summary(), "ais_less_importance": _mean(higher), "sandwich": simulated.summary()}
    return Finding(Section("Log p(x), bracketed", text, [rows], {}, warnings, note), numbers)


def _of_crossing(simulated: Sandwich) -> list[Warned]:
    """A lower bound above the upper one by more than chance allows."""
    if simulated.crossed != "beyond error":
        return []
    what = (
        f"The lower bound on log p(x) of simulated data is above the upper one, by {-simulated.gap.mean:.3f} nats or "
        f"{simulated.crossed_by:.1f} standard errors (more than {CROSSED_BEYOND:g})."
    )
    advice = (
        "This is no bracket: a density of the programs is not that of its draws (check a part or program of your own), "
        "or the errors are too small: take more data and chains."
    )
    return [Warned(what, advice)]


def gaps(subject: Subject) -> Finding:
    """Inference gaps: what the guide's family costs, and what its encoder does."""
    num = subject.sizes.num_gaps
    found = {"held-out": _gaps(subject, subject.held_out.first(num), _first(subject.evidence, num), "held-out")}
    if subject.train is not None:
        train = subject.train.first(num)
        found["train"] = _gaps(subject, train, subject.importance_sampled(train, "gaps, log p(x), train"), "train")
    names = {"total": "log p(x) - ELBO", "approximation": "approximation gap", "amortisation": "amortisation gap"}
    rows = [
        {"nats per datum": text, **{split: _reported(getattr(result, name)) for split, result in found.items()}}
        for name, text in names.items()
    ]
    numbers: dict[str, Any] = {split: result.summary() for split, result in found.items()}
    warnings = _of_gaps(found["held-out"])
    if len(found) > 1:
        compared = compare_gaps(found["train"], found["held-out"])
        numbers["held_out_less_train"] = {name: vars(value) for name, value in compared.differences.items()}
        if compared.encoder_overfits:
            what = f"The amortisation gap is larger on held-out data, by {compared.differences['amortisation']} nats."
            warnings.append(
                Warned(what, "The encoder overfits: regularise it (dropout, fewer units), or refine codes.")
            )
    text = (
        "The ELBO is below log p(x) because no member of the guide's family is the posterior (approximation gap), and "
        "because the encoder does not find the best member (amortisation gap). The best member is searched for each "
        "datum by itself, with the decoder frozen. Errors are of the data and, second, of the draws."
    )
    figures = {"Inference gaps with two standard errors": plots.inference_gaps(found)}
    return Finding(Section("Inference gaps", text, [rows], figures, warnings, _seed(subject)), numbers)


def _gaps(subject: Subject, data: Given, known: Evidence, name: str) -> InferenceGaps:
    tell = subject.teller(f"gaps, {name}", len(data.x))
    return inference_gaps(subject.vae, data.x, known, seed=subject.seed, progress=tell, **data.inputs)


def _first(evidence: Evidence, num: int) -> Evidence:
    """The estimate of the first `num` data, which does not depend on those that follow."""
    return replace(evidence, data=None, **{name: column[:num] for name, column in evidence.columns().items()})


def _of_gaps(found: InferenceGaps) -> list[Warned]:
    warnings, unfinished, negative = [], _share(found.not_converged), _share(found.negative)
    if found.amortisation.mean > max(found.approximation.mean, MUCH):
        what = (
            f"Most of the gap is the encoder's: {found.amortisation.mean:.2f} of {found.total.mean:.2f} nats "
            "(amortisation gap)."
        )
        advice = "A larger encoder, longer training or a semi-amortised guide helps; a wider family does not."
        warnings.append(Warned(what, advice))
    if unfinished > 0.05:
        what = f"The search for the best member was cut off for {unfinished:.0%} of the data (more than 5%)."
        warnings.append(Warned(what, "The amortisation gap may be larger than reported: allow more steps."))
    if negative > 0.01:
        what = f"A gap is negative beyond its error for {negative:.1%} of the data (more than 1%)."
        warnings.append(Warned(what, "Their log p(x) is estimated too low: see Pareto k and the bracket."))
    return warnings


def latents(subject: Subject) -> Finding:
    """Codes: which dimensions are in use, and how much information they contain."""
    data = subject.held_out
    stats = latent_statistics(subject.vae, data.x, **data.inputs)
    terms = elbo_surgery(
        subject.vae.model,
        subject.vae.guide,
        data.x,
        seed=subject.seed,
        progress=subject.teller("latents", len(data.x)),
        **data.inputs,
    )
    names = {
        "reconstruction": "reconstruction",
        "information": "information about x",
        "marginal_kl": "marginal KL",
        "kl": "KL, the sum of the two",
    }
    rows = [{"nats per datum": text, "": _reported(getattr(terms, name))} for name, text in names.items()]
    rows.insert(2, {"nats per datum": "information about x, at most", "": _reported(terms.information_upper)})
    figures = {
        "Spread of each dimension's posterior mean over the data": plots.active_units(stats),
        "The average KL and its parts": plots.elbo_surgery(terms),
    }
    if stats.kl is not None:
        figures = {"KL of each dimension from the prior": plots.latent_kl(stats), **figures}
    warnings = [Warned(*_in_two(text)) for text in collapse_warnings(stats)]
    note = (
        f"Active units: {stats} (variance over the data of E[z|x] above 0.01). Information can't exceed log N = "
        f"{terms.most:.2f}{': it is limited by the number of data here' if terms.saturated else ''}. {_seed(subject)}"
    )
    text = (
        "The average KL is what codes tell of the data (information) and what their aggregate differs from the prior "
        "(marginal KL): a large marginal KL asks for another prior, a small information for a code that is used."
    )
    numbers = {"active_units": str(stats), "num_active": stats.num_active, "surgery": terms.summary()}
    return Finding(Section("Codes", text, [rows], figures, warnings, note), numbers)


def calibration(subject: Subject) -> Finding:
    """Calibration of the guide: on data that the model draws, whose codes are known."""
    num = subject.sizes.num_simulated
    like = subject.held_out.repeated(num)
    found = simulation_based_calibration(
        subject.vae.model,
        subject.vae.guide,
        like.x,
        seed=subject.seed,
        progress=subject.teller("calibration", num),
        **like.inputs,
    )
    flagged = {name: verdict for name, verdict in found.verdicts.items() if verdict != "calibrated"}
    coverage = found.coverage()
    average, errors = coverage.shares.mean(1), coverage.standard_errors
    rows = [
        {
            "credible sets of": f"{level:.1%}",
            "hold the truth, average of all quantities": f"{held:.1%}",
            "standard error of one quantity": f"{error:.1%}",
        }
        for level, held, error in zip(*map(Tensor.tolist, (coverage.levels, average, errors)), strict=True)
    ]
    warnings = []
    if flagged:
        counts = {verdict: sum(v == verdict for v in flagged.values()) for verdict in flagged.values()}
        listed = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        what = f"The guide is not calibrated: {len(flagged)} of {len(found.names)} quantities are flagged ({listed})."
        advice = (
            "Its draws are not those of the posterior: for questions about codes take posterior(method='psis') or "
            "'hmc', or a wider family. Log p(x) is corrected by its weights all the same."
        )
        warnings.append(Warned(what, advice))
    text = (
        "Codes drawn from the prior are ranked among the guide's draws for the data drawn with them. If the guide is "
        f"the posterior, ranks are uniform; the band holds all curves with a chance of {1 - found.alpha:.0%}."
    )
    figures = {
        "Distribution of ranks, less the uniform one": plots.rank_ecdf(found),
        "How often credible sets hold the truth": plots.coverage(coverage),
    }
    note = f"{len(found.ranks)} simulated data, {found.num_draws} draws each. {_seed(subject)}"
    return Finding(Section("Calibration of the guide", text, [rows], figures, warnings, note), found.summary())


def predictive(subject: Subject) -> Finding:
    """Predictive check: whether the model makes data like these."""
    data = subject.held_out
    found = posterior_predictive_check(
        subject.vae.model,
        subject.vae.guide,
        data.x,
        method="prior",
        num_draws=subject.sizes.num_replicated,
        seed=subject.seed,
        progress=subject.teller("predictive", subject.sizes.num_replicated),
        **data.inputs,
    )
    summary = found.summary()
    rows = [
        {
            "statistic": name,
            "data": row["observed"],
            "model, mean and sd": f"{row['mean']:.4g}, {row['sd']:.2g}",
            "p-value, two-sided": row["two_sided"],
        }
        for name, row in summary["statistics"].items()
    ]
    warnings = []
    if found.flagged.any():
        bad = [name for name, flag in zip(found.names, found.flagged.tolist(), strict=True) if flag]
        what = f"Data drawn from the model differ from the data in: {', '.join(bad)}."
        advice = "Look at samples; another likelihood, a better prior or longer training may be needed."
        warnings.append(Warned(what, advice))
    text = "Statistics of the data, and of data sets of the same size that the model draws with codes from its prior."
    figures = {"Statistics of replicated data, and of the data (line)": plots.predictive_check(found)}
    note = f"{len(data.x)} data, {len(found.replicated)} replications. {_seed(subject)}"
    return Finding(Section("Predictive check", text, [rows], figures, warnings, note), summary)


SECTIONS: dict[str, Callable[[Subject], Finding]] = {
    "evidence": evidence,
    "bracket": bracket,
    "gaps": gaps,
    "latents": latents,
    "calibration": calibration,
    "regions": regions,
    "hmc": against_hmc,
    "predictive": predictive,
    "likeness": likeness,
}


def _row(name: str, mean: float, of_data: float, of_draws: float | str | None) -> dict[str, Any]:
    """A row of a table of averages over data; an error that is text is printed as it is."""
    draws = "" if of_draws is None else of_draws if isinstance(of_draws, str) else number(of_draws, ".4f")
    return {"": name, "nats per datum": f"{mean:.3f}", "standard error, data": number(of_data), "of draws": draws}


def _upper_row(name: str, interval: Interval | None) -> list[dict[str, Any]]:
    """The row of the upper end of an interval, with the share of the data for which it is not to be trusted."""
    if interval is None:
        return []
    upper, flagged = interval.upper, f", flagged for {interval.unreliable:.1%}" * (interval.unreliable > 0)
    error = at_least(number(upper.standard_error_monte_carlo, ".4f"), upper.is_at_least)
    return [_row(f"{name}{flagged}", upper.mean, upper.standard_error_data, error)]


def _equality(simulated: Sandwich) -> str:
    return f"{simulated.middle:.3f} +- {number(simulated.standard_error)} nats per datum"


def _in_two(text: str) -> tuple[str, str]:
    what, _, advice = text.partition(". ")
    first, _, rest = what.partition("): ")
    return (f"{first}).", f"{rest}. {advice}".strip()) if rest else (f"{what}.", advice)


def _reported(value: Averaged) -> str:
    monte_carlo = at_least(number(value.standard_error_monte_carlo), value.is_at_least)
    return f"{value.mean:.3f} (se {number(value.standard_error_data)}, {monte_carlo})"


def _mean(values: Tensor) -> dict[str, float]:
    return {"mean": values.mean().item(), "standard_error": standard_error(values)}


def _share(flags: Tensor) -> float:
    return flags.double().mean().item()


def _seed(subject: Subject) -> str:
    return f"Seed {subject.seed}."
