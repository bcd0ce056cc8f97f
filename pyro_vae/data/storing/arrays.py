"""`ArrayFile`: an `.npy` that is written part by part; its header, with the number of rows, at the end."""

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np

_MOST = 10**18
"""More rows than any file has: the header has room for their number."""


class ArrayFile:
    """An array that is written part by part.

    Args:
        path: the file, which must not exist.
        dtype: its type.
        shape: shape of one row.
    """

    def __init__(self, path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        self.dtype, self.shape, self.rows = dtype, shape, 0
        self.digest = hashlib.sha256()
        self.file = path.open("xb")
        self.file.write(bytes(len(self._header(_MOST))))

    def add(self, part: np.ndarray) -> None:
        """Append rows."""
        values = np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
        self.file.write(values)
        self.digest.update(values)
        self.rows += len(part)

    def finish(self) -> dict[str, Any]:
        """Write the header, and see to it that all is on the disk; returns a description as plain data."""
        self.file.seek(0)
        self.file.write(self._header(self.rows))
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        kind = np.lib.format.dtype_to_descr(self.dtype)
        return {"dtype": kind, "shape": [self.rows, *self.shape], "sha256": self.digest.hexdigest()}

    def close(self) -> None:
        """Leave the file as it is."""
        self.file.close()

    def _header(self, rows: int) -> bytes:
        """The header; NumPy leaves room in it for the number of rows to grow."""
        buffer = io.BytesIO()
        kind = np.lib.format.dtype_to_descr(self.dtype)
        described = {"descr": kind, "fortran_order": False, "shape": (rows, *self.shape)}
        np.lib.format.write_array_header_1_0(buffer, described)
        return buffer.getvalue()
