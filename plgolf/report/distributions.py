"""Figures other than curves: scores, times of steps, bits per byte by position, quantisation errors."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from plgolf.report.comparison import Row
from plgolf.report.groups import Group
from plgolf.report.ledger import COLOURS
from plgolf.report.records import Analysis, Histogram, Result
from plgolf.report.runs import Run
from plgolf.report.statistics import REQUIRED_NATS, mean
from plgolf.report.style import MUTED, PALETTE, WIDE, Picture, drawing, short

_MOST_ROWS = 24
_WIDE_TIMES = 4
_QUANTILES = {"p50": "median", "p90": "90 % within", "p99": "99 % within", "max": "slowest"}
_DASHED: Any = {"linewidth": 1, "linestyle": (0, (3, 2))}


def scores_picture(result: Result) -> Picture | None:
    """Draws the score beside general compressors; None if none was measured."""
    if not result.compressors_bpb:
        return None
    own = {"validation": result.val_bpb, "after export": result.roundtrip_val_bpb}
    scores = {name: (bpb, PALETTE[0]) for name, bpb in own.items() if np.isfinite(bpb)}
    scores |= {f"{name} -9": (bpb, PALETTE[6]) for name, bpb in result.compressors_bpb.items()}
    with drawing() as made:
        for i, (bpb, colour) in enumerate(scores.values()):
            made.axes.barh(i, bpb, height=0.62, color=colour)
            made.axes.text(bpb, i, f" {bpb:.4f}", va="center", weight="bold")
        made.name_rows(list(scores))
        made.axes.set_xlim(0, 1.18 * max(bpb for bpb, _ in scores.values()) or 1.0)
        x = "bits per byte of the validation split, lower is better"
        return made.picture("scores", "Bits per byte, beside general compressors", x=x)


def times_of(run: Run) -> tuple[Histogram, dict[str, float], bool] | None:
    """Returns how long the steps of a run took; None if it did not record that.

    Returns:
        A histogram of milliseconds, quantiles by name, and True if they are of single steps rather than means
        between two rows of the log.
    """
    if run.result is not None and run.result.step_ms_histogram is not None:
        return run.result.step_ms_histogram, run.result.step_ms_quantiles, True
    logged = run.curves["train/step_ms"].values
    logged = logged[np.isfinite(logged)]
    if logged.size < 2:
        return None
    counts, edges = np.histogram(logged, bins=min(40, logged.size))
    points = np.quantile(logged, (0.0, 0.1, 0.5, 0.9, 0.99, 1.0)).tolist()
    quantiles = dict(zip(("min", "p10", "p50", "p90", "p99", "max"), points, strict=True))
    return Histogram(edges.tolist(), counts.tolist()), quantiles, False


def step_times_picture(run: Run) -> Picture | None:
    """Draws how long the steps of a run took; None if it did not record that."""
    times = times_of(run)
    if times is None:
        return None
    histogram, quantiles, is_single = times
    with drawing() as made:
        axes, counts = made.axes, np.array(histogram.counts)
        axes.stairs(counts, histogram.edges, fill=True, color=PALETTE[0])
        axes.xaxis.set_major_formatter(lambda value, _: short(value))
        x, y = "milliseconds", "steps" if is_single else "logged intervals"
        if 0 < _WIDE_TIMES * quantiles.get("p50", histogram.edges[-1]) < histogram.edges[-1]:
            made.use_log_x()
            x += ", logarithmic"
        # One slow step in ten thousand is what a reader looks for here, so it must be visible.
        if counts.max() > 100 * max(int(counts[counts > 0].min(initial=1)), 1):
            axes.set_yscale("symlog", linthresh=1)
            axes.yaxis.set_major_formatter(lambda value, _: short(value))
            axes.set_ylim(0, counts.max() * 2.5)
            y += ", logarithmic"
        if "p50" in quantiles:
            axes.axvline(quantiles["p50"], color=PALETTE[1], **_DASHED)
        known = (f"{text} {quantiles[name]:.4g} ms" for name, text in _QUANTILES.items() if name in quantiles)
        style: Any = {"transform": axes.transAxes, "ha": "right", "va": "top", "linespacing": 1.5}
        axes.text(0.99, 0.98, "\n".join(known), **style)
        caption = "" if is_single else "Means of the steps between two rows of the log, not single steps."
        return made.picture("step_times", "Time of a step", caption, x=x, y=y)


def step_times_compared(groups: Sequence[Group]) -> Picture | None:
    """Draws the spread of step times, a row for each run; None if no run recorded them."""
    found = [
        (run.name, PALETTE[i % len(PALETTE)], times[1])
        for i, group in enumerate(groups)
        for run in group.runs
        if (times := times_of(run)) is not None and "p50" in times[1]
    ][:_MOST_ROWS]
    if not found:
        return None
    with drawing(num_rows=len(found)) as made:
        axes = made.axes
        for i, (_, colour, points) in enumerate(found):
            middle = points["p50"]
            low, high = points.get("p10", middle), points.get("p90", middle)
            axes.plot([points.get("min", low), points.get("p99", high)], [i, i], color=colour, linewidth=1)
            axes.plot([low, high], [i, i], color=colour, linewidth=4.5, alpha=0.55)
            axes.plot([middle], [i], color=colour, marker="o", markersize=5)
        made.name_rows([name for name, _, _ in found])
        caption = "Dot: median. Thick: 10 % to 90 % of the steps. Thin: from the fastest to 99 %."
        return made.picture("step_times", "Time of a step", caption, x="milliseconds")


def positions_picture(analysis: Analysis) -> Picture | None:
    """Draws bits per byte by position in the sequence; None without finite scores."""
    places = [place for place in analysis.positions if np.isfinite(place.bpb)]
    if not places:
        return None
    edges = [*(place.first + 1 for place in places), places[-1].last + 2]
    values = [place.bpb for place in places]
    with drawing() as made:
        axes = made.axes
        axes.stairs(values, edges, baseline=None, color=PALETTE[0], linewidth=1.8)
        axes.stairs(values, edges, baseline=min(values), fill=True, color=PALETTE[0], alpha=0.12)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: short(value) if value < 1000 else f"{value:.0f}")
        low, high = min(values), max(values)
        axes.set_ylim(low - 0.08 * (high - low or 1), high + 0.08 * (high - low or 1))
        title = "Bits per byte by position in the sequence"
        caption = "The more text comes before a token, the better the model predicts it."
        x = f"position of the target in its sequence of {analysis.seq_len} tokens, logarithmic"
        return made.picture("positions", title, caption, x=x, y="bits per byte")


def quantisation_picture(result: Result) -> Picture | None:
    """Draws the error of tensors, a row for each kind, a dot for each block; None without errors."""
    kinds: dict[str, list[tuple[float, str]]] = {}
    for tensor in result.tensors:
        if tensor.relative_error > 0:
            kind = re.sub(r"^.*?\d+\.", "", tensor.name).removesuffix(".weight")
            kinds.setdefault(kind, []).append((100 * tensor.relative_error, COLOURS[tensor.role]))
    if not kinds:
        return None
    ordered = sorted(kinds.items(), key=lambda item: -max(error for error, _ in item[1]))[:_MOST_ROWS]
    with drawing(num_rows=len(ordered)) as made:
        axes = made.axes
        for i, (_, dots) in enumerate(ordered):
            errors, colours = [error for error, _ in dots], [colour for _, colour in dots]
            axes.plot([min(errors), max(errors)], [i, i], color=colours[0], linewidth=1, alpha=0.4)
            axes.scatter(errors, [i] * len(dots), s=16, color=colours, alpha=0.75, linewidths=0)
        made.name_rows([kind for kind, _ in ordered])
        errors = [error for _, dots in ordered for error, _ in dots]
        if max(errors) > 20 * min(errors):
            made.use_log_x()
        else:
            axes.set_xlim(0, 1.06 * max(errors))
            axes.locator_params(axis="x", nbins=5)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} %")
        caption = "A dot for each tensor. Tensors that the file keeps exactly are left out."
        x = "root mean square of the error, relative to the weights"
        return made.picture("quantisation", "Error of quantisation by tensor", caption, x=x)


def comparison_picture(groups: Sequence[Group], rows: Sequence[Row]) -> Picture | None:
    """Draws the loss of every seed and the mean of every group, beside the challenge's bar."""
    found = [(i, group) for i, group in enumerate(groups) if group.losses]
    if not found:
        return None
    with drawing((WIDE[0], 0.9 + 0.38 * len(found))) as made:
        axes = made.axes
        for place, (i, group) in enumerate(found):
            colour, average = PALETTE[i % len(PALETTE)], mean(group.losses)
            dots = [place] * len(group.losses)
            axes.scatter(group.losses, dots, s=26, color=colour, alpha=0.7, linewidths=0, zorder=3)
            axes.plot([average, average], [place - 0.28, place + 0.28], color=colour, linewidth=2.5)
        caption = "Dot: a seed. Stroke: mean."
        if any(row.improvement is not None for row in rows):
            axes.axvline(mean(groups[0].losses) - REQUIRED_NATS, color=MUTED, zorder=1, **_DASHED)
            caption += (
                f" Dashed: {REQUIRED_NATS} nats below the mean of {groups[0].name}; to pass, a group's mean "
                "must be below that line with certainty, not only reach it."
            )
        made.name_rows([group.name for _, group in found])
        axes.locator_params(axis="x", nbins=8)
        title = "Loss of the file on disk, by seed"
        return made.picture("comparison", title, caption, x="nats per token, lower is better")
