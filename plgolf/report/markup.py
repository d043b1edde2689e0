"""HTML in small pieces; every text is escaped here."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

from plgolf.report.analysis import Analysis, ScoredDocument
from plgolf.report.style import Picture, legible
from plgolf.report.stylesheet import HEAT_STEPS, heat_class, stylesheet
from plgolf.version import __version__

FOOTER = f"Made by plgolf report {__version__} from what the run left. Nothing is loaded from elsewhere."
_BREAKS = re.compile(r"(\r\n|\r|\n)")


def escaped(text: object) -> str:
    """Returns a text that stands for itself in a page, with no markup, control or turn of direction."""
    return html.escape(legible(text))


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Args:
        markup: its contents, escaped.
        css: its classes.
    """

    markup: str
    css: str = ""


def text_cell(text: object, *, is_long: bool = False) -> Cell:
    """Returns a cell of text, which is aligned at the left."""
    return Cell(escaped(text), "text long" if is_long else "text")


def number_cell(text: object) -> Cell:
    """Returns a cell of a number."""
    return Cell(escaped(text))


def table(heading: Sequence[Cell], rows: Sequence[tuple[str, Sequence[Cell]]]) -> str:
    """Returns a table that scrolls where it is wider than the page.

    Args:
        heading: its first row; empty for none.
        rows: classes and cells of each.
    """
    head = "".join(f'<th class="{cell.css}">{cell.markup}</th>' for cell in heading)
    body = "".join(
        f'<tr class="{css}">'
        + "".join(f'<td class="{cell.css}">{cell.markup}</td>' for cell in cells)
        + "</tr>\n"
        for css, cells in rows
    )
    head = f"<thead><tr>{head}</tr></thead>" if head else ""
    return f'<div class="scroll"><table>{head}<tbody>\n{body}</tbody></table></div>\n'


def figures(pictures: Sequence[Picture]) -> str:
    """Returns pictures in a grid, inline."""
    found = []
    for picture in pictures:
        caption = f"<figcaption>{escaped(picture.caption)}</figcaption>" if picture.caption else ""
        svg = f'<div class="scroll">{picture.svg}</div>' if picture.is_wide else picture.svg
        found.append(f'<figure class="{"wide" if picture.is_wide else ""}">{svg}{caption}</figure>\n')
    return f'<div class="grid">\n{"".join(found)}</div>\n' if found else ""


def tiles(values: Sequence[tuple[str, str]]) -> str:
    """Returns figures that are seen first: a value and what it is, each."""
    found = (
        f'<div class="tile"><b>{escaped(value)}</b><span>{escaped(name)}</span></div>'
        for value, name in values
    )
    return f'<div class="tiles">{"".join(found)}</div>\n'


def notes(sentences: Sequence[str]) -> str:
    """Returns what a reader should know first."""
    return "".join(f'<p class="note">{escaped(sentence)}</p>\n' for sentence in sentences)


def section(title: str, body: str) -> str:
    """Returns a part of the page; nothing for nothing."""
    return f"<section><h2>{escaped(title)}</h2>\n{body}</section>\n" if body else ""


def page(title: str, subtitle: str, body: str, footer: str) -> str:
    """Returns the whole page."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Nothing may be fetched, whatever a token's text says; without an icon a browser asks for one.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; img-src data:\">\n"
        '<link rel="icon" href="data:,">\n'
        f"<title>{escaped(title)}</title>\n<style>{stylesheet()}</style>\n</head>\n<body>\n"
        f'<header><h1>{escaped(title)}</h1><p class="sub">{escaped(subtitle)}</p></header>\n'
        f"{body}<footer>{escaped(footer)}</footer>\n</body>\n</html>\n"
    )


def documents(analysis: Analysis) -> str:
    """Returns the hardest documents, a span for each token, its colour by its loss."""
    if not analysis.documents:
        return ""
    return (
        "<p>The documents of the validation split that cost most bits per byte. The stronger a "
        "token's colour, the less the model expected it; point at one for its nats.</p>\n"
        + _legend()
        + "".join(_document(i + 1, document) for i, document in enumerate(analysis.documents))
    )


def _legend() -> str:
    edges = ["0", *(f"{step:g}" for step in HEAT_STEPS)]
    spans = "".join(f'<span class="{heat_class(float(edge))}">{edge}</span>' for edge in edges)
    return f'<p class="legend">nats from&nbsp;{spans}</p>\n'


def _document(place: int, document: ScoredDocument) -> str:
    shown, first = len(document.tokens), document.shown_from + 1
    cut = (
        f"; its tokens {first:,} to {first + shown - 1:,}, the hardest" if shown < document.num_tokens else ""
    )
    heading = (
        f"{place}. {document.bpb:.3f} bits per byte "
        f"({document.num_tokens:,} tokens, {document.num_bytes:,} bytes, "
        f"from token {document.start_token:,} of the split{cut})"
    )
    spans = "".join(_token(text, nats) for text, nats in document.tokens)
    text = f'<div class="text-of" dir="auto">{spans}</div>'
    return f'<div class="document"><h3>{escaped(heading)}</h3>{text}</div>\n'


def _token(text: str, nats: float) -> str:
    # A token whose text is not whole yet still costs its nats.
    shown = (
        _BREAKS.sub("<s>↵</s>\n", escaped(text.replace("\r\n", "\n").replace("\r", "\n")))
        if text
        else "<s>·</s>"
    )
    return f'<span class="{heat_class(nats)}" title="{nats:.2f} nats">{shown}</span>'
