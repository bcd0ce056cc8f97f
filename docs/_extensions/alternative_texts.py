"""A warning, so a failed build, for each image that has no text for those who cannot see it."""

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging


def check(app: Sphinx, doctree: nodes.document) -> None:
    """Look at the images of one page; the figures that its cells draw included."""
    for image in doctree.findall(nodes.image):
        if not image.get("alt", "").strip():
            logging.getLogger(__name__).warning("an image has no alternative text", location=image, type="alt")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("doctree-read", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
