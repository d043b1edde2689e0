"""Figures of what runs logged: one metric or two against steps or training seconds."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plgolf.report.groups import Group
from plgolf.report.style import DASHES, PALETTE, Drawing, Picture, drawing, legend_label, short

Values = NDArray[np.float64]
_MOST_POINTS = 1200
_SMOOTHED_PARTS, _EARLY_PART = 30, 4
_SETTLED = 0.06
"""Fraction of a run after which its losses decide the range of the axis; the first ones are far higher."""
_LOG_STEPS = 200
_AXES = {"steps": "optimizer steps", "seconds": "training seconds"}
_MOST_LABELS = 10
"""Labels in a legend; more would leave no room for the curves."""


class Figure(NamedTuple):
    """A figure of curves: of several runs only the first metric, smoothed ones as moving means."""

    name: str
    title: str
    unit: str
    metrics: tuple[str, ...]
    axis: Literal["steps", "seconds"] = "steps"
    is_smoothed: bool = True


_LOSSES = ("train/loss", "val/loss")
_BPB = "Validation bits per byte"
PROGRESS = (
    Figure("loss_steps", "Loss against steps", "nats per token", _LOSSES),
    Figure("loss_seconds", "Loss against training time", "nats per token", _LOSSES, "seconds"),
    Figure("bpb_steps", f"{_BPB} against steps", "bits per byte", ("val/bpb",)),
    Figure("bpb_seconds", f"{_BPB} against training time", "bits per byte", ("val/bpb",), "seconds"),
)
RATE, MOMENTUM, GRADIENT = (
    Figure(name, title, unit, (f"train/{name}",), is_smoothed=False)
    for name, title, unit in (
        ("lr_factor", "Learning-rate factor", "factor of every rate"),
        ("momentum", "Muon's momentum", "momentum"),
        ("gradient_norm", "Gradient norm", "norm before clipping"),
    )
)


class _Curve(NamedTuple):
    colour: str
    dash: Any
    metric: str
    x: Values
    raw: Values
    smooth: Values
    window: int


def curves_picture(groups: Sequence[Group], figure: Figure) -> Picture | None:
    """Draws curves, a colour for each group; None if no run logged them, or none was validated twice."""
    is_alone = sum(len(group.runs) for group in groups) == 1
    metrics = figure.metrics if is_alone else figure.metrics[:1]
    curves = [curve for metric in metrics for curve in _curves(groups, metric, figure)]
    if not curves or (metrics == ("val/bpb",) and max(curve.x.size for curve in curves) < 2):
        return None
    furthest = max(float(curve.x[-1]) for curve in curves)
    is_log = figure.axis == "steps" and metrics[0] == "train/loss" and furthest >= _LOG_STEPS
    start = _SETTLED * furthest if figure.is_smoothed and not is_log else 0.0
    title = figure.title.replace("Loss", "Loss" if is_alone else "Training loss")
    with drawing() as made:
        for curve in curves:
            _draw(made, curve, is_alone=is_alone)
        if is_log:
            made.use_log_x()
        else:
            made.axes.set_xlim(0, max(furthest * 1.02, 1e-9))
        made.axes.xaxis.set_major_formatter(lambda value, _: short(value))
        _scale_y(made, [curve.smooth[curve.x >= start] for curve in curves], is_smoothed=figure.is_smoothed)
        _draw_legend(made, groups, [curve.metric for curve in curves] if is_alone else ())
        top, window = made.axes.get_ylim()[1], max(curve.window for curve in curves)
        is_cut = not is_log and any(np.nanmax(curve.raw, initial=-np.inf) > top for curve in curves)
        mean = f"The training loss is a moving mean of up to {window} logged values. " if window > 1 else ""
        caption = mean + ("The axis is cut above the losses of the first steps." if is_cut else "")
        x = f"{_AXES[figure.axis]}, logarithmic" if is_log else _AXES[figure.axis]
        return made.picture(figure.name, title, caption.strip(), x=x, y=figure.unit)


def _style(i: int) -> tuple[str, Any]:
    """Returns colour and dashes of a group; dashes differ where there are more groups than colours."""
    return PALETTE[i % len(PALETTE)], DASHES[i // len(PALETTE) % len(DASHES)]


def _curves(groups: Sequence[Group], metric: str, figure: Figure) -> Iterator[_Curve]:
    for i, run in ((i, run) for i, group in enumerate(groups) for run in group.runs):
        series = run.curves[metric]
        x = series.steps.astype(float) if figure.axis == "steps" else run.curves.seconds_of(series)
        if x is not None and x.size:
            is_smoothed = figure.is_smoothed and metric == "train/loss"
            smooth, window = smoothed(series.values) if is_smoothed else (series.values, 1)
            yield _Curve(*_style(i), metric, x, series.values, smooth, window)


def _draw(made: Drawing, curve: _Curve, *, is_alone: bool) -> None:
    axes, x, colour = made.axes, curve.x, curve.colour
    marker = "o" if x.size < 40 and curve.metric.startswith("val/") else ""
    if curve.metric == "val/loss":
        axes.plot(x, curve.raw, color=PALETTE[1], linewidth=1.2, marker=marker, markersize=3.5, zorder=4)
        return
    kept = thinned(x)
    style: Any = {"linewidth": 1.6 if is_alone else 1.1, "marker": marker, "markersize": 3.5}
    if is_alone and curve.metric == "train/loss":
        axes.plot(x[kept], curve.raw[kept], color=colour, alpha=0.28, linewidth=0.6, zorder=2)
    axes.plot(x[kept], curve.smooth[kept], color=colour, linestyle=curve.dash, zorder=3, **style)
    if is_alone and curve.metric == "val/bpb":
        place: Any = {"xytext": (1, -6), "textcoords": "offset points", "ha": "right", "va": "top"}
        axes.annotate(f"{curve.raw[-1]:.4f}", (x[-1], curve.raw[-1]), weight="bold", **place)


def thinned(x: Values) -> NDArray[np.int64]:
    """Returns indices of at most 1200 points that look like all, on a linear and on a logarithmic axis."""
    if x.size <= _MOST_POINTS:
        return np.arange(x.size)
    half = _MOST_POINTS // 2
    even, early = np.linspace(0, x.size - 1, half), np.geomspace(1, x.size, half) - 1
    return np.unique(np.concatenate([even, early]).round().astype(np.int64))


def smoothed(values: Values) -> tuple[Values, int]:
    """Returns moving means, over fewer values near the beginning, and the width of the widest window."""
    half = values.size // _SMOOTHED_PARTS
    if half == 0:
        return values, 1
    i = np.arange(values.size)
    # A loss falls with the logarithm of steps: a wide window near the beginning would lie above its values.
    reach = np.minimum(i // _EARLY_PART, half)
    low, high = i - reach, np.minimum(i + reach, values.size - 1)
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    number = counts[high + 1] - counts[low]
    return np.where(number > 0, (sums[high + 1] - sums[low]) / np.maximum(number, 1), np.nan), 2 * half + 1


def _scale_y(made: Drawing, spans: Iterable[Values], *, is_smoothed: bool) -> None:
    values = np.concatenate(list(spans))
    values = values[np.isfinite(values)]
    if not values.size:
        return
    low, high = float(values.min()), float(values.max())
    pad = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    bottom = low - (2 * pad if is_smoothed else pad)
    if not is_smoothed and 0 <= low < 0.5 * high:
        bottom = min(bottom, 0.0)
    made.axes.set_ylim(bottom, high + pad)


def _draw_legend(made: Drawing, groups: Sequence[Group], metrics: Sequence[str]) -> None:
    """Explains the metrics of a single run, or the groups."""
    from matplotlib.lines import Line2D  # noqa: PLC0415 (an extra)

    entries = [(legend_label(group.name), *_style(i)) for i, group in enumerate(groups)]
    if metrics:
        names = {"train/loss": ("training", PALETTE[0], "-"), "val/loss": ("validation", PALETTE[1], "-")}
        entries = [names[metric] for metric in metrics if metric in names]
    if len(entries) > _MOST_LABELS:  # The page's tables show every group beside its colour.
        entries[_MOST_LABELS:] = [(f"and {len(entries) - _MOST_LABELS} more", "none", "-")]
    handles = [Line2D([], [], label=label, color=colour, linestyle=dash) for label, colour, dash in entries]
    if handles:
        made.axes.legend(handles=handles, loc="best")
