"""Where the bytes went: the budget as a bar, and what is used of it as a treemap."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from plgolf.report.records import Result, TensorRecord
from plgolf.report.style import INK, MUTED, PALETTE, PAPER, Drawing, legible
from plgolf.report.treemap import Rectangle, squarify

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Kind = Literal["matrix", "embedding", "head", "scalar", "model", "tokenizer", "code"]
COLOURS: dict[Kind, str] = {
    "matrix": PALETTE[0],
    "embedding": PALETTE[2],
    "head": PALETTE[4],
    "scalar": PALETTE[5],
    "model": PALETTE[0],
    "tokenizer": PALETTE[3],
    "code": PALETTE[1],
}
_DARK_TEXT_ON = {PALETTE[1], PALETTE[3], PALETTE[4]}
_FREE = "#8c96a3"
_OVER = "#bb2222"
_WIDTH, _HEIGHT = 9.5, 4.0
_BAR = Rectangle(0.0, 3.62, _WIDTH, 0.26)
_MAP = Rectangle(0.0, 0.0, _WIDTH, 3.22)
"""In inches of the figure, nearly, so that a letter's width can be reckoned with."""
_LETTER = 0.0086
"""Width of a letter, in inches, at a size of one point: DejaVu Sans at its wider ones."""
_LINE = 0.0165
_EASY_TYPE, _SMALLEST_TYPE = 7.5, 4.8


@dataclass(frozen=True)
class Part:
    """Something that takes bytes of the budget.

    Args:
        name: what it is.
        group: what it belongs to, such as a block.
        kind: how it is coloured.
        num_bytes: its share.
        tip: what a page says of it.
    """

    name: str
    group: str
    kind: Kind
    num_bytes: float
    tip: str


def parts_of(result: Result) -> list[Part]:
    """Returns all parts: tensors, tokenizer and code, which add up to ``total_bytes``.

    A file that is compressed as a whole has no bytes of one tensor. A tensor's share of the model's part of
    the file is by what its payload takes when it is compressed alone.
    """
    model_bytes = max(result.artifact_bytes - result.tokenizer_bytes, 0)
    alone = sum(tensor.compressed_bytes for tensor in result.tensors)
    if alone:
        parts = [_tensor_part(tensor, model_bytes / alone) for tensor in result.tensors]
    else:
        parts = [Part("model", "model", "model", model_bytes, f"model: {model_bytes:,} bytes")]
    parts += [
        Part(
            "tokenizer",
            "tokenizer",
            "tokenizer",
            result.tokenizer_bytes,
            f"tokenizer: {result.tokenizer_bytes:,} bytes",
        ),
        Part("code", "code", "code", result.code_bytes, f"code: {result.code_bytes:,} bytes"),
    ]
    return [part for part in parts if part.num_bytes > 0]


def _tensor_part(tensor: TensorRecord, scale: float) -> Part:
    found = re.match(r"(.*?)\.?(\d+)\.(.+)", tensor.name)
    group = f"{found[1].rpartition('.')[2].removesuffix('s')} {found[2]}" if found else tensor.name
    name = found[3] if found else tensor.name
    shape = " x ".join(map(str, tensor.shape)) or "a number"
    tip = (
        f"{tensor.name}: {tensor.num_params:,} parameters ({shape}), {tensor.role}, as {tensor.kept}; "
        f"{tensor.compressed_bytes:,} bytes compressed alone"
    )
    return Part(name.removesuffix(".weight"), group, tensor.role, tensor.compressed_bytes * scale, tip)


def draw_ledger(made: Drawing, result: Result) -> None:
    """Draws the budget as a bar to scale, and below it what is used of it, magnified.

    Args:
        made: a wide figure.
        result: of the run.
    """
    axes = made.axes
    axes.set_axis_off()
    axes.set_xlim(0, _WIDTH)
    axes.set_ylim(-0.32, 4.28)
    parts = parts_of(result)
    used = _draw_bar(axes, result, parts)
    wedge = [
        (used.x, used.y),
        (used.x + used.width, used.y),
        (_WIDTH, _MAP.y + _MAP.height),
        (0, _MAP.y + _MAP.height),
    ]
    axes.fill(*zip(*wedge, strict=True), color=_FREE, alpha=0.18, linewidth=0)
    groups = list(dict.fromkeys(part.group for part in parts))
    members = [[part for part in parts if part.group == group] for group in groups]
    frames = squarify([sum(part.num_bytes for part in group) for group in members], _MAP)
    for group, frame in zip(members, frames, strict=True):
        _draw_group(made, group, frame)
    _draw_legend(axes, parts)


def _draw_bar(axes: "Axes", result: Result, parts: Sequence[Part]) -> Rectangle:
    """Draws the budget, and returns the rectangle of what is used."""
    scale = _WIDTH / max(result.budget_bytes, result.total_bytes)
    x = 0.0
    for kinds in (("matrix", "embedding", "head", "scalar", "model"), ("tokenizer",), ("code",)):
        width = scale * sum(part.num_bytes for part in parts if part.kind in kinds)
        _box(axes, Rectangle(x, _BAR.y, width, _BAR.height), COLOURS[kinds[0]])
        x += width
    used = Rectangle(0, _BAR.y, x, _BAR.height)
    end = scale * result.budget_bytes
    _box(axes, Rectangle(x, _BAR.y, max(end - x, 0), _BAR.height), _FREE, alpha=0.3)
    free = result.budget_bytes - result.total_bytes
    left = f"{result.total_bytes:,} bytes used ({100 * result.total_bytes / result.budget_bytes:.1f} %)"
    axes.text(0, 4.0, left, weight="bold", va="bottom")
    if free >= 0:
        right = f"{free:,} free of {result.budget_bytes:,}"
        axes.text(_WIDTH, 4.0, right, color=MUTED, ha="right", va="bottom")
    else:
        axes.plot([end, end], [_BAR.y - 0.06, _BAR.y + _BAR.height + 0.06], color=_OVER, linewidth=2)
        axes.text(
            _WIDTH,
            4.0,
            f"{-free:,} OVER the budget of {result.budget_bytes:,}",
            color=_OVER,
            weight="bold",
            ha="right",
            va="bottom",
        )
    return used


def _draw_group(made: Drawing, parts: Sequence[Part], frame: Rectangle) -> None:
    heading = 0.16 if len(parts) > 1 and frame.width > 0.55 and frame.height > 0.5 else 0.0
    inner = frame.inset(0.012, top=heading)
    if len(parts) > 1 and heading:
        _say(
            made.axes,
            parts[0].group,
            Rectangle(frame.x, inner.y + inner.height, frame.width, heading),
            INK,
            bold=True,
        )
    for part, cell in zip(parts, squarify([part.num_bytes for part in parts], inner), strict=True):
        colour = COLOURS[part.kind]
        gid = f"part-{len(made.tips)}"
        made.tips[gid] = part.tip
        _box(made.axes, cell, colour, gid=gid)
        text = INK if colour in _DARK_TEXT_ON else "#ffffff"
        _say(made.axes, part.name, cell, "#14181d" if text == INK else text, detail=_bytes(part.num_bytes))


def _box(axes: "Axes", box: Rectangle, colour: str, *, gid: str | None = None, alpha: float = 1.0) -> None:
    from matplotlib.patches import Rectangle as Patch  # noqa: PLC0415 (an extra)

    line = 0.7 if min(box.width, box.height) > 0.05 else 0.25
    axes.add_patch(
        Patch(
            (box.x, box.y),
            box.width,
            box.height,
            facecolor=colour,
            edgecolor=PAPER,
            linewidth=line,
            gid=gid,
            alpha=alpha,
        )
    )


def _say(
    axes: "Axes", whole: str, box: Rectangle, colour: str, *, detail: str = "", bold: bool = False
) -> None:
    """Writes a text into a box and a detail below it, as large as they fit, if that can be read."""
    is_upright = box.height > 2 * box.width
    room, depth = (box.height, box.width) if is_upright else (box.width, box.height)
    whole = legible(whole)
    for text in (whole, whole.rpartition(".")[2]):
        size = min(9.0, (room - 0.06) / (_LETTER * max(len(text), 1)), (depth - 0.02) / _LINE)
        if size >= _EASY_TYPE:
            break
    if size < _SMALLEST_TYPE:
        return
    style: dict[str, Any] = {
        "color": colour,
        "ha": "center",
        "va": "center",
        "rotation": 90 if is_upright else 0,
    }
    height = size * _LINE
    detailed = detail and depth > 2.2 * height and room - 0.06 > _LETTER * size * len(detail) * 0.85
    x, y = box.x + box.width / 2, box.y + box.height / 2
    up = height / 2 if detailed else 0.0
    across, along = (up, 0.0) if is_upright else (0.0, up)
    axes.text(x - across, y + along, text, size=size, weight="bold" if bold else "normal", **style)
    if detailed:
        axes.text(x + across, y - along, detail, size=size * 0.85, alpha=0.85, **style)


def _bytes(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:.2f} MB"
    return f"{value / 1e3:.1f} kB" if value >= 1e3 else f"{value:.0f} B"


def _draw_legend(axes: "Axes", parts: Sequence[Part]) -> None:
    from matplotlib.patches import Patch  # noqa: PLC0415 (an extra)

    sums: dict[Kind, float] = {}
    for part in parts:
        sums[part.kind] = sums.get(part.kind, 0.0) + part.num_bytes
    handles = [Patch(color=COLOURS[kind]) for kind in sums]
    labels = [f"{kind}  {_bytes(total)}" for kind, total in sums.items()]
    axes.legend(
        handles, labels, ncol=len(labels), loc="lower left", bbox_to_anchor=(0.0, -0.02),
        handlelength=0.9, handleheight=0.9, columnspacing=1.6, borderpad=0, borderaxespad=0,
    )  # fmt: skip
