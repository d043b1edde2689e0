"""All figures of a report, rendered: of one run, and of several."""

from collections.abc import Mapping, Sequence
from typing import Any

from plgolf.report.comparison import Row
from plgolf.report.distributions import (
    comparison_picture,
    positions_picture,
    quantisation_picture,
    scores_picture,
    step_times_compared,
    step_times_picture,
)
from plgolf.report.groups import Group
from plgolf.report.ledger import draw_ledger
from plgolf.report.lines import Line, bpb_picture, lines_of, loss_picture, setting_picture
from plgolf.report.records import Result, result_of
from plgolf.report.runs import Run
from plgolf.report.style import WIDE, Picture, drawing, png_of, rendered

NAMES = (
    *(
        "comparison",
        "ledger",
        "loss_steps",
        "loss_seconds",
        "bpb_steps",
        "bpb_seconds",
        "scores",
        "lr_factor",
    ),
    *("momentum", "gradient_norm", "step_times", "positions", "quantisation"),
)
"""Of all pictures that there can be."""


def pictures_of(run: Run) -> list[Picture]:
    """Draws a run.

    Args:
        run: finished or not.

    Returns:
        The pictures that its records allow, in the order of the page.

    Raises:
        UserError: matplotlib is missing.
    """
    lines = lines_of([Group(run.name, (run,))])
    found = [
        ledger_picture(run.result) if run.result else None,
        *_progress(lines),
        scores_picture(run.result) if run.result else None,
        *_settings(lines),
        setting_picture(
            lines, "train/gradient_norm", "gradient_norm", "Gradient norm", "norm before clipping"
        ),
        step_times_picture(run),
        positions_picture(run.analysis) if run.analysis else None,
        quantisation_picture(run.result) if run.result else None,
    ]
    return [picture for picture in found if picture is not None]


def pictures_compared(groups: Sequence[Group], rows: Sequence[Row]) -> list[Picture]:
    """Draws several runs, a colour for each group.

    Args:
        groups: the runs.
        rows: their comparison.

    Raises:
        UserError: matplotlib is missing.
    """
    lines = lines_of(groups)
    found = [
        comparison_picture(groups, rows),
        *_progress(lines),
        *_settings(lines),
        step_times_compared(groups),
    ]
    return [picture for picture in found if picture is not None]


def _progress(lines: Sequence[Line]) -> list[Picture | None]:
    return [
        loss_picture(lines, "steps"),
        loss_picture(lines, "seconds"),
        bpb_picture(lines, "steps"),
        bpb_picture(lines, "seconds"),
    ]


def _settings(lines: Sequence[Line]) -> list[Picture | None]:
    return [
        setting_picture(
            lines, "train/lr_factor", "lr_factor", "Learning-rate factor", "factor of every rate"
        ),
        setting_picture(lines, "train/momentum", "momentum", "Muon's momentum", "momentum"),
    ]


def ledger_picture(result: Result) -> Picture:
    """Draws where the bytes went."""
    caption = (
        "The bar is the budget, to scale. Below it is what is used, magnified: areas are bytes. "
        "A tensor's share of the file is by what it takes when it is compressed alone."
    )
    with drawing(WIDE) as made:
        draw_ledger(made, result)
        return rendered(made, "ledger", "Bytes by part", caption)


def ledger_treemap(result: Mapping[str, Any]) -> bytes:
    """Draws where the bytes of an artifact went, for a logger that takes pictures.

    Args:
        result: what ``result.json`` holds.

    Returns:
        A PNG.

    Raises:
        UserError: matplotlib is missing, or something of the result is of a wrong type.
    """
    with drawing(WIDE) as made:
        draw_ledger(made, result_of(result))
        return png_of(made)
