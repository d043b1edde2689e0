"""The HTML page of a report: ``page.html``, filled with what runs left. Every text is escaped."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from plgolf.report.comparison import Row, decimals, table
from plgolf.report.groups import Group, settings_apart
from plgolf.report.ledger import COLOURS
from plgolf.report.runs import Run
from plgolf.report.statistics import REQUIRED_NATS, REQUIRED_P
from plgolf.report.style import PALETTE, Picture, legible
from plgolf.version import __version__

_FOLDER = Path(__file__).parent
HEAT_EDGES = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Nats from which a token has the colours .n0 to .n9 of ``page.css``."""
_ELSEWHERE = {"ledger": "bytes", "positions": "depth", "quantisation": "depth", "comparison": "comparison"}
"""Sections of the page by picture; all other pictures are of training."""
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_FOLDER),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
    finalize=lambda value: value if isinstance(value, Markup) else legible(value),
)


def page_of(run: Run, pictures: Sequence[Picture]) -> str:
    """Returns the page of a run, finished or not, with its pictures."""
    return _page(pictures, title=run.name, notes=run.notes, run=run, result=run.result, groups=())


def page_compared(groups: Sequence[Group], rows: Sequence[Row], pictures: Sequence[Picture]) -> str:
    """Returns the page of several runs, with a row of the comparison for each group, and their pictures."""
    columns, *lines = table(rows)
    names = " vs ".join(group.name for group in groups)
    return _page(
        pictures,
        title=names if len(groups) < 5 else f"{len(groups)} groups of runs",
        notes=[note for group in groups for note in group.notes],
        groups=groups,
        columns=columns,
        compared=list(zip(rows, lines, strict=True)),
        differences=settings_apart(groups),
        bar=(REQUIRED_NATS, REQUIRED_P),
    )


def _page(pictures: Sequence[Picture], **values: Any) -> str:
    sections: dict[str, list[Picture]] = {"training": [], "bytes": [], "depth": [], "comparison": []}
    for picture in pictures:
        sections[_ELSEWHERE.get(picture.name, "training")].append(picture)
    return _TEMPLATES.get_template("page.html").render(
        **values,
        pictures=sections,
        css=(_FOLDER / "page.css").read_text(encoding="utf-8"),
        version=__version__,
        palette=PALETTE,
        colours=COLOURS,
        heat_edges=HEAT_EDGES,
        heat=heat_class,
        visible=_visible,
        decimals=decimals,
        duration=_duration,
    )


def heat_class(nats: float | None) -> str:
    """Returns the CSS class of a token's colour; NaN has the strongest."""
    return f"n{sum(nats is None or nats >= edge for edge in HEAT_EDGES[1:])}"


def _visible(text: str) -> Markup:
    """Returns a token's text with line breaks shown, and a dot if the token ends within a character."""
    if not text:
        return Markup("<s>·</s>")
    return Markup("<s>↵</s>\n").join(escape(legible(line)) for line in re.split(r"\r\n|\r|\n", text))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 120 else f"{minutes} min {rest} s"
