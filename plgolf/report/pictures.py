"""All figures of a report: those of one run, and those of several."""

from collections.abc import Mapping, Sequence
from typing import Any

from plgolf.report import distributions as spread
from plgolf.report.comparison import Row
from plgolf.report.groups import Group
from plgolf.report.ledger import draw_ledger
from plgolf.report.lines import GRADIENT, MOMENTUM, PROGRESS, RATE, curves_picture
from plgolf.report.records import Result, record_from
from plgolf.report.runs import Run
from plgolf.report.style import WIDE, Picture, drawing

NAMES = (
    *(figure.name for figure in (*PROGRESS, RATE, MOMENTUM, GRADIENT)),
    *("comparison", "ledger", "scores", "step_times", "positions", "quantisation"),
)
"""Names of all pictures that a report can have."""


def pictures_of(run: Run) -> list[Picture]:
    """Draws a run, finished or not; returns the pictures that its files allow, in the order of the page."""
    groups, result = [Group(run.name, (run,))], run.result
    found = [
        ledger_picture(result) if result else None,
        *(curves_picture(groups, figure) for figure in PROGRESS),
        spread.scores_picture(result) if result else None,
        *(curves_picture(groups, figure) for figure in (RATE, MOMENTUM, GRADIENT)),
        spread.step_times_picture(run),
        spread.positions_picture(run.analysis) if run.analysis else None,
        spread.quantisation_picture(result) if result else None,
    ]
    return [picture for picture in found if picture is not None]


def pictures_compared(groups: Sequence[Group], rows: Sequence[Row]) -> list[Picture]:
    """Draws several runs and their comparison, a colour for each group."""
    curves = (curves_picture(groups, figure) for figure in (*PROGRESS, RATE, MOMENTUM))
    found = [spread.comparison_picture(groups, rows), *curves, spread.step_times_compared(groups)]
    return [picture for picture in found if picture is not None]


def ledger_picture(result: Result) -> Picture:
    """Draws the bytes of a submission by part."""
    caption = (
        "The bar is the budget, to scale. Below it is its used part, magnified: areas are bytes. "
        "A tensor gets the share of the file that it has when each tensor is compressed on its own."
    )
    with drawing(WIDE) as made:
        draw_ledger(made, result)
        return made.picture("ledger", "Bytes by part", caption)


def ledger_treemap(result: Mapping[str, Any]) -> bytes:
    """Draws the bytes of a submission, given ``result.json``, and returns a PNG for a logger.

    Raises:
        UserError: matplotlib is missing, or a value of the result has a wrong type.
    """
    with drawing(WIDE) as made:
        draw_ledger(made, record_from(Result, result))
        return made.png()
