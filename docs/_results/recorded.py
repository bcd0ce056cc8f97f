"""A result that is a table already: it was measured before `make results`, by the commands that the page names."""

from typing import Any

from shared import markdown


def text(result: dict[str, Any]) -> str:
    """The table, and by which version it was measured."""
    about = f"*Measured by version {result['version']}, before `make results`; {result['command']}.*"
    return f"{markdown(result['columns'], result['rows'])}\n\n{about}"
