"""`make results`: rebuilds every table and figure of measured results in the documentation, from `docs/results` alone.

A page has a place for each result, between two comments:

    <!-- result NAME: begin (written by `make results`) -->
    <!-- result NAME: end -->

Between them goes `text(result)` of `docs/_results/NAME.py`, applied to the content of `docs/results/NAME.json`;
where there is no such file, the command that makes it. If the module has `draw(result)`, which returns a figure, it is
saved as `docs/pictures/NAME.png`, and says in its metadata from which files. A result with `columns` and `rows` is a
table already and needs no module.

To add a result: a script of `examples/reproduce` that writes `NAME.json`, a module with one function, two comments.
A picture belongs to the text: `![what it shows](pictures/NAME.png)`.
"""

import hashlib
import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
PLACE = re.compile(r"(<!-- result (\S+): begin [^\n]*-->\n).*?(<!-- result \2: end -->)", re.DOTALL)


def rebuild(docs: Path = DOCS) -> list[Path]:
    """Write the pages and pictures that are out of date; returns them.

    Args:
        docs: the folder of the documentation.
    """
    pages = {page: text for page, text in rebuilt(docs) if text != page.read_text()}
    pictures = [name for name in names(docs) if stale(docs, name)]
    for page, text in pages.items():
        page.write_text(text)
    return [*pages, *(draw(docs, name) for name in pictures)]


def rebuilt(docs: Path) -> Iterator[tuple[Path, str]]:
    """The pages that have places for results, and what they should be."""
    for page in pages(docs):
        text = page.read_text()
        if PLACE.search(text):
            yield page, PLACE.sub(lambda found: f"{found[1]}{content(docs, found[2])}{found[3]}", text)


def pages(docs: Path) -> list[Path]:
    """The pages that may have places."""
    return sorted([*docs.glob("*.md"), *docs.glob("howto/*.md")])


def names(docs: Path) -> list[str]:
    """The results that have a place on a page."""
    return [found[2] for page in pages(docs) for found in PLACE.finditer(page.read_text())]


def content(docs: Path, name: str) -> str:
    """What goes between the comments of a result."""
    result = read(docs, name)
    if not result:
        bench = docs.parent / "benchmarks" / f"{name}.py"
        script = f"benchmarks/{name}.py" if bench.exists() else f"examples/reproduce/{name}.py --data_root FOLDER"
        return f"\nNot measured yet: `python {script}` writes this table.\n\n"
    return f"\n{module(result, name).text(result)}\n\n"


def read(docs: Path, name: str) -> dict[str, Any]:
    """The content of a result's file; empty where there is none."""
    path = docs / "results" / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def module(result: dict[str, Any], name: str) -> Any:
    """The module that writes a result."""
    for folder in (str(DOCS), str(DOCS.parent / "examples" / "reproduce")):
        if folder not in sys.path:
            sys.path.append(folder)
    return importlib.import_module(f"_results.{'recorded' if 'columns' in result else name}")


# ---- pictures


def stale(docs: Path, name: str) -> bool:
    """Whether a result has a picture that is not there, or was drawn from other files."""
    result = read(docs, name)
    has_picture = bool(result) and hasattr(module(result, name), "draw")
    return has_picture and drawn_from(picture(docs, name)) != source(docs, name)


def picture(docs: Path, name: str) -> Path:
    """Where the picture of a result is."""
    return docs / "pictures" / f"{name}.png"


def source(docs: Path, name: str) -> str:
    """The sha256 of what a picture is drawn from: the result, and the published curves."""
    files = [docs / "results" / f"{name}.json", *sorted((docs / "results" / "published").glob("*.csv"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def drawn_from(path: Path) -> str | None:
    """The `source` that a picture says of itself; None where there is no picture, or it does not say."""
    from PIL import Image

    if not path.exists():
        return None
    with Image.open(path) as image:
        return image.info.get("Source")


def draw(docs: Path, name: str) -> Path:
    """Draw the picture of a result; returns where it is."""
    result, path = read(docs, name), picture(docs, name)
    figure = module(result, name).draw(result)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Software": None, "Source": source(docs, name)})
    return path


if __name__ == "__main__":
    for written in rebuild():
        print(written.relative_to(DOCS.parent))
