"""The commands of `pyro-vae`, a file each: NAME.py is `pyro-vae NAME`, and no other file names it.

A file of a command has

    a docstring             its first line stands in `pyro-vae --help`, all of it in `pyro-vae NAME --help`
    add_options(parser)     adds the command's options to a `CommandParser`; shared ones are in `option_groups`
    run(options) -> int     does the work with the parsed options and returns the exit code

Help and mistakes in options appear without waiting for torch: a file here imports torch, Pyro and NumPy, and what
imports them, only inside `run`. Longer work has a file in `pyro_vae/cli/work`.
"""
