"""Figures that are no curves of a run: scores, times of steps, losses by position, quantisation errors."""

import itertools
import re
from collections.abc import Sequence

import numpy as np

from plgolf.report.analysis import Analysis
from plgolf.report.comparison import Row
from plgolf.report.groups import Group
from plgolf.report.ledger import COLOURS
from plgolf.report.records import Histogram, Result
from plgolf.report.runs import Run
from plgolf.report.statistics import REQUIRED_NATS, mean
from plgolf.report.style import (
    INK,
    MUTED,
    NARROW,
    PALETTE,
    WIDE,
    Drawing,
    Picture,
    drawing,
    legend_label,
    rendered,
    short,
)

_MOST_ROWS = 24
_WIDE_TIMES = 4
_QUANTILES = {"p50": "median", "p90": "90 % within", "p99": "99 % within", "max": "slowest"}


def scores_picture(result: Result) -> Picture | None:
    """Draws the score beside what general compressors reach; None if none was measured."""
    if not result.compressors_bpb:
        return None
    scores = {
        "validation": (result.val_bpb, PALETTE[0]),
        "after export": (result.roundtrip_val_bpb, PALETTE[0]),
        **{f"{name} -9": (bpb, PALETTE[6]) for name, bpb in result.compressors_bpb.items()},
    }
    title = "Bits per byte, beside general compressors"
    with drawing() as made:
        axes = made.axes
        for i, (bpb, colour) in enumerate(scores.values()):
            axes.barh(i, bpb, height=0.62, color=colour)
            axes.text(bpb, i, f" {bpb:.4f}", va="center", weight="bold")
        _rows(made, [legend_label(name) for name in scores])
        axes.set_xlim(0, 1.18 * max(bpb for bpb, _ in scores.values()))
        axes.set_xlabel("bits per byte of the validation split, lower is better")
        axes.set_title(title)
        return rendered(made, "scores", title)


def _tall(size: tuple[float, float], rows: int) -> tuple[float, float]:
    """Returns a size that has room for so many rows."""
    return size[0], max(size[1], 0.8 + 0.19 * rows)


def _rows(made: Drawing, names: Sequence[str]) -> None:
    """Names horizontal rows, the first on top."""
    axes = made.axes
    axes.set_yticks(range(len(names)), names, color=INK)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


def times_of(run: Run) -> tuple[Histogram, dict[str, float], bool] | None:
    """Returns how long steps took.

    Returns:
        A histogram of milliseconds, quantiles by name, and whether they are of single steps rather than of
        means over what was logged at a time. None if the run recorded nothing.
    """
    if run.result is not None and run.result.step_ms_histogram is not None:
        return run.result.step_ms_histogram, run.result.step_ms_quantiles, True
    logged = run.curves["train/step_ms"].values
    logged = logged[np.isfinite(logged)]
    if logged.size < 2:
        return None
    counts, edges = np.histogram(logged, bins=min(40, logged.size))
    points = {"min": 0.0, "p10": 0.1, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    quantiles = {name: float(np.quantile(logged, point)) for name, point in points.items()}
    return Histogram(edges.tolist(), counts.tolist()), quantiles, False


def step_times_picture(run: Run) -> Picture | None:
    """Draws how long a run's steps took; None if it did not record that."""
    times = times_of(run)
    if times is None:
        return None
    histogram, quantiles, is_single = times
    title = "Time of a step"
    with drawing() as made:
        axes = made.axes
        counts = np.array(histogram.counts)
        axes.stairs(counts, histogram.edges, fill=True, color=PALETTE[0])
        _time_axis(made, histogram.edges, quantiles)
        unit = "steps" if is_single else "logged intervals"
        # One slow step in ten thousand is what a distribution is looked at for.
        if counts.max() > 100 * max(int(counts[counts > 0].min(initial=1)), 1):
            axes.set_yscale("symlog", linthresh=1)
            axes.yaxis.set_major_formatter(lambda value, _: short(value))
            axes.set_ylim(0, counts.max() * 2.5)
            unit += ", logarithmic"
        if "p50" in quantiles:
            axes.axvline(quantiles["p50"], color=PALETTE[1], linewidth=1, linestyle=(0, (3, 2)))
        said = "\n".join(
            f"{_QUANTILES[name]} {quantiles[name]:.4g} ms" for name in _QUANTILES if name in quantiles
        )
        axes.text(
            0.99, 0.98, said, transform=axes.transAxes, ha="right", va="top", color=INK, linespacing=1.5
        )
        axes.set_ylabel(unit)
        axes.set_title(title)
        caption = "" if is_single else "Means over the steps between two rows of the log, not single steps."
        return rendered(made, "step_times", title, caption)


def _time_axis(made: Drawing, edges: Sequence[float], quantiles: dict[str, float]) -> None:
    axes = made.axes
    usual = quantiles.get("p50") or edges[len(edges) // 2]
    axes.set_xlabel("milliseconds")
    if edges[0] > 0 and edges[-1] > _WIDE_TIMES * usual:
        axes.set_xscale("log")
        axes.set_xlabel("milliseconds, logarithmic")
        axes.xaxis.set_minor_formatter(lambda _value, _: "")
    axes.xaxis.set_major_formatter(lambda value, _: short(value))


def step_times_compared(groups: Sequence[Group]) -> Picture | None:
    """Draws the spread of step times, a row for each run; None if none recorded them."""
    found = [
        (
            run.name if len(groups) > 1 or len(group.runs) > 1 else group.name,
            PALETTE[i % len(PALETTE)],
            times[1],
        )
        for i, group in enumerate(groups)
        for run in group.runs
        if (times := times_of(run)) is not None and "p50" in times[1]
    ][:_MOST_ROWS]
    if not found:
        return None
    title = "Time of a step"
    with drawing(_tall(NARROW, len(found))) as made:
        axes = made.axes
        for i, (_, colour, points) in enumerate(found):
            middle = points["p50"]
            low, high = points.get("p10", middle), points.get("p90", middle)
            axes.plot([points.get("min", low), points.get("p99", high)], [i, i], color=colour, linewidth=1)
            axes.plot([low, high], [i, i], color=colour, linewidth=4.5, alpha=0.55)
            axes.plot([middle], [i], color=colour, marker="o", markersize=5)
        _rows(made, [legend_label(name) for name, _, _ in found])
        axes.set_xlabel("milliseconds")
        axes.set_title(title)
        caption = "Dot: median. Thick: 10 % to 90 % of the steps. Thin: from the fastest to 99 %."
        return rendered(made, "step_times", title, caption)


def positions_picture(analysis: Analysis) -> Picture | None:
    """Draws bits per byte by position in the sequence; None without positions."""
    if not analysis.positions:
        return None
    title = "Bits per byte by position in the sequence"
    with drawing() as made:
        axes = made.axes
        edges = [position.first + 1 for position in analysis.positions] + [analysis.positions[-1].last + 2]
        values = [position.bpb for position in analysis.positions]
        if all(a < b for a, b in itertools.pairwise(edges)):
            axes.stairs(values, edges, baseline=None, color=PALETTE[0], linewidth=1.8)
            axes.stairs(values, edges, baseline=min(values), fill=True, color=PALETTE[0], alpha=0.12)
        else:
            axes.plot(edges[:-1], values, color=PALETTE[0], marker="o", linestyle="")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: short(value) if value < 1000 else f"{value:.0f}")
        low, high = min(values), max(values)
        axes.set_ylim(low - 0.08 * (high - low or 1), high + 0.08 * (high - low or 1))
        axes.set_xlabel(f"position of the target in its sequence of {analysis.seq_len} tokens, logarithmic")
        axes.set_ylabel("bits per byte")
        axes.set_title(title)
        caption = "The more a model has read, the better it predicts: what context is worth to it."
        return rendered(made, "positions", title, caption)


def quantisation_picture(result: Result) -> Picture | None:
    """Draws the error of tensors, a row for each kind, a dot for each block; None without records."""
    kinds: dict[str, list[tuple[float, str]]] = {}
    for tensor in result.tensors:
        if tensor.relative_error > 0:
            kind = re.sub(r"^.*?\d+\.", "", tensor.name).removesuffix(".weight")
            kinds.setdefault(kind, []).append((tensor.relative_error, COLOURS[tensor.role]))
    if not kinds:
        return None
    ordered = sorted(kinds.items(), key=lambda item: -max(error for error, _ in item[1]))[:_MOST_ROWS]
    title = "Error of quantisation by tensor"
    with drawing(_tall(NARROW, len(ordered))) as made:
        axes = made.axes
        for i, (_, dots) in enumerate(ordered):
            errors = [100 * error for error, _ in dots]
            axes.plot([min(errors), max(errors)], [i, i], color=dots[0][1], linewidth=1, alpha=0.4)
            axes.scatter(
                errors, [i] * len(dots), s=16, color=[colour for _, colour in dots], alpha=0.75, linewidths=0
            )
        _rows(made, [legend_label(kind) for kind, _ in ordered])
        errors = [100 * error for _, dots in ordered for error, _ in dots]
        if max(errors) > 20 * min(errors):
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(lambda _value, _: "")
        else:
            axes.set_xlim(0, 1.06 * max(errors))
            axes.locator_params(axis="x", nbins=5)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} %")
        axes.set_xlabel("root mean square of the error, relative to the weights")
        axes.set_title(title)
        caption = "A dot for each tensor. Tensors that the file keeps exactly are left out."
        return rendered(made, "quantisation", title, caption)


def comparison_picture(groups: Sequence[Group], rows: Sequence[Row]) -> Picture | None:
    """Draws the score of every seed and the mean of every group, beside the challenge's bar."""
    found = [
        (i, group, row)
        for i, (group, row) in enumerate(zip(groups, rows, strict=True))
        if row.loss is not None
    ]
    if not found:
        return None
    title = "Loss of the file on disk, by seed"
    with drawing((WIDE[0], 0.9 + 0.38 * len(found))) as made:
        axes = made.axes
        reference = rows[0].loss
        for place, (i, group, _) in enumerate(found):
            colour = PALETTE[i % len(PALETTE)]
            losses = [result.roundtrip_val_loss for result in group.results]
            axes.scatter(losses, [place] * len(losses), s=26, color=colour, alpha=0.7, linewidths=0, zorder=3)
            average = mean(losses)
            axes.plot([average, average], [place - 0.28, place + 0.28], color=colour, linewidth=2.5)
        if reference is not None and any(row.improvement is not None for row in rows):
            axes.axvline(reference - REQUIRED_NATS, color=MUTED, linewidth=1, linestyle=(0, (3, 2)), zorder=1)
        _rows(made, [legend_label(group.name) for _, group, _ in found])
        axes.locator_params(axis="x", nbins=8)
        axes.set_xlabel("nats per token, lower is better")
        axes.set_title(title)
        caption = (
            f"Stroke: mean. Dashed: {REQUIRED_NATS} nats below the mean of {groups[0].name}; "
            "a pass needs the mean to be below that with certainty, not only to reach it."
        )
        return rendered(made, "comparison", title, caption)
