"""In whose words a message says what to do: Python's, or those of the command line while `pyro-vae` runs."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches

_PARTS = ("prior", "likelihood", "guide", "encoder", "decoder")
_OPTIONS = (
    "binarize",
    "dequantize",
    "divide_by",
    "valid_size",
    "test_size",
    "context",
    "labelled",
    "repeats",
    "download",
    "split",
    "epochs",
    "batch_size",
    "clip_norm",
    "weight_prior",
    "patience",
    "seed",
    "compile",
    "precision",
)
"""What is called alike in Python and on the command line."""

_typed = ContextVar("typed", default=False)


@contextmanager
def on_command_line() -> Iterator[None]:
    """Inside, options are named as they are typed on the command line."""
    token = _typed.set(True)
    try:
        yield
    finally:
        _typed.reset(token)


def spoken(python: str, command: str) -> str:
    """A remedy as it is typed where the user is.

    Args:
        python: in Python's words, e.g. `"valid_size=n"`.
        command: in those of the command line, e.g. `"--valid_size n"`.

    Example:
        >>> spoken("split='train'", "--split train")
        "split='train'"
        >>> with on_command_line():
        ...     spoken("split='train'", "--split train")
        '--split train'
    """
    return command if _typed.get() else python


def option(name: str, value: object) -> str:
    """An argument of a public function that is an option of the command too, e.g. `valid_size=n` or `--valid_size n`.

    Args:
        name: its name in both.
        value: its value, as text for a placeholder or a number.
    """
    return spoken(f"{name}={value}", f"--{name} {str(value).lower() if isinstance(value, bool) else value}")


def part(role: str, name: str) -> str:
    """A part of the VAE, e.g. `likelihood=Normal` or `--vae.likelihood Normal`.

    Args:
        role: the VAE's argument.
        name: the class.
    """
    return spoken(f"{role}={name}", f"--vae.{role} {name}")


def in_words(text: str) -> str:
    """A remedy written in Python's words, in those of the command line where the user is there.

    Example:
        >>> with on_command_line():
        ...     in_words("load them with divide_by=255, or binarize='static'; Bernoulli(grey=True) takes grey values")
        'load them with --divide_by 255, or --binarize static; --vae.likelihood.grey true takes grey values'
    """
    if not _typed.get():
        return text
    text = re.sub(r"\b\w+\((\w+)=True\)", r"--vae.likelihood.\1 true", text)
    text = re.sub(rf"\b({'|'.join(_PARTS)})=(\w+)", r"--vae.\1 \2", text)
    return re.sub(rf"\b({'|'.join(_OPTIONS)})='?([^\s,;)']+)'?", r"--\1 \2", text)


def nearest(name: str, known: object, cutoff: float = 0.6) -> str:
    """`, did you mean 'NAME'?` with the known name that is most alike, or nothing.

    Args:
        name: what was typed.
        known: the names there are.
        cutoff: least similarity, from 0 to 1.
    """
    close = get_close_matches(name, list(known), n=1, cutoff=cutoff)  # pyright: ignore[reportArgumentType]
    return f", did you mean {close[0]!r}?" if close else ""
