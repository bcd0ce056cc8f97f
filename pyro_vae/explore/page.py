"""The page as one text: its parts are in the folder `page`, and nothing is loaded from elsewhere."""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

ALONE = ("random.js", "networks.js", "parts.js", "weights.js", "search.js", "offline.js")
"""Scripts that compute the answers where there is no server."""
_SHOWN = ("drawing.js", "plane.js", "line.js", "editor.js", "numbers.js", "codes.js", "app.js")


def scripts(alone: bool) -> tuple[str, ...]:
    """The page's scripts in the order in which they run."""
    return ("ask.js", *(ALONE if alone else ()), *_SHOWN)


def page(start: Mapping[str, Any], nonce: str, alone: bool = False) -> str:
    """The whole page.

    Args:
        start: what it begins with, plain data.
        nonce: by which the browser knows the page's own script and style.
        alone: whether there is no server, and `start` has the model.

    Example:
        >>> "</script><b>" in page({"facts": {"run": "</script><b>"}}, "n")
        False
    """
    data = json.dumps(start, allow_nan=False).replace("<", "\\u003c")
    parts = {
        "POLICY": f'<meta http-equiv="Content-Security-Policy" content="{policy(nonce)}">',
        "STYLE": f'<style nonce="{nonce}">\n{part("style.css")}</style>',
        "START": f'<script type="application/json" id="start" nonce="{nonce}">{data}</script>',
        "SCRIPT": f'<script nonce="{nonce}">\n"use strict";\n{"".join(map(part, scripts(alone)))}</script>',
    }
    before, *rest = part("index.html").split("<!--")
    pieces = [before]
    for piece in rest:
        name, _, text = piece.partition("-->")
        pieces += [parts[name], text]
    return "".join(pieces)


def policy(nonce: str) -> str:
    """What the browser may load for the page: its own script and style, and answers of its server."""
    own = f"'nonce-{nonce}'"
    sources = f"default-src 'none'; script-src {own}; style-src {own}; img-src data:; connect-src 'self'"
    return f"{sources}; base-uri 'none'; form-action 'none'"


def part(name: str) -> str:
    """A file of the folder `page`."""
    return (files("pyro_vae.explore") / "page" / name).read_text(encoding="utf-8")
