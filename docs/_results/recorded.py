"""A result that is a table already: it was measured before `make results`, by the commands that the page names."""

from typing import Any

from _results.shared import markdown


def text(result: dict[str, Any]) -> str:
    """The table."""
    return markdown(result["columns"], result["rows"], result.get("alignment"))
