"""The folder of torch's compiler, checked before the compiler is imported.

Importing the compiler makes that folder, and torch's optimizers import it (`torch_internals.without_compiler`). If it
can't be made, both fail with the system's error, although only speed depends on the folder.
"""

import atexit
import getpass
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyro_vae.errors import FileError

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


_TORCHS = ("TORCH", "_TORCH", "TRITON_")
"""Prefixes of the environment variables that torch sets."""


_lasting: set[str] = set()
"""Variables that stay set, since torch would not find the same values again."""


def ensure_cache() -> None:
    """Let torch use a temporary folder, with a warning, if its usual one can't be written to.

    Raises:
        FileError: if no temporary folder can be made either.
    """
    if "torch._dynamo" in sys.modules:  # the compiler is imported already
        return
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        other = os.environ[VARIABLE] = _temporary()
        _lasting.add(VARIABLE)
        reason = FileError.of(error, doing="write")
        logging.getLogger("pyro_vae").warning(
            f"{reason}: what torch compiles goes to {other} and is deleted at the end"
        )


def cache_folder() -> Path:
    """The folder of torch's compiler, which may not be there yet."""
    return Path(os.environ.get(VARIABLE) or _default()).absolute()


@contextmanager
def environment_kept() -> Iterator[None]:
    """Run a block, then delete the environment variables that torch has set in it, such as the folder's name.

    Child processes of the caller would inherit them; torch finds the same values again when needed.
    """
    before = set(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - before - _lasting:
            if name.startswith(_TORCHS):
                os.environ.pop(name, None)


def _default() -> Path:
    """The folder that torch would use, which its API gives only after importing the compiler."""
    try:
        user = getpass.getuser()
    except (KeyError, ModuleNotFoundError, OSError):
        user = f"uid_{os.getuid()}"
    return Path(tempfile.gettempdir(), "torchinductor_" + re.sub(r'[\\/:*?"<>|]', "_", user))


def _temporary() -> str:
    try:
        folder = tempfile.mkdtemp(prefix="torchinductor_")
    except OSError as error:
        raise FileError.of(error, "a temporary folder", "make") from error
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
