"""A page of HTML in one file, pictures inside: headings, sentences, tables and warnings, readable without a network."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_STYLE = """
:root { --ink: #1d2433; --faint: #5b6475; --rule: #d9dde5; --paper: #ffffff; --warn: #8a4b00; --warn-bg: #fff4e0;
  --good: #1c6b3a; --good-bg: #e8f6ec; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9f0; --faint: #9aa3b5; --rule: #343b4a; --paper: #151923;
  --warn: #ffc46b; --warn-bg: #33270f; --good: #8fe0ad; --good-bg: #10291a; } img { background: #fff; } }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 60rem; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .25rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem;
  border-top: 1px solid var(--rule); padding-top: 1.5rem; }
.lead, .note { color: var(--faint); } .note { font-size: .9rem; }
table { border-collapse: collapse; margin: .75rem 0; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { font-weight: 600; color: var(--faint); } .wide { overflow-x: auto; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; border-radius: 4px; }
figcaption { color: var(--faint); font-size: .9rem; }
.box { border-left: 4px solid; border-radius: 4px; padding: .6rem .9rem; margin: .6rem 0; }
.warning { color: var(--warn); background: var(--warn-bg); } .good { color: var(--good); background: var(--good-bg); }
.box b { display: block; } ul { padding-left: 1.2rem; }
"""


@dataclass(frozen=True)
class Warned:
    """A warning: something that is not to be trusted.

    Args:
        what: what was found, with its number and the threshold.
        advice: what to do about it.
    """

    what: str
    advice: str


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Args:
        title: its heading.
        text: sentences: what was measured, and how to read it.
        tables: rows by column name, each in one table.
        figures: pictures by their captions; they are left open.
        warnings: the problems that were found.
        note: protocol and small print.
    """

    title: str
    text: str = ""
    tables: Sequence[Sequence[Mapping[str, Any]]] = ()
    figures: Mapping[str, "Figure"] = field(default_factory=dict)
    warnings: Sequence[Warned] = ()
    note: str = ""

    def plain(self) -> dict[str, Any]:
        """What is shown, but for the figures, as plain data: cells are texts, as on the page."""
        tables = [[{name: _text(value) for name, value in row.items()} for row in rows] for rows in self.tables]
        warnings = [vars(warned) for warned in self.warnings]
        return {"title": self.title, "text": self.text, "tables": tables, "warnings": warnings, "note": self.note}


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The whole page: all warnings first, then the sections.

    Args:
        title: its heading.
        lead: a line under it: what this is about.
        sections: in order.

    Example:
        >>> text = page("A run", "of 3 epochs", [Section("KL", warnings=[Warned("It is 0 < 0.01.", "Warm up.")])])
        >>> "<h2>KL</h2>" in text and "Warm up." in text and "http" not in text
        True
    """
    warnings = [warned for section in sections for warned in section.warnings]
    summary = "".join(map(_box, warnings)) or '<div class="box good"><b>Nothing to warn about.</b></div>'
    body = "".join(map(_section, sections))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f'<body><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>{summary}{body}</body></html>\n'
    )


def _section(section: Section) -> str:
    parts = [f"<h2>{escape(section.title)}</h2>"]
    parts += [f"<p>{escape(section.text)}</p>"] if section.text else []
    parts += map(_table, section.tables)
    parts += [_figure(caption, figure) for caption, figure in section.figures.items()]
    parts += map(_box, section.warnings)
    parts += [f'<p class="note">{escape(section.note)}</p>'] if section.note else []
    return "".join(parts)


def _box(warned: Warned) -> str:
    return f'<div class="box warning"><b>{escape(warned.what)}</b>{escape(warned.advice)}</div>'


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    lines = ["".join(f"<td>{escape(_text(value))}</td>" for value in row.values()) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _text(value: Any) -> str:
    if value is None or value != value:
        return "unknown"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _figure(caption: str, figure: "Figure") -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    data = base64.b64encode(stream.getvalue()).decode()
    caption = escape(caption)
    image = f'<img src="data:image/png;base64,{data}" alt="{caption}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
