"""Whether messages use the terms of Python, or those of the command line while `pyro-vae` runs."""

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
    "missing",
    "image_size",
    "channels",
    "download",
    "split",
    "epochs",
    "batch_size",
    "clip_norm",
    "weight_prior",
    "patience",
    "start_from",
    "seed",
    "compile",
    "precision",
)
"""Names that are the same in Python and on the command line."""


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
    text = re.sub(r"\blevels=(\w+)", r"--vae.likelihood.levels \1", text)
    text = re.sub(rf"\b({'|'.join(_PARTS)})=(\w+)", r"--vae.\1 \2", text)
    return re.sub(rf"\b({'|'.join(_OPTIONS)})='?([^\s,;)']+)'?", r"--\1 \2", text)


_MEANT = {
    "gaussian": "normal",
    "cnn": "convnet",
    "learningrate": "lr",
    "latentsize": "latentdim",
    "k": "numparticles",
    "gpu": "cuda",
    "validation": "valid",
}
"""Other common names, both as `_folded`."""


def nearest(name: str, known: object, cutoff: float = 0.6) -> str:
    """`, did you mean 'NAME'?` with the known name that is most alike, or nothing.

    Args:
        name: what was typed.
        known: the names there are.
        cutoff: least similarity, from 0 to 1.
    """
    close = closest(name, known, cutoff)
    return f", did you mean {close!r}?" if close else ""


def closest(name: str, known: object, cutoff: float = 0.6) -> str | None:
    """The known name that is meant: but for capitals and hyphens, by initials, by another name, or by spelling.

    Example:
        >>> closest("elbo", ["IWAE", "ELBO"]), closest("IAF", ["Delta", "InverseAutoregressiveFlow"])
        ('ELBO', 'InverseAutoregressiveFlow')
    """
    names = [str(word) for word in known]  # pyright: ignore[reportGeneralTypeIssues]
    folded, typed = {_folded(word): word for word in reversed(names)}, _folded(name)
    if (found := folded.get(typed) or folded.get(_MEANT.get(typed, ""))) is not None:
        return found
    initials = [word for word in names if len(name) > 1 and _initials(word) == name.upper()]
    spelt = get_close_matches(name, names, 1, cutoff) or get_close_matches(typed, list(folded), 1, cutoff)
    return initials[0] if initials else folded.get(spelt[0], spelt[0]) if spelt else None


def _folded(word: str) -> str:
    return re.sub(r"[\W_]", "", word).lower()


def _initials(word: str) -> str:
    return "".join(letter for letter in word if letter.isupper())
