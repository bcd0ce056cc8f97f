"""Pages of `pyro-vae explore --export` within pages of the site: the directive `live-page`.

    ```{live-page} digits
    :at: datum=3&zoom
    What it shows, in words.
    ```

`docs/live/digits.json` has the model and the data (`docs/make_live.py` makes it); the scripts are those of the package
as it is. The page is also a file of its own, `_live/digits.html`, for a window of its own.
"""

import json
from html import escape
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from pyro_vae.explore.page import page

FOLDER = "_live"


class LivePage(SphinxDirective):
    """A frame with an exported page, a link to it, and what it shows."""

    has_content = True
    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"at": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        """The nodes: the frame, and the text below it."""
        name, at = self.arguments[0], self.options.get("at", "")
        source = Path(str(self.env.srcdir)) / "live" / f"{name}.json"
        if not source.exists():
            raise self.error(f"there is no docs/live/{name}.json")
        self.env.note_dependency(str(source))
        up = "../" * self.env.docname.count("/")
        address = escape(f"{up}{FOLDER}/{name}.html{f'#{at}' if at else ''}")
        title = escape(" ".join(self.content))
        link = f'<a href="{address}" target="_blank" rel="noopener">Open it in a window of its own</a>'
        frame = f'<iframe class="live-page" src="{address}" title="{title}" loading="lazy"></iframe>'
        text = nodes.paragraph()
        parsed, messages = self.state.inline_text("\n".join(self.content), self.lineno)
        text += [*parsed, nodes.Text(" "), nodes.raw("", f"{link}.", format="html")]
        return [nodes.raw("", frame, format="html"), text, *messages]


def write_pages(app: Sphinx, exception: Exception | None) -> None:
    """Write the pages beside those of the site."""
    if exception or app.builder.format != "html":
        return
    target = Path(app.outdir) / FOLDER
    target.mkdir(exist_ok=True)
    for source in sorted((Path(app.srcdir) / "live").glob("*.json")):
        text = page(json.loads(source.read_text()), "page", alone=True)
        (target / f"{source.stem}.html").write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("live-page", LivePage)
    app.connect("build-finished", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
