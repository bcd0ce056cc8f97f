"""`model_card`: a page about a trained model, with what was measured of it and what was not."""

import re
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from pyro_vae.arguments.values import shown
from pyro_vae.errors import UsageError
from pyro_vae.process.isolation import isolated
from pyro_vae.runs.directory import version
from pyro_vae.runs.files import has
from pyro_vae.runs.safe_yaml import dump_yaml
from pyro_vae.sharing import in_words
from pyro_vae.sharing.markdown import code, escaped, table, table_of
from pyro_vae.sharing.measured import Diagnosis, Measured, Row, diagnoses, evaluations
from pyro_vae.sharing.source import Source, source_of

MARK = "<!-- written by pyro_vae: `pyro-vae card` writes it again -->"
"""By this line a card is known, so that nobody's own page is replaced."""
SAMPLES = "pictures/samples.png"
"""The picture of a run that a card shows."""

_SECTIONS = {
    "evidence": "log p(x)",
    "bracket": "log p(x) bracketed from both sides",
    "gaps": "what the guide's family and its encoder cost",
    "latents": "codes in use",
    "calibration": "calibration of the guide",
    "regions": "the guide as a whole",
    "hmc": "the guide against Hamiltonian Monte Carlo",
    "predictive": "predictive check",
    "likeness": "data against the model",
}
"""What a diagnosis can measure."""
_REPO = re.compile(r"(?!.*(?:--|\.\.|[-.]/|[-.]$))\w[\w.-]{0,95}/\w[\w.-]{0,95}", re.ASCII)
"""The names that the hub allows."""
_TAGS = ("pyro_vae", "pyro", "variational-autoencoder", "variational-inference", "density-estimation")


@isolated
def model_card(
    run: str | Path, *, repo: str | None = None, license: str | None = None, trust: Sequence[str] = ()
) -> str:
    """A model card of a run: Markdown with the header that hubs of models read.

    It has the model in words, how to load it, the data with their fingerprint, what `pyro-vae evaluate` and
    `pyro-vae diagnose` saved of the weights that the run has now, and the limits of all that. Every number has its
    errors and its protocol; what was flagged stays flagged; what was not measured is said to be, with the command.

    Args:
        run: the run directory, or an archive of one.
        repo: the name under which others load it, `"user/name"`; None for a placeholder.
        license: of the weights, an identifier of the hub such as `"apache-2.0"`; None to state none.
        trust: as for `load`.

    Raises:
        CheckpointError: as `load`.
        UsageError: for a `repo` or a `license` that is no such name.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from pyro_vae import VAE, fit
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     history = fit(VAE((4,), latent_dim=2), torch.ones(20, 4), epochs=1, run=folder, progress=False)
        ...     card = model_card(folder, repo="user/ones")
        >>> "pyro-vae evaluate RUN" in card, 'from_pretrained("user/ones")' in card
        (True, True)
    """
    if not isinstance(run, str | PathLike):
        raise UsageError(f"run: expected the path of a run directory, got {shown(run)}: fit(..., run=...) makes one")
    check_repo(repo)
    check_license(license)
    return card_of(source_of(run, trust), repo, license)


def card_of(source: Source, repo: str | None = None, license: str | None = None) -> str:
    """The card of a run that is open; arguments as for `model_card`."""
    measured, (found, notes) = evaluations(source), diagnoses(source)
    parts = [
        _header(source, measured, license),
        MARK,
        f"# {escaped(in_words.name_of(source))}",
        _first(source),
        *_flags(measured, found),
        *_picture(source),
        "## Load it",
        in_words.loading(source, repo or "user/name"),
        "## The model in words",
        in_words.model(source),
        "## Data",
        in_words.data(source),
        "## Evaluation",
        *_evaluation(measured),
        "## Diagnostics",
        *_diagnostics(found, notes),
        "## Limits",
        _limits(source, measured, found),
        "## Files",
        _files(source),
    ]
    return "\n\n".join(parts) + "\n"


def check_repo(repo: Any) -> None:
    """Refuse what is no name of a repository; None is allowed."""
    if repo is not None and not (isinstance(repo, str) and _REPO.fullmatch(repo)):
        raise UsageError(f"repo: expected 'user/name', of letters, digits, '-', '_' and '.', got {shown(repo)}")


def check_license(license: Any) -> None:
    """Refuse what is no identifier of a license; None is allowed."""
    if license is not None and not (isinstance(license, str) and re.fullmatch(r"[a-z0-9.-]{1,64}", license)):
        raise UsageError(f"license: expected an identifier such as 'apache-2.0' or 'cc-by-4.0', got {shown(license)}")


# ---- the head --------------------------------------------------------------------------------------------------------


def _header(source: Source, measured: Measured, license: str | None) -> str:
    """YAML for the hub."""
    shapes = source.vae.shapes
    header: dict[str, Any] = {"library_name": "pyro_vae"}
    header |= {} if license is None else {"license": license}
    if len(shapes.event) >= 2 and shapes.context is None:
        header["pipeline_tag"] = "unconditional-image-generation"
    header["tags"] = list(_TAGS)
    results = [_result(source, row) for row in measured.rows if row.number is not None]
    if results:
        header["model-index"] = [{"name": in_words.name_of(source), "results": results}]
    return f"---\n{dump_yaml(header)}---"


def _result(source: Source, row: Row) -> dict[str, Any]:
    """A number for the hub's index, which has no other place for errors than the name."""
    assert row.number is not None
    errors = f"standard errors {row.error_data} (data), {row.error_draws} (draws)"
    flagged = f"; {row.trust}" if row.flagged else ""
    name = f"NLL, nats per datum; {errors}; {row.protocol}{flagged}"
    data = in_words.data_name(source) or "an array"
    return {
        "task": {"type": "other", "name": "density estimation"},
        "dataset": {"type": data, "name": data},
        "metrics": [{"type": "nll", "value": round(-row.number, 6), "name": name, "verified": False}],
    }


def _first(source: Source) -> str:
    vae, data = source.vae, in_words.data_name(source)
    shape, trained = " x ".join(map(str, vae.shapes.event)), code(data) if data else "an array"
    return (
        f"A {code(type(vae).__name__)} of data of shape {shape}, trained on {trained} by pyro_vae {version()}: a "
        "generative model p(x, z), whose log p(x) is estimated with its error."
    )


def _flags(measured: Measured, found: Sequence[Diagnosis]) -> Iterator[str]:
    """What is not to be trusted, before anything else."""
    lines = [f"{row.what}: {row.value}, {row.trust} ({row.protocol})" for row in measured.rows if row.flagged]
    lines += [f"diagnosis of {one.split}: {warning}" for one in found for warning in one.warnings]
    if lines:
        yield "\n".join(["> **Warnings**", ">", *(f"> - {escaped(line)}" for line in lines)])


def _picture(source: Source) -> Iterator[str]:
    assert source.path is not None
    if has(source.path, SAMPLES):
        yield f"![Means of data that the model draws]({SAMPLES})"


# ---- what was measured -----------------------------------------------------------------------------------------------


def _evaluation(measured: Measured) -> Iterator[str]:
    heads = ["quantity", "value", "standard error, data", "standard error, draws", "protocol", "flagged"]
    if measured.rows:
        cells = ([r.what, r.value, r.error_data, r.error_draws, r.protocol, r.trust] for r in measured.rows)
        yield table(heads, ([escaped(cell) for cell in row] for row in cells))
        yield _listed(f"evaluated: {one}" for one in measured.data)
    else:
        yield f"log p(x) is not measured: {code('pyro-vae evaluate RUN')} measures it."
    if measured.caveats:
        yield _listed(f"beside every number of nats: {one}" for one in measured.caveats)
    if measured.notes:
        yield f"Not shown:\n\n{_listed(measured.notes)}"


def _diagnostics(found: Sequence[Diagnosis], notes: Sequence[str]) -> Iterator[str]:
    for one in found:
        yield f"### {one.split.capitalize()} data"
        yield escaped(one.about)
        for section in one.sections.values():
            yield from _section(section)
    measured = {name for one in found for name in one.sections}
    if absent := [words for name, words in _SECTIONS.items() if name not in measured]:
        yield f"Not measured, and measured by {code('pyro-vae diagnose RUN')}:\n\n{_listed(absent)}"
    if notes:
        yield f"Not shown:\n\n{_listed(notes)}"


def _section(section: Mapping[str, Any]) -> Iterator[str]:
    yield f"#### {escaped(section['title'])}"
    yield from (f"**Warning.** {escaped(w['what'])} {escaped(w['advice'])}" for w in section["warnings"])
    if section["text"]:
        yield escaped(section["text"])
    yield from map(table_of, section["tables"])
    if section["note"]:
        yield escaped(section["note"])


# ---- limits and files ------------------------------------------------------------------------------------------------


def _limits(source: Source, measured: Measured, found: Sequence[Diagnosis]) -> str:
    lines = [
        "One training: how much the numbers vary from seed to seed is not measured; trainings by other values of "
        "--seed, and pyro-vae compare, measure it.",
        "log p(x) is compared only with log p(x) of the same data, prepared likewise: compare the fingerprints.",
    ]
    if not source.vae.likelihood.discrete:
        lines.append("p(x|z) is a density: log p(x) depends on the units of x, and may be positive.")
    if any(row.flagged for row in measured.rows):
        lines.append("Some estimates above are flagged: log p(x) may differ by more than the errors say.")
    if not any(row.number is not None for row in measured.rows):
        lines.append("log p(x) itself is not measured: nothing here says how well the model fits.")
    if not any("calibration" in one.sections for one in found):
        lines.append("Whether q(z|x) is close to the posterior is not measured: spreads of codes may be wrong.")
    lines.append("Draws and reconstructions are like the training data, with their gaps and biases.")
    return _listed(lines)


def _files(source: Source) -> str:
    entry = source.manifest["files"]["best" if source.manifest["progress"]["best_epoch"] else "weights"]
    rows = [
        [code("config.yaml"), f"the model and its training, as {code('pyro-vae fit --config')} takes it", ""],
        [code("manifest.json"), "which weights are current, with their checksums", ""],
        [code(entry["name"]), f"weights: {escaped(source.weights)}", code(entry["sha256"])],
    ]
    return table(["file", "what", "sha256"], rows)


def _listed(lines: Iterator[str] | Sequence[str]) -> str:
    return "\n".join(f"- {escaped(line)}" for line in lines)
