"""The reference of the site: every public name has an entry, and an example that runs, or a reason to have none."""

import importlib
import inspect
import pkgutil
import re
import sys
from pathlib import Path

import pytest

import pyro_vae

ROOT = Path(__file__).parents[2]
_RESULT = "a result: the function that returns it has the example"
_BASE = "a base class: docs/extending.md derives from it, and its tests run that page"
_ERROR = "an error: raised, never made by a user"
_INSIDE = "made by the package: its parts have the examples"

# What has no example of its own, and why.
WITHOUT = {
    _RESULT: """History AnnealedEvidence BitsPerDim Bound Estimate Evidence Sandwich Compared Comparison ElboSurgery
        CodeInformation Round SearchResult GapComparison InferenceGaps Interval LatentStatistics Accuracy Attribute
        Clustering ClusteringScores Exported File CodebookUsage DCI
        Detection Edited Encoded Generated ImputationError Imputed Paths Pooled Restored Scores Strength Threshold
        Traversal Finding HMCResult ImportanceSamples Posterior Simulated Outcome Search
        ConformalScaling EvidenceCheck ExpectedCoverage HMCComparison LocalC2ST""",
    _BASE: """CodePrior Prior Likelihood Guide FromNoise FromShapes Network Objective Schedule Autoencoder Conditional
        Missingness Channel LinearChannel VAEEstimator""",
    _ERROR: """NotTensorial NotExactError ContractError NotApplicable CheckpointError DataError FileError MissingPackage
        NumericalError OutOfMemory PeerLost PyroVaeError Stopped UsageError UserCodeError""",
    _INSIDE: """Conditioned ScaleLatents GivenX Jointly Through ThroughChannel Within CollapseWatch Given Sizes Subject
        Axis Part run_check""",
}


@pytest.fixture(scope="module")
def listed():
    """The module that writes the list of names for the site; it imports nothing of Sphinx."""
    sys.path.insert(0, str(ROOT / "docs" / "_extensions"))
    try:
        return importlib.import_module("public_names")
    finally:
        sys.path.pop(0)


def public_modules():
    """The package and its public rooms: each folder whose `__init__` has `__all__`."""
    found = (info.name for info in pkgutil.iter_modules(pyro_vae.__path__, "pyro_vae.") if info.ispkg)
    return [pyro_vae, *(module for name in found if hasattr(module := importlib.import_module(name), "__all__"))]


def test_every_public_name_has_an_entry(listed):
    entries = {id(name.value) for name in listed.public_names()}
    for module in public_modules():
        assert module.__name__ in listed.rooms()
        constants = listed.constants_of(module)
        others = (name for name in module.__all__ if not inspect.ismodule(getattr(module, name)))
        missing = [name for name in others if name not in constants and id(getattr(module, name)) not in entries]
        assert not missing, f"{module.__name__}: {missing}"


def test_every_public_name_has_an_example_or_a_reason(listed):
    excused = {name for names in WITHOUT.values() for name in names.split()}
    without = {name.path.rpartition(".")[2] for name in listed.public_names() if not has_example(name.value)}
    assert without == excused


def has_example(value):
    """Whether its docstring, or that of one of its own methods, has a line that runs."""
    own = vars(value).values() if inspect.isclass(value) else ()
    return any(">>>" in (getattr(part, "__doc__", None) or "") for part in (value, *filter(inspect.isfunction, own)))


def test_no_docstring_has_a_substitution(listed):
    """A site reads |word| as the name of a text to put there, and fails: such words are code or mathematics."""
    found = {name.path: bars for name in listed.public_names() if (bars := substitutions(inspect.getdoc(name.value)))}
    assert not found


def substitutions(text):
    """Those outside of code and mathematics."""
    code = r"``.+?``|`[^`]+`|^ *>>>[^\n]*"
    mathematics = r"^( *)\.\. math::[^\n]*(?:\n(?:\1 +[^\n]*)?)*"
    plain = re.sub(f"{mathematics}|{code}", "", text or "", flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"(?<![\w\\])\|\w(?:[^|\n]*[^\s|\\])?\|(?!\w)", plain)
