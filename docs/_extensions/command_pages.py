"""Writes a page for each command of `pyro-vae`, from its parser."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from pages import heading, remove_others, toctree, write_page
from sphinx.application import Sphinx
from sphinx.config import Config

from pyro_vae.cli.finding import command_names, docstring_of, summary_of
from pyro_vae.cli.parsing import CommandParser, parser_of

_INTRODUCTION = """\
Every command and every option, as ``pyro-vae NAME --help`` lists them. Options of a class follow its name,
``--vae.prior VampPrior --vae.prior.components 500``: they are the arguments of the class on its page in
:doc:`../api/index`, and ``pyro-vae fit --vae.prior.help VampPrior`` lists them. :doc:`../../command` says how commands
work together.
"""


def write_pages(app: Sphinx, config: Config) -> None:
    """Write `reference/command/*.rst`, before the reader looks for pages."""
    folder = Path(app.srcdir) / "reference" / "command"
    names = command_names()
    remove_others(folder, [*names, "index"])
    write_page(
        folder / "index.rst", "\n".join([heading("Command line"), _INTRODUCTION, _summaries(names), toctree(names)])
    )
    for name in names:
        write_page(folder / f"{name}.rst", command_page(name))


def _summaries(names: list[str]) -> str:
    rows = (f"   * - :doc:`{name} <{name}>`\n     - {_escaped(summary_of(name))}" for name in names)
    return "\n".join([".. list-table::", "", *rows, ""])


def command_page(name: str) -> str:
    """The page of one command: what it does, how it is called, and its options, group by group."""
    parser = parser_of(name)
    formatter = parser._get_formatter()
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups)
    parts = [heading(f"pyro-vae {name}"), *_paragraphs(docstring_of(name)), f".. program:: pyro-vae {name}\n"]
    parts += [_block(formatter.format_help().removeprefix("usage: ").strip())]
    for group in parser._action_groups:
        options = list(_options(parser, group))
        parts += [heading((group.title or "options").capitalize(), "-"), *options] if options else []
    return "\n".join(parts)


def _paragraphs(text: str) -> Iterator[str]:
    """Paragraphs as they are; indented lines, which are examples, as a block."""
    for paragraph in re.split(r"\n\s*\n", text):
        indented = all(line.startswith(" ") for line in paragraph.splitlines())
        yield _block(paragraph) if indented else _escaped(paragraph) + "\n"


def _block(text: str) -> str:
    lines = (f"   {line.strip()}" for line in text.splitlines())
    return "\n".join([".. code-block:: text", "", *lines, ""])


def _options(parser: CommandParser, group: argparse._ArgumentGroup) -> Iterator[str]:
    formatter = parser._get_formatter()
    for action in group._group_actions:
        if action.help == argparse.SUPPRESS:
            continue
        text = _escaped(" ".join(formatter._get_help_string(action).replace("%%", "%").split()))
        yield f".. option:: {formatter._format_action_invocation(action)}\n\n   {text}\n"


def _escaped(text: str) -> str:
    """Plain text for reStructuredText, in which single backticks remain."""
    return re.sub(r"([\\*_|])", r"\\\1", text)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("config-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
