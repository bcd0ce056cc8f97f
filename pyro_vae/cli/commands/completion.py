"""Print the code by which a shell completes commands, options, classes and files at the tab key.

It needs the extra `completion`. It takes effect in shells that are started afterwards.

    pyro-vae completion bash >> ~/.bashrc
    pyro-vae completion zsh >> ~/.zshrc
    pyro-vae completion fish > ~/.config/fish/completions/pyro-vae.fish
"""

from jsonargparse import Namespace

from pyro_vae.cli.parsing import CommandParser

SHELLS = ("bash", "zsh", "fish", "tcsh", "powershell")


def add_options(parser: CommandParser) -> None:
    """Add the options of `pyro-vae completion`."""
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=f"one of {', '.join(SHELLS)}")


def run(options: Namespace) -> int:
    """Print the code; returns the exit code."""
    from pyro_vae.cli.streams import say
    from pyro_vae.errors import MissingPackage

    try:
        from argcomplete import shellcode  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingPackage("argcomplete", "completion", "pyro-vae completion") from error
    say(shellcode(["pyro-vae"], shell=options.shell).strip())
    return 0
