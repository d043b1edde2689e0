"""Curves of one or several runs in one figure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from plgolf.report.curves import Curves, Series
from plgolf.report.groups import Group
from plgolf.report.runs import Run
from plgolf.report.style import DASHES, PALETTE, Drawing, Picture, drawing, legend_label, rendered, short

Axis = Literal["steps", "seconds"]
_MOST_POINTS = 1200
_SMOOTHED_PARTS, _EARLY_PART = 30, 4
_SETTLED = 0.06
"""Of a run: before that, a loss is so high that nothing else could be seen beside it."""
_LOG_STEPS = 200
_MOST_LABELS = 10
"""In a legend: more of them would leave no room for the curves."""


@dataclass(frozen=True)
class Line:
    """A run as a figure shows it.

    Args:
        run: the run.
        label: in the legend; empty for all but the first of a group.
        colour: of the group.
        dash: of the group, where there are more groups than colours.
    """

    run: Run
    label: str
    colour: str
    dash: Any

    @property
    def curves(self) -> Curves:
        """What the run logged."""
        return self.run.curves


def lines_of(groups: Sequence[Group]) -> list[Line]:
    """Gives every group a colour, and its first run the group's name."""
    return [
        Line(
            run,
            legend_label(group.name) if j == 0 else "",
            PALETTE[i % len(PALETTE)],
            DASHES[i // len(PALETTE) % len(DASHES)],
        )
        for i, group in enumerate(groups)
        for j, run in enumerate(group.runs)
    ]


def loss_picture(lines: Sequence[Line], axis: Axis) -> Picture | None:
    """Draws the training and validation loss: all of it against steps, its end against seconds.

    Returns:
        The picture, or None if no run logged it.
    """
    metrics = ("train/loss", "val/loss") if len(lines) == 1 else ("train/loss",)
    title = ("Loss" if len(lines) == 1 else "Training loss") + " against " + _words(axis)
    return _picture(lines, axis, metrics, f"loss_{axis}", title, "nats per token")


def bpb_picture(lines: Sequence[Line], axis: Axis) -> Picture | None:
    """Draws bits per byte of the validation split; None if no run was validated more than once."""
    if max((len(line.curves["val/bpb"]) for line in lines), default=0) < 2:
        return None
    return _picture(
        lines,
        axis,
        ("val/bpb",),
        f"bpb_{axis}",
        "Validation bits per byte against " + _words(axis),
        "bits per byte",
    )


def setting_picture(lines: Sequence[Line], metric: str, name: str, title: str, unit: str) -> Picture | None:
    """Draws a metric as it is against steps; None if no run logged it."""
    return _picture(lines, "steps", (metric,), name, title, unit, is_plain=True)


def _words(axis: Axis) -> str:
    return "steps" if axis == "steps" else "training time"


def _picture(
    lines: Sequence[Line],
    axis: Axis,
    metrics: tuple[str, ...],
    name: str,
    title: str,
    unit: str,
    *,
    is_plain: bool = False,
) -> Picture | None:
    shown = [
        (line, metric, x, series)
        for line in lines
        for metric in metrics
        for series in (line.curves[metric],)
        if (x := _places(line.curves, series, axis)) is not None
    ]
    if not shown:
        return None
    furthest = max(float(x[-1]) for _, _, x, _ in shown)
    is_log = axis == "steps" and metrics[0] == "train/loss" and furthest >= _LOG_STEPS
    with drawing() as made:
        window, spans = 1, []
        for line, metric, x, series in shown:
            smooth, over = _smoothed(series.values, is_plain=is_plain or metric != "train/loss")
            window = max(window, over)
            _draw(made, line, metric, x, series.values, smooth, is_alone=len(lines) == 1)
            settled = smooth[x >= (0 if is_log or is_plain else _SETTLED * furthest)]
            spans.append(settled[np.isfinite(settled)])
        _scale(made, axis, spans, furthest, is_log=is_log, is_plain=is_plain)
        top = made.axes.get_ylim()[1]
        is_cut = any(np.nanmax(series.values, initial=-np.inf) > top for _, _, _, series in shown)
        made.axes.set_ylabel(unit)
        made.axes.set_title(title)
        _legend(made, lines, metrics)
        return rendered(made, name, title, _caption(window, is_cut=is_cut and not is_log))


def _places(curves: Curves, series: Series, axis: Axis) -> NDArray[np.float64] | None:
    if not len(series):
        return None
    return series.steps.astype(np.float64) if axis == "steps" else curves.seconds_of(series)


def _draw(
    made: Drawing,
    line: Line,
    metric: str,
    x: NDArray[np.float64],
    raw: NDArray[np.float64],
    smooth: NDArray[np.float64],
    *,
    is_alone: bool,
) -> None:
    colour, width = line.colour, 1.6 if is_alone else 1.1
    if metric == "val/loss":
        made.axes.plot(
            x,
            raw,
            color=PALETTE[1],
            linewidth=1.2,
            zorder=4,
            marker="o",
            markersize=3.5 if x.size < 40 else 0,
        )
        return
    kept = _thinned(x)
    if is_alone and metric == "train/loss":
        made.axes.plot(x[kept], raw[kept], color=colour, alpha=0.28, linewidth=0.6, zorder=2)
    few = "o" if x.size < 40 and metric == "val/bpb" else None
    made.axes.plot(
        x[kept], smooth[kept], color=colour, linestyle=line.dash, linewidth=width, zorder=3,
        marker=few, markersize=3.5,
    )  # fmt: skip
    if is_alone and metric == "val/bpb":
        made.axes.annotate(
            f"{raw[-1]:.4f}", (x[-1], raw[-1]), xytext=(1, -6), textcoords="offset points",
            ha="right", va="top", weight="bold",
        )  # fmt: skip


def _thinned(x: NDArray[np.float64]) -> NDArray[np.int64]:
    """Chooses points that look like all of them, on a linear axis and on a logarithmic one."""
    if x.size <= _MOST_POINTS:
        return np.arange(x.size)
    half = _MOST_POINTS // 2
    even = np.linspace(0, x.size - 1, half)
    early = np.geomspace(1, x.size, half) - 1
    return np.unique(np.concatenate([even, early]).round().astype(np.int64))


def _smoothed(values: NDArray[np.float64], *, is_plain: bool) -> tuple[NDArray[np.float64], int]:
    """Returns moving means, over fewer values near the beginning, and how many values one is of at most."""
    half = 0 if is_plain else values.size // _SMOOTHED_PARTS
    if half == 0:
        return values, 1
    i = np.arange(values.size)
    # A loss falls by the logarithm of steps: a wide window near the beginning would lie above all it is of.
    reach = np.minimum(i // _EARLY_PART, half)
    low, high = i - reach, np.minimum(i + reach, values.size - 1)
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    number = counts[high + 1] - counts[low]
    return np.where(number > 0, (sums[high + 1] - sums[low]) / np.maximum(number, 1), np.nan), 2 * half + 1


def _scale(
    made: Drawing,
    axis: Axis,
    spans: Iterable[NDArray[np.float64]],
    furthest: float,
    *,
    is_log: bool,
    is_plain: bool,
) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: PLC0415 (an extra)

    axes = made.axes
    if is_log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.set_xlabel(
        "optimizer steps" + (", logarithmic" if is_log else "") if axis == "steps" else "training seconds"
    )
    if not is_log:
        axes.set_xlim(0, max(furthest * 1.02, 1e-9))
    values = np.concatenate([*spans, np.empty(0)])
    if values.size:
        low, high = float(values.min()), float(values.max())
        pad = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        bottom = low - (pad if is_plain else 2 * pad)
        axes.set_ylim(min(bottom, 0.0) if is_plain and 0 <= low < 0.5 * high else bottom, high + pad)


def _legend(made: Drawing, lines: Sequence[Line], metrics: tuple[str, ...]) -> None:
    from matplotlib.lines import Line2D  # noqa: PLC0415 (an extra)

    entries: list[tuple[str, str, Any]] = [
        (line.label, line.colour, line.dash) for line in lines if line.label
    ]
    if len(lines) == 1:
        names = {"train/loss": ("training", PALETTE[0], "-"), "val/loss": ("validation", PALETTE[1], "-")}
        entries = [names[metric] for metric in metrics if metric in names and len(lines[0].curves[metric])]
    if len(entries) > _MOST_LABELS:  # The page's table has every group beside its colour.
        entries[_MOST_LABELS:] = [(f"and {len(entries) - _MOST_LABELS} more", "none", "-")]
    handles = [Line2D([], [], color=colour, linestyle=dash) for _, colour, dash in entries]
    if handles:
        made.axes.legend(handles, [label for label, _, _ in entries], loc="best")


def _caption(window: int, *, is_cut: bool) -> str:
    said = []
    if window > 1:
        said.append(f"The training loss is a moving mean of up to {window} logged values.")
    if is_cut:
        said.append("The axis is cut above the losses of the first steps.")
    return " ".join(said)
