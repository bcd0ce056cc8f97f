"""Sections on the guide as a whole, the guide against HMC, and data against the model."""

from collections.abc import Mapping
from typing import Any

from pyro_vae import plots
from pyro_vae.diagnostics import (
    ConformalScaling,
    ExpectedCoverage,
    LocalC2ST,
    compare_with_hmc,
    conformal_scaling,
    evidence_check,
    expected_coverage,
    local_c2st,
)
from pyro_vae.errors import NumericalError, UsageError
from pyro_vae.report.html import Section, Warned
from pyro_vae.report.subject import Finding, Subject

_ALPHA = 0.01
"""Probability of a false alarm of each test here; a page has many."""
_MOST_OFF = 0.05
"""Share of data at which the guide is off from HMC above which the report warns."""
_DRAWS = 250
"""Draws of each chain of HMC."""
_PARTICLES = 1000
"""Most draws for log p(x) of simulated data: fewer than for the data's own, whose value is what matters there."""


def regions(subject: Subject) -> Finding:
    """The guide as a whole: regions of the whole code, and a classifier of pairs of code and datum."""
    num, tell = subject.sizes.num_simulated, subject.teller("regions", 3.0)
    like, programs = subject.held_out.repeated(num), (subject.vae.model, subject.vae.guide)
    found = expected_coverage(*programs, like.x, alpha=_ALPHA, seed=subject.seed, **like.inputs)
    tell(1)
    at = subject.held_out.first(num)
    given: dict[str, Any] = {"num_simulated": num, "alpha": _ALPHA, "seed": subject.seed}
    local = local_c2st(*programs, at.x, **given, **at.inputs)
    tell(2)
    scaling = _scaling(subject)
    tell(3)
    text = (
        "TARP and HPD ask how often regions of the whole code contain the true one; local C2ST, if a classifier tells "
        "the guide's codes from true ones at these data. They see what no dimension shows by itself, such as a wrong "
        "correlation. The factors say how much larger credible sets must be to be right on average over simulated data."
    )
    figures = {
        "Coverage of regions of the whole code, less their level": plots.rank_ecdf(found),
        "Local C2ST at each datum": plots.local_c2st(local),
    }
    numbers = {"expected_coverage": found.summary(), "local_c2st": local.summary()}
    numbers |= {} if scaling is None else {"conformal_scaling": scaling.summary()}
    note = f"{num} simulated data, {len(at.x)} data, {found.num_draws} draws each; alpha {_ALPHA}. Seed {subject.seed}."
    warnings = _of_guide(found, local, scaling)
    return Finding(Section("The guide as a whole", text, [_rows(found, local)], figures, warnings, note), numbers)


def _scaling(subject: Subject) -> ConformalScaling | None:
    """Conformal factors; None for codes that have no such sets (discrete ones), or too few data."""
    like = subject.held_out.repeated(subject.sizes.num_simulated)
    try:
        return conformal_scaling(subject.vae.model, subject.vae.guide, like.x, seed=subject.seed, **like.inputs)
    except (UsageError, NumericalError):
        return None


def _rows(found: ExpectedCoverage, local: LocalC2ST) -> list[Mapping[str, Any]]:
    p_values = dict(zip(found.names, found.p_values.tolist(), strict=True))
    rows = [{"test": name, "p-value": p_values[name], "verdict": found.verdicts[name]} for name in found.names]
    verdict = "calibrated" if local.calibrated else f"{local.flagged.double().mean().item():.0%} of the data flagged"
    return [*rows, {"test": "local C2ST", "p-value": local.p_value, "verdict": verdict}]


def _of_guide(found: ExpectedCoverage, local: LocalC2ST, scaling: ConformalScaling | None) -> list[Warned]:
    flagged = [f"{name}: {verdict}" for name, verdict in found.verdicts.items() if verdict != "calibrated"]
    flagged += [] if local.calibrated else [f"local C2ST: the guide differs, p = {local.p_value:.2g}"]
    if not flagged:
        return []
    advice = "For questions about codes take posterior(method='psis') or 'hmc', or a wider family (FullNormal, a flow)."
    if scaling is not None:
        level, factor = scaling.levels[-2].item(), scaling.factors[-2, 0].item()
        advice += f" Regions of {level:.0%} are right on average if they are made {factor:.2f} times as wide."
    return [Warned(f"As a whole the guide is not the posterior ({'; '.join(flagged)}).", advice)]


def against_hmc(subject: Subject) -> Finding:
    """The guide against HMC: mean, spread and correlations of the codes of some data."""
    data = subject.held_out.first(subject.sizes.num_compared)
    tell = subject.teller("hmc", len(data.x))
    programs, how = (subject.vae.model, subject.vae.guide), subject.sizes.hmc
    given: dict[str, Any] = {"num_draws": _DRAWS * how.num_chains, "hmc": how, "seed": subject.seed}
    found = compare_with_hmc(*programs, data.x, progress=tell, **given, **data.inputs)
    summary = found.summary()
    offs = (found.mean, found.log_sd, found.correlation)
    rows = [
        {
            "": name,
            "off by, root mean square": off.root_mean_square,
            "standard error": off.standard_error,
            "data off by more than 0.1": f"{round(share * len(data.x))} of {len(data.x)}",
        }
        for (name, share), off in zip(summary["flagged_by"].items(), offs, strict=True)
    ]
    warnings, share = [], summary["flagged"]
    if share > _MOST_OFF:
        width = found.log_sd.values.mean().exp().item()
        what = f"The guide's mean, sd or correlations are off by more than 0.1 for {share:.0%} of the data."
        advice = f"Its standard deviations are {width:.2f} times those of HMC: take posterior(method='hmc') for codes."
        warnings.append(Warned(what, advice))
    text = (
        "Mean, standard deviation and correlations of each datum's code, by the guide and by Hamiltonian Monte Carlo: "
        "means in standard deviations, sd as the logarithm of the ratio."
    )
    figures = {"The guide less HMC, over data and dimensions": plots.hmc_comparison(found)}
    note = (
        f"{len(data.x)} data, {found.num_draws} draws each; HMC's chains are flagged (R-hat, ESS) for "
        f"{summary['unreliable']:.0%}, as short ones are: compare_with_hmc with longer ones says more. "
        f"Seed {subject.seed}."
    )
    return Finding(Section("The guide against HMC", text, [rows], figures, warnings, note), summary)


def likeness(subject: Subject) -> Finding:
    """Data against the model: log p(x) of the data among that of data that the model draws."""
    num, particles = subject.sizes.num_simulated, min(_PARTICLES, subject.sizes.num_particles)
    data = subject.held_out.first(num)
    found = evidence_check(
        subject.vae.model,
        subject.vae.guide,
        data.x,
        num_simulated=max(num, 200),
        num_particles=particles,
        alpha=_ALPHA,
        seed=subject.seed,
        progress=subject.teller("likeness", len(data.x) + max(num, 200)),
        **data.inputs,
    )
    difference, error = found.difference
    rows = [{"data less simulated, nats": difference, "standard error": error, "p-value": found.p_value}]
    warnings = []
    if not found.consistent:
        what = f"The data are {found.verdict}: {difference:+.2f} nats (se {error:.2f}) on average."
        advice = (
            "Calibration is measured on data that the model draws, so it says less of these. Train longer, or take "
            "another likelihood or prior; look at samples."
        )
        warnings.append(Warned(what, advice))
    text = (
        "If the model draws data like these, log p(x) has one distribution over both. Data can be too unlikely, or too "
        "likely: a model of data that are more varied than there are."
    )
    figures = {"Log p(x) of the data, and of simulated data": plots.evidence_check(found)}
    sizes = f"{len(data.x)} data, {len(found.simulated)} simulated, K = {particles}"
    note = f"{sizes}; alpha {_ALPHA}. Seed {subject.seed}."
    return Finding(Section("Data against the model", text, [rows], figures, warnings, note), found.summary())
