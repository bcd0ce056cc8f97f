"""The table, and the figures."""

from typing import TYPE_CHECKING, Any

from torch import nn

from other_models.common import Data, Trained

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEADS = {
    "reconstruction": "reconstruction, squared error",
    "accuracy": "digit from code, accuracy",
    "imputation": "lower half, squared error",
    "auroc": "halves of two digits, AUROC",
    "two_sample": "draws against data, 0.5 is best",
}


def table(result: dict[str, Any]) -> str:
    """All rows as a table in Markdown, with the protocol below."""
    heads = [
        "model",
        "numbers learned",
        "numbers in a code",
        "CPU seconds",
        "log p(x), nats",
        "VAE minus this",
        *HEADS.values(),
    ]
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    for row in result["rows"].values():
        cells = [row["name"], f"{row['parameters']:,}", str(row["code"] or "—"), f"{row['seconds']:.1f}"]
        cells += [log_p_text(row["log_p"])]
        cells += [cell(row["vae_minus_this"], 2), *(cell(row[name], 3) for name in HEADS)]
        lines.append(f"| {' | '.join(cells)} |")
    errors = "Errors are standard errors; the second of log p(x) is that of the method's draws."
    return "\n".join([*lines, "", f"{result['protocol']}. {errors}", "", *notes(result)])


def cell(found: dict[str, float] | None, digits: int) -> str:
    """A number with its error, or a dash for what the model can't compute."""
    return "—" if found is None else f"{found['value']:.{digits}f} ± {found['error']:.{digits}f}"


def log_p_text(found: dict[str, Any] | None) -> str:
    """The log p(x) with its errors: of the data, of the method's draws, and the bracket."""
    if found is None:
        return "—"
    text = f"{'≥ ' * is_bound(found)}{found['value']:.2f} ± {found['error']:.2f}"
    text += f" ± {found['monte_carlo']:.3f}" if found["monte_carlo"] else ""
    return f"{text} in [{found['low']:.3f}, {found['high']:.3f}]" if found["kind"] == "bracket" else text


def notes(result: dict[str, Any]) -> list[str]:
    """How each log p(x) was found."""
    return [
        f"- log p(x) of {row['name']}: {row['log_p']['kind']}, {row['log_p']['how']}."
        for row in result["rows"].values()
        if row["log_p"] is not None
    ]


COLUMNS = {
    "log_p": ("log p(x)", -1.0, 2),
    "reconstruction": ("reconstruction", 1.0, 3),
    "accuracy": ("digit\nfrom code", -1.0, 2),
    "imputation": ("lower half", 1.0, 3),
    "auroc": ("halves of\ntwo digits", -1.0, 2),
    "two_sample": ("draws\nagainst data", 1.0, 3),
}
"""Title, sign of what is better (1 if lower is better), and digits of each column of the figure."""
FAMILIES = {"exact": "p(x) in closed form", "bounded": "p(x) estimated or bounded", "none": "no p(x)"}


def families(result: dict[str, Any]) -> "Figure":
    """The models by what is known of their p(x), a square for each measure.

    Darker is better, by rank. Hatched: the model can't. Grey: a lower bound, whose rank is not known.
    """
    from matplotlib import colormaps

    from pyro_vae.plots.base import make_figure

    rows = sorted(result["rows"].values(), key=lambda row: list(FAMILIES).index(row["family"]))
    figure = make_figure(9.6, 1.5 + 0.42 * len(rows))
    axes = figure.subplots()
    for column, (name, (_, sign, digits)) in enumerate(COLUMNS.items()):
        found = [row[name] for row in rows]
        ranks = ranked([None if f is None or is_bound(f) else sign * f["value"] for f in found])
        for place, (value, rank) in enumerate(zip(found, ranks, strict=True)):
            colour = "#EEEEEE" if rank is None else colormaps["Blues"](0.08 + 0.62 * (1 - rank))
            look = {"fc": "white", "hatch": "////"} if value is None else {"fc": colour}
            axes.fill_between([column, column + 0.96], place, place + 0.94, ec="#CCCCCC", lw=0, **look)
            ink = "white" if rank is not None and rank < 0.25 else "black"
            text = "" if value is None else square(value, digits)
            axes.text(column + 0.48, place + 0.47, text, ha="center", va="center", fontsize=8, color=ink)
    axes.set_yticks([place + 0.47 for place in range(len(rows))], [row["name"] for row in rows], fontsize=8.5)
    axes.set_xticks([c + 0.48 for c in range(len(COLUMNS))], [title for title, *_ in COLUMNS.values()], fontsize=8.5)
    axes.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    axes.set(xlim=(0, len(COLUMNS) + 0.9), ylim=(len(rows), 0))
    axes.spines[:].set_visible(False)
    beside(axes, [row["family"] for row in rows])
    return figure


def square(found: dict[str, Any], digits: int) -> str:
    """A number with its error, for a square of the figure."""
    return f"{'≥ ' * is_bound(found)}{found['value']:.{digits}f} ± {found['error']:.{digits}f}"


def is_bound(found: dict[str, Any]) -> bool:
    """Whether a number is a lower bound, which may lie far below the truth."""
    return found.get("kind") == "lower bound"


def ranked(values: list[float | None]) -> list[float | None]:
    """From 0 for the lowest to 1 for the highest, by rank; None stays None."""
    known = sorted(value for value in values if value is not None)
    return [None if value is None else known.index(value) / max(1, len(known) - 1) for value in values]


def beside(axes: "Axes", names: list[str]) -> None:
    """The families on the right, each with a line along its rows."""
    for family, text in FAMILIES.items():
        places = [place for place, name in enumerate(names) if name == family]
        if places:
            top, bottom = places[0] + 0.05, places[-1] + 0.9
            axes.plot([len(COLUMNS) + 0.08] * 2, [top, bottom], color="black", lw=1.2, clip_on=False)
            axes.text(len(COLUMNS) + 0.2, (top + bottom) / 2, text, fontsize=8.5, rotation=90, va="center")


def samples(trained: dict[str, Trained], data: Data, number: int = 16) -> "Figure":
    """A row of draws of each model that has them, below a row of test data."""
    from pyro_vae.plots.base import make_figure

    drawn = {"test data": data.test[:number]}
    drawn |= {model.name: model.sample(number) for model in trained.values() if model.sample}
    figure = make_figure(9, 0.52 * len(drawn))
    for axes, (name, x) in zip(figure.subplots(len(drawn), squeeze=False)[:, 0], drawn.items(), strict=True):
        strip = x.unflatten(1, (8, 8)).permute(1, 0, 2)
        padded = nn.functional.pad(strip, (1, 1), value=0.5).flatten(1)
        axes.imshow(padded.numpy(), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        axes.set_yticks([3.5], [name], fontsize=8.5)
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return figure
