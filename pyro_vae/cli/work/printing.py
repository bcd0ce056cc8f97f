"""Results on standard output: a table for people, JSON for programs."""

import json
from collections.abc import Mapping
from typing import Any

from pyro_vae.cli.streams import say
from pyro_vae.messages import finite, printable


def print_result(result: Mapping[str, Any], as_json: bool) -> None:
    """Print a result, one name per line, or as one JSON object."""
    say(json.dumps(finite(dict(result)), indent=1) if as_json else table(result))


def table(result: Mapping[str, Any]) -> str:
    """Names and values in two columns, without empty lists."""
    result = {name: value for name, value in result.items() if value != []}
    width = max(map(len, result), default=0)
    return "\n".join(f"{name.replace('_', ' '):<{width}}  {_text(value)}" for name, value in result.items())


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:.4f}".rstrip("0").rstrip(".") if abs(value) < 1e6 else f"{value:.6g}"
    return printable("\n  ".join(["", *map(str, value)]) if isinstance(value, list | tuple) else str(value))
