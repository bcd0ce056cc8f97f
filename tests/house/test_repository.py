"""The files of the repository: every continuous integration runs the same commands; the version is in one place."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def jobs(name):
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text())["jobs"]


def makes(job):
    """The targets of make that a job runs."""
    return [target for step in job["steps"] for target in re.findall(r"\bmake (\w+)", step.get("run", ""))]


def test_local_and_hosted_integration_run_the_same_commands():
    local = re.findall(r"^make (\w+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    hosted = jobs("tests.yml")
    assert (
        local == ["check", "docs", "test"] == [*makes(hosted["check"]), *makes(hosted["docs"]), *makes(hosted["test"])]
    )
    assert makes(jobs("release.yml")["build"]) == local


def test_every_target_exists():
    rules = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    pages = [*WORKFLOWS, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / ".ci" / "run"]
    used = {target for page in pages for target in re.findall(r"(?:^|[`:]\s?|\s{4})make (\w+)", page.read_text())}
    assert used and used <= rules


def test_matrix_has_every_python_and_both_generations():
    matrix = jobs("tests.yml")["test"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.11", "3.12", "3.13"] and PROJECT["requires-python"] == ">=3.11"
    for versions in [*matrix["versions"], *(row["versions"] for row in matrix["include"])]:
        assert (ROOT / ".github" / "constraints" / f"{versions}.txt").is_file()


@pytest.mark.parametrize("name", ["torch", "pyro-ppl", "zuko"])
def test_oldest_versions_are_the_bounds_of_the_project(name):
    bound = next(re.search(r">=([\d.]+)", text)[1] for text in PROJECT["dependencies"] if text.startswith(name))
    pinned = re.search(rf"^{name}==([\d.]+?)(?:\.\*)?$", (ROOT / ".github/constraints/oldest.txt").read_text(), re.M)
    assert pinned[1] == bound


def test_the_version_stands_once():
    """pyproject.toml has it; the newest section of the changelog is about it, and nothing else repeats it."""
    version = PROJECT["version"]
    assert re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == version
    others = [*(ROOT / "pyro_vae").rglob("*.py"), ROOT / "CITATION.cff", ROOT / "README.md", *WORKFLOWS]
    assert not [path for path in others if re.search(rf"(?<![\d.]){re.escape(version)}(?![\d.])", path.read_text())]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_have_least_rights(path):
    """Reading alone by default; the job that publishes has an identity, and no workflow has a stored token."""
    text = path.read_text()
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"} and "secrets." not in text
    extra = {name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job}
    assert extra == ({"publish": {"id-token": "write"}} if path.stem == "release" else {})
    assert all(job["timeout-minutes"] <= 90 for job in workflow["jobs"].values())


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda p: p.stem)
def test_issue_forms_are_complete(path):
    form = yaml.safe_load(path.read_text())
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert form["name"] and form["description"] and fields
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(field["attributes"]["label"] for field in fields)
