"""The command `pyro-vae`. Its commands are the files in `commands/`; torch is imported once all names are known.

Its files:

    commands/          a file a command: its options, and `run`
    work/              what the longer commands do; the only files here that import torch
    finding.py         which commands there are
    parsing.py         a parser of options; plain ones, and those that name a class
    class_options.py, option_groups.py
                       options that name a class; options that several commands have
    given.py, described.py, values.py
                       from words and YAML to the whole description of an object
    library.py, sources.py
                       the classes that can be named, imported or read from their sources without import
    helping.py, mistakes.py, failures.py
                       the texts of help, of mistakes in options, and of exceptions
    completing.py      what can stand at the cursor, for the shell
    home.py, streams.py
                       `~` in paths; standard streams that are closed, full or broken
"""

import gc
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from pyro_vae.arguments.remedies import nearest, on_command_line
from pyro_vae.cli.finding import command_names, load_command, summary_of

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
that you named (PYRO_VAE_TRACEBACK=1 shows its traceback), 9 out of memory, 130/143 stopped by a signal"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; a user's mistake is one line on standard error.

    Args:
        argv: the arguments; None for those of the process.
    """
    from pyro_vae.cli.streams import usable_streams

    if argv is None and "_ARGCOMPLETE" in os.environ:
        from pyro_vae.cli.completing import complete

        return complete()
    arguments = list(sys.argv[1:] if argv is None else argv)
    with usable_streams():
        return _run(arguments[0] if arguments else "", arguments[1:])


def command() -> NoReturn:
    """Run the command line as the whole process.

    An interrupted process ends at once: Python would first wait, for seconds, for compilations that still run.
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
        if command not in (known := command_names()):
            return _fail("pyro-vae", _unknown(command, known), 2)
        from pyro_vae.cli.parsing import parse, parser_of

        with on_command_line(), all_said():
            with _uncollected():
                options = parse(parser_of(command), arguments)
            return load_command(command).run(options)
    except KeyboardInterrupt:
        return _fail(f"pyro-vae {command}", "stopped", _INTERRUPTED)
    except BaseException as error:  # a class of the user can raise any
        return _explain(f"pyro-vae {command}", error)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Run a block without Python's collection of garbage. Imports make much and drop nothing: looking for garbage among
    it would take an eighth of the time of importing torch.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _inform(option: str) -> int:
    from pyro_vae.cli.streams import say

    say(_version() if option == "--version" else usage())
    return 0


def usage() -> str:
    """The text of `pyro-vae --help`."""
    return _USAGE.format(commands="\n".join(f"  {name:<12} {summary_of(name)}" for name in command_names()))


def _unknown(command: str, known: Sequence[str]) -> str:
    names = ", ".join(known)
    if not command:
        return f"expected a command: {names} (pyro-vae --help explains)"
    return f"unknown command {command!r}{nearest(command, known) or '.'} Known commands: {names}"


def _fail(program: str, message: str, code: int, shared: bool | None = None) -> int:
    if _reports(shared):
        from pyro_vae.messages import remark

        remark(f"{program}: error: {' '.join(message.split())}")
    return code


def _explain(program: str, error: BaseException) -> int:
    """One line on standard error, after the traceback where the environment asks for it; returns the exit code.

    The parser's own `SystemExit`, after help that was asked for, is no error and is raised again.
    """
    from pyro_vae.cli.failures import TRACEBACK, as_ours, is_the_users, one_line

    if isinstance(error, SystemExit) and not is_the_users(error):
        raise error
    if os.environ.get(TRACEBACK, "0") != "0":
        traceback.print_exception(error)
    ours = as_ours(error)
    return _fail(program, one_line(str(ours)), ours.exit_code, ours.shared)


def _reports(shared: bool | None) -> bool:
    """Whether this process prints the error: of several that share it, one.

    Args:
        shared: as in `PyroVaeError`: True, rank 0 prints it; None, raised before the processes connected, the first
            process of each machine prints it; False, an error of this process alone, which prints it.
    """
    rank = {True: "RANK", None: "LOCAL_RANK", False: ""}[shared]
    return "WORLD_SIZE" not in os.environ or os.environ.get(rank, "0") == "0"


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"pyro-vae {version('pyro-vae')}"
    except PackageNotFoundError:
        return "pyro-vae (not installed)"
