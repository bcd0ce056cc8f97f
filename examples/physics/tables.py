"""Tables of results as JSON."""

import json
from pathlib import Path
from typing import Any


def write(table: dict[str, Any], folder: Path) -> None:
    """Save a table as `table.json`; JSON has no nan, so an estimate that does not exist is null."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = json.loads(json.dumps(table), parse_constant=lambda _: None)
    (folder / "table.json").write_text(json.dumps(plain, indent=1))
