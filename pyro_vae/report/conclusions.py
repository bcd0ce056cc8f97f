"""The first section of a report: what costs most, what was tried, and the commands."""

from collections.abc import Sequence
from typing import Any

from pyro_vae.report.costs import Cost
from pyro_vae.report.html import Section
from pyro_vae.report.subject import MUCH, Finding
from pyro_vae.report.trials import Trial
from pyro_vae.statistics.averages import number


def conclusions(found: Sequence[Cost], run: str, tried: Sequence[Trial] = (), seed: int = 0) -> Finding:
    """Conclusions: what costs most, and what to do about it.

    Args:
        found: the costs, in order.
        run: the run directory, for the commands.
        tried: what was tried; the command of a proposal that did not gain is left out.
        seed: of the trials.
    """
    rows = [
        {
            "part": cost.what,
            "costs, nats per datum": _nats(cost),
            "what was measured": cost.meaning,
            "what changes it": cost.advice,
        }
        for cost in found
    ]
    of = {trial.cost.what: trial for trial in tried}
    commands = {cost.what: _command(cost, run, of.get(cost.what), seed) for cost in found}
    listed = [
        {"change of": what, "command": text, "": "gains" if what in of else "not tried"}
        for what, text in commands.items()
        if text
    ]
    note = (
        "Each but that of the decoder is a part of the ELBO of held-out data, and some overlap: gains need not add up. "
        "How far log p(x) itself is below that of the best decoder is not known from one run: --try trains a wider one "
        "if the model does not over-fit."
    )
    if tried:
        note += " To choose a change by its gain, measure it on validation data (--split valid); keep test for the end."
    tables = [table for table in ([trial.row() for trial in tried], rows, listed) if table]
    numbers = {"costs": [_plain(cost, commands[cost.what]) for cost in found]}
    numbers |= {"tried": [trial.summary() for trial in tried]}
    return Finding(Section("Conclusions", _sentence(found, tried), tables, note=note), numbers)


def _nats(cost: Cost) -> str:
    return "unknown" if cost.is_open else f"{cost.nats:.3f} (se {number(cost.standard_error)})"


def _command(cost: Cost, run: str, trial: Trial | None, seed: int) -> str | None:
    """The command that changes it; None if nothing is proposed, the cost is within its error, or it did not gain."""
    if cost.proposal is None or not cost.is_worth_trying or (trial is not None and trial.verdict != "better"):
        return None
    if trial is None or trial.is_shorter:
        return cost.proposal.command(run)
    return cost.proposal.command(run, trial.epochs, seed)


def _sentence(found: Sequence[Cost], tried: Sequence[Trial]) -> str:
    if not found:
        return (
            "Nothing was measured that shows what to change: the sections on gaps and codes were left out, or say "
            "nothing of such a model."
        )
    first = found[0]
    costs = f"{first.nats:.2f} nats per datum (se {number(first.standard_error, '.2f')})"
    if first.is_certain and first.nats >= MUCH:
        text = f"The {first.what} costs most: {costs}. {first.advice}{_unclear(found, first.nats)}"
    elif first.is_certain:
        text = f"No part is known to cost as much as {MUCH} nats per datum: most the {first.what}, {costs}."
        text += _unclear(found, MUCH)
    else:
        text = "No part costs more than its error: more data (--num_data, --num_gaps) would show smaller costs."
    better = sorted((t for t in tried if t.gain and t.verdict == "better"), key=lambda t: -t.gain.gain)  # pyright: ignore
    if better:
        text += f" Of what was tried, the change of the {better[0].cost.what} gains most: {better[0].text}."
    elif tried:
        text += " Of what was tried, nothing gains beyond its error at this length of training."
    return text


def _unclear(found: Sequence[Cost], least: float) -> str:
    """What may cost at least so much as well, where its error is too large to tell."""
    parts = [f"the {c.what}, {_nats(c)}" for c in found if not c.is_certain and not c.is_open and c.nats >= least]
    return f" More data (--num_data, --num_gaps) would tell of {' and of '.join(parts)}." if parts else ""


def _plain(cost: Cost, command: str | None) -> dict[str, Any]:
    names = ("what", "nats", "standard_error", "meaning", "advice")
    found = {**{name: getattr(cost, name) for name in names}, "certain": cost.is_certain}
    return {**found, **({"command": command} if command else {})}
