"""The command `pyro-vae`. This file only chooses: torch is imported once all names are known to be right."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NoReturn

from pyro_vae.arguments.remedies import nearest, on_command_line

COMMANDS = {
    "fit": "train a VAE, save the run and its pictures; resumes a run that was stopped",
    "evaluate": "estimate log p(x) of a split, by importance sampling or another method, with errors and health",
    "compare": "rank runs by log p(x) of the same data, with errors of the differences",
    "diagnose": "write a page on what can be believed: bracketed log p(x), gaps, codes, calibration",
    "sample": "draw from a trained VAE's prior and save a picture or arrays",
    "reconstruct": "encode and decode data and save a picture or arrays",
    "cluster": "assign data to the components of a mixture prior, and compare with their labels",
    "refit": "fit another prior to a trained VAE's codes, and save it as a new run",
    "info": "tell what a run directory holds",
}
_MODULES = {"sample": "generate", "reconstruct": "generate"}

_INTERRUPTED = 130
_INFORMATION = ("-h", "--help", "--version")

_USAGE = """\
usage: pyro-vae COMMAND [options]     (pyro-vae COMMAND --help lists a command's options)

Variational autoencoders as Pyro programs, with log p(x) and an honest error bar.

commands:
{commands}

examples:
  pyro-vae fit --data digits --vae.latent_dim 8 --epochs 200 --run runs/digits
  pyro-vae evaluate runs/digits

several processes: torchrun --nproc-per-node 2 -m pyro_vae -- fit ...     (or evaluate)

exit codes: 0 done, 1 a fault of pyro_vae, 2 usage, 3 data, 4 run directory, 5 not finite,
6 another process was lost, 7 a file can't be read or written, 8 an error in a class or function
that you named (PYRO_VAE_TRACEBACK=1 shows its traceback), 130/143 stopped by a signal"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; a user's mistake is one line on standard error.

    Args:
        argv: the arguments; None for those of the process.
    """
    from pyro_vae.cli.streams import usable_streams

    arguments = list(sys.argv[1:] if argv is None else argv)
    with usable_streams():
        return _run(arguments[0] if arguments else "", arguments[1:])


def command() -> NoReturn:
    """Run the command line as a process of its own.

    One that was interrupted ends there and then: Python would first wait, for seconds, for all that compiles.
    """
    code = main()
    if code == _INTERRUPTED:
        os._exit(code)
    raise SystemExit(code)


def _run(command: str, arguments: list[str]) -> int:
    from pyro_vae.cli.streams import all_said

    try:
        if command in _INFORMATION:
            return _inform(command)
        if command not in COMMANDS:
            return _fail("pyro-vae", _unknown(command), 2)
        with on_command_line(), all_said():
            _check(command, arguments)
            return _load(command)(arguments)
    except KeyboardInterrupt:
        return _fail(f"pyro-vae {command}", "stopped", _INTERRUPTED)
    except BaseException as error:  # a class of the user can raise any
        return _explain(f"pyro-vae {command}", error)


def _inform(option: str) -> int:
    from pyro_vae.cli.streams import say

    say(_version() if option == "--version" else usage())
    return 0


def usage() -> str:
    """The text of `pyro-vae --help`."""
    return _USAGE.format(commands="\n".join(f"  {name:<12} {text}" for name, text in COMMANDS.items()))


def _check(command: str, arguments: list[str]) -> None:
    """Print help, or tell a mistake in names, before anything is imported that takes seconds."""
    from pyro_vae.cli.options import PARSERS
    from pyro_vae.cli.parsing import check

    check(PARSERS[command](), arguments)


def _load(command: str) -> Callable[[list[str]], int]:
    module = import_module(f"pyro_vae.cli.{_MODULES.get(command, command)}")
    return getattr(module, f"run_{command}" if command in _MODULES else "run")


def _unknown(command: str) -> str:
    known = ", ".join(COMMANDS)
    if not command:
        return f"expected a command: {known} (pyro-vae --help explains)"
    return f"unknown command {command!r}{nearest(command, COMMANDS) or '?'} Known commands: {known}"


def _fail(program: str, message: str, code: int, shared: bool | None = None) -> int:
    if _tells(shared):
        from pyro_vae.messages import remark

        remark(f"{program}: error: {' '.join(message.split())}")
    return code


def _explain(program: str, error: BaseException) -> int:
    """One line on standard error, after the traceback where the environment asks for it; returns the exit code.

    The parser's own `SystemExit`, after help that was asked for, is no error, and goes on.
    """
    from pyro_vae.cli.failures import TRACEBACK, as_ours, is_the_users, one_line

    if isinstance(error, SystemExit) and not is_the_users(error):
        raise error
    if os.environ.get(TRACEBACK, "0") != "0":
        traceback.print_exception(error)
    told = as_ours(error)
    return _fail(program, one_line(str(told)), told.exit_code, told.shared)


def _tells(shared: bool | None) -> bool:
    """Whether this is the process to tell an error: of several that share it the first, before they met one a machine.

    Args:
        shared: as in `PyroVaeError`.
    """
    rank = {True: "RANK", None: "LOCAL_RANK", False: ""}[shared]
    return "WORLD_SIZE" not in os.environ or os.environ.get(rank, "0") == "0"


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"pyro-vae {version('pyro-vae')}"
    except PackageNotFoundError:
        return "pyro-vae (not installed)"
