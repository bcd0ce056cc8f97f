"""Writes a page for each script and configuration in `examples/`, with its text and a download."""

import ast
from pathlib import Path

from pages import heading, remove_others, toctree, write_page
from sphinx.application import Sphinx
from sphinx.config import Config

_INTRODUCTION = """\
Scripts and configurations of the folder ``examples``. Run a script from the repository,
``python examples/m2.py``, and train with a configuration by ``pyro-vae fit --config examples/digits.yaml``.
"""


def write_pages(app: Sphinx, config: Config) -> None:
    """Write `reference/examples/*.rst`, before the reader looks for pages."""
    root = Path(app.srcdir).parent / "examples"
    folder = Path(app.srcdir) / "reference" / "examples"
    files = (path for path in sorted(root.rglob("[!_]*")) if path.suffix in (".py", ".yaml"))
    names = [path.relative_to(root).as_posix() for path in files]
    remove_others(folder, [*names, "index"])
    for name in names:
        write_page(folder / f"{name}.rst", _page(root, name))
    groups = {
        "Scripts": [name for name in names if name.endswith(".py")],
        "Configurations": [name for name in names if name.endswith(".yaml") and "/" not in name],
        "Recipes of papers": [name for name in names if name.endswith(".yaml") and "/" in name],
    }
    trees = [toctree(group, title) for title, group in groups.items()]
    write_page(folder / "index.rst", "\n".join([heading("Examples"), _INTRODUCTION, *trees]))


def _page(root: Path, name: str) -> str:
    up = "../" * (name.count("/") + 3)
    file = f"{up}examples/{name}"
    language = "python" if name.endswith(".py") else "yaml"
    title = heading(name.rpartition("/")[2])
    download = f":download:`Download <{file}>`\n"
    text = f".. literalinclude:: {file}\n   :language: {language}\n"
    return "\n".join([title, _summary(root / name), download, text])


def _summary(path: Path) -> str:
    """The first line of a script's docstring, or of the comment that a configuration begins with."""
    text = path.read_text()
    if path.suffix == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0] + "\n"
    return text.partition("\n")[0].removeprefix("#").strip() + "\n" if text.startswith("#") else ""


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("config-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
