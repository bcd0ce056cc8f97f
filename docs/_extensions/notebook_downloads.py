"""Each page that is a notebook can be downloaded as one: a link under its title leads to an `.ipynb`."""

from pathlib import Path
from typing import Any

import jupytext
from sphinx.application import Sphinx


def add_link(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Put the link under the title."""
    if is_notebook(app, page):
        name = page.rpartition("/")[2]
        link = f'<p class="notebook-download"><a href="{name}.ipynb" download>Download as a Jupyter notebook</a></p>'
        context["body"] = context["body"].replace("</h1>", f"</h1>\n{link}", 1)


def write_notebooks(app: Sphinx, exception: Exception | None) -> None:
    """Write the notebooks beside the pages, without outputs."""
    for page in () if exception else app.env.found_docs:
        if is_notebook(app, page):
            jupytext.write(jupytext.read(str(app.env.doc2path(page))), str(Path(app.outdir) / f"{page}.ipynb"))


def is_notebook(app: Sphinx, page: str) -> bool:
    """Whether a page has cells that were run."""
    return page in app.env.found_docs and "kernelspec" in app.env.metadata.get(page, {})


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("html-page-context", add_link)
    app.connect("build-finished", write_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
