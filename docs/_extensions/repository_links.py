"""Links from a page to files of the repository: on the site they lead to the page about the file.

In the repository `../pyro_vae/priors` and `../examples/m2.py` are folders and files that a reader can open there. The
site has the reference page of a room in place of its code, and all examples on one page.
"""

import posixpath
import re

from sphinx.application import Sphinx

_LINK = re.compile(r"\]\(((?:\.\./)+(?:pyro_vae|examples)[^)#]*)\)")


def rewrite(app: Sphinx, page: str, source: list[str]) -> None:
    """Rewrite the links of one page."""
    folder = posixpath.dirname(page)

    def replace(match: re.Match[str]) -> str:
        inside = posixpath.normpath(posixpath.join("docs", folder, match[1]))
        return f"]({posixpath.relpath(_target(inside), folder or '.')})"

    source[0] = _LINK.sub(replace, source[0])


def _target(path: str) -> str:
    """The page about a file of the repository."""
    top, *rest = path.split("/")
    if top == "examples":
        return f"reference/examples/{'/'.join(rest) if rest[-1].endswith(('.py', '.yaml')) else 'index'}.rst"
    room = rest[0].removesuffix(".py") if rest else ""
    return f"reference/api/pyro_vae.{room}.rst" if room else "reference/api/pyro_vae.rst"


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", rewrite)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
