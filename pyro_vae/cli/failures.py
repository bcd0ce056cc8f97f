"""How the command line reports an exception: one line, and an exit code for its kind.

A `PyroVaeError` has a message and an exit code. For any other exception the traceback shows whether it was raised in a
class or function that the user named; if not, it is an error of the operating system with a file, or a fault of this
package.
"""

import re
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from types import FrameType

from pyro_vae.errors import FileError, OutOfMemory, PyroVaeError, UserCodeError, lack_of_memory

TRACEBACK = "PYRO_VAE_TRACEBACK"
"""The environment variable that makes the command line print tracebacks."""
_OWN = Path(__file__).parents[1]
_LONGEST = 1000
"""Characters of a message; torch's own can have thousands."""


def as_ours(error: BaseException) -> PyroVaeError:
    """The `PyroVaeError` to report for an exception, with message and exit code."""
    if isinstance(error, PyroVaeError):
        cause = None if isinstance(error, FileError | OutOfMemory) else error.__cause__
        return error if cause is None else _of_the_user(cause) or error
    found = _of_the_user(error) or (FileError.of(error) if isinstance(error, OSError) else _fault(error))
    found.shared = False  # the other processes have not met it and may continue
    return found


def is_the_users(error: BaseException) -> bool:
    """Whether an exception was raised inside a class or function that the user named."""
    return _of_the_user(error) is not None


def _of_the_user(error: BaseException) -> UserCodeError | None:
    """The error to report if the exception, or one that caused it, was raised in the user's code; else None."""
    for one in _chain(error):
        where = _syntax_error(one) or _innermost(one, _is_the_users)
        if where and not isinstance(one, PyroVaeError):
            return UserCodeError(f"error in {where}: {_text(one)} ({TRACEBACK}=1 shows the traceback)")
    return None


def _fault(error: BaseException) -> PyroVaeError:
    if lack_of_memory(error):
        return OutOfMemory(f"out of memory: take fewer data, draws or rows at a time ({_text(error)})")
    where = _innermost(error, lambda frame: _is_below(frame.f_code.co_filename, _OWN)) or "pyro_vae"
    return PyroVaeError(
        f"a fault of pyro_vae, please report it: {_text(error)}, at {where} ({TRACEBACK}=1 shows the traceback)"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, its cause, the cause of that, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _text(error: BaseException) -> str:
    """Type and message on one line, even if the exception's own `__str__` fails."""
    return one_line("".join(traceback.format_exception_only(error)))


def one_line(message: str) -> str:
    """A message on one line, cut to a readable length, without the list of sites that Pyro adds."""
    text = " ".join(message.partition("\nTrace Shapes:")[0].split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def _innermost(error: BaseException, wanted: Callable[[FrameType], bool]) -> str:
    """`module:Class.method:line` of the innermost call that `wanted` accepts; empty if there is none."""
    found = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if wanted(frame)]
    if not found:
        return ""
    frame, line = found[-1]
    return f"{frame.f_globals.get('__name__', '?')}:{frame.f_code.co_qualname}:{line}"


def _syntax_error(error: BaseException) -> str:
    """File and line of a syntax error in a module of the user, which never runs and so is not in the traceback."""
    if not isinstance(error, SyntaxError) or error.filename is None or _is_below(error.filename, _OWN):
        return ""
    return f"{error.filename}:{error.lineno}"


def _is_the_users(frame: FrameType) -> bool:
    """Whether a call is of the user's code: not of this package, of Python, or of a library that this package needs."""
    file, package = frame.f_code.co_filename, frame.f_globals.get("__name__", "").partition(".")[0]
    if file.startswith("<") or _is_below(file, _OWN) or _is_pythons(file):
        return False
    return package not in _libraries()


def _is_below(file: str, folder: Path) -> bool:
    return folder in Path(file).parents


def _is_pythons(file: str) -> bool:
    """Whether a file belongs to Python's standard library, not to an installed package."""
    return _is_below(file, Path(sysconfig.get_path("stdlib"))) and "site-packages" not in Path(file).parts


@cache
def _libraries() -> frozenset[str]:
    """Import names of all packages that this one depends on, directly or indirectly."""
    seen: set[str] = set()
    pending = ["pyro-vae", "torch", "pyro-ppl", "jsonargparse", "matplotlib"]  # this package may not be installed
    while pending:
        name = _plain_name(pending.pop())
        if name not in seen:
            seen.add(name)
            pending += _needed(name)
    found = metadata.packages_distributions().items()
    return frozenset(package for package, names in found if seen & {_plain_name(name) for name in names})


def _needed(name: str) -> list[str]:
    """The requirements of an installed package; for this package without its extras, which are for developers."""
    try:
        required = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []
    return [text for text in required if name != "pyro-vae" or "extra ==" not in text]


def _plain_name(requirement: str) -> str:
    """The normalised name of a package, without version and extras."""
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower().replace("_", "-")
