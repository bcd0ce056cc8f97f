"""Tables in Parquet files, read by pandas with pyarrow: with the types of their columns."""

import logging
from pathlib import Path
from typing import Any

from pyro_vae.data.cells import Cells, cells_of, levels_of
from pyro_vae.data.sources.formats import check_memory, reading
from pyro_vae.errors import DataError, MissingPackage

_BYTES = 8
"""Of a number in memory; texts take more."""

_log = logging.getLogger("pyro_vae")


def read_parquet(path: Path) -> tuple[Cells, dict[str, Any]]:
    """The fields of a table by column, and the kinds that its types say: categories, with their levels.

    Raises:
        MissingPackage: if pyarrow is not installed.
        DataError: if the file is damaged, has no rows, has columns that are no numbers, texts or truth values, or is
            larger than memory.
    """
    try:
        import pyarrow.parquet as parquet  # pyright: ignore[reportMissingImports] - an extra
    except ImportError as error:
        raise MissingPackage("pyarrow", "parquet", f"{path} is a Parquet file, and reading it") from error
    import pandas as pd

    with reading(path):
        about = parquet.read_metadata(path)
        size = _BYTES * about.num_rows * about.num_columns
        check_memory(path, size, "pass over it in parts, by pyro_vae.data.store_data: docs/howto/parquet.md")
        frame = pd.read_parquet(path, engine="pyarrow")
    if any(frame.index.names):
        names = ", ".join(map(repr, frame.index.names))
        _log.warning("%s: the index %s is not read: reset_index() makes columns of it", path, names)
    if not len(frame) or not len(frame.columns):
        raise DataError(f"can't read {path}: it has {len(frame)} rows and {len(frame.columns)} columns")
    return cells_of(frame, f"can't read {path}"), levels_of(frame)
