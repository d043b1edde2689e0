"""Bytes by part: the budget as a bar, and the used part of it as a treemap."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from plgolf.report.records import Result, TensorRecord
from plgolf.report.style import INK, MUTED, PALETTE, PAPER, Drawing, legible
from plgolf.report.treemap import Rectangle, squarify

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    "matrix": PALETTE[0],
    "embedding": PALETTE[2],
    "head": PALETTE[4],
    "scalar": PALETTE[5],
    "model": PALETTE[0],
    "tokenizer": PALETTE[3],
    "code": PALETTE[1],
}
"""Colours of tensors by role, and of the parts of a submission."""
_DARK_TEXT, _NEEDS_DARK_TEXT = "#14181d", {PALETTE[1], PALETTE[3], PALETTE[4]}
_FREE, _OVER = "#8c96a3", "#bb2222"
# In units of about an inch of the figure, so that the width of a text can be estimated.
_WIDTH = 9.5
_BAR = Rectangle(0.0, 3.62, _WIDTH, 0.26)
_MAP = Rectangle(0.0, 0.0, _WIDTH, 3.22)
_CHARACTER, _LINE = 0.0086, 0.0165
"""Width of a wide character of DejaVu Sans and height of a line, in inches per point of size."""
_EASY_SIZE, _SMALLEST_SIZE = 7.5, 4.8


def _bytes(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:.2f} MB"
    return f"{value / 1e3:.1f} kB" if value >= 1e3 else f"{value:.0f} B"


class Part(NamedTuple):
    """A part of the submission in a group such as a block; ``kind`` is a key of ``COLOURS``."""

    name: str
    group: str
    kind: str
    num_bytes: float
    tip: str


def parts_of(result: Result) -> list[Part]:
    """Returns tensors, tokenizer and code, which add up to ``total_bytes``.

    The artifact is compressed as a whole, so a tensor has no bytes of its own in it. It gets the share of the
    file that its payload has when each tensor is compressed on its own.
    """
    whole, alone = result.parts, sum(tensor.compressed_bytes for tensor in result.tensors)
    scale = whole.pop("model", 0) / alone if alone else 0.0
    parts = [_tensor_part(tensor, scale) for tensor in result.tensors]
    parts += [Part(name, name, name, size, f"{name}: {size:,} bytes") for name, size in whole.items()]
    return [part for part in parts if part.num_bytes > 0]


def _tensor_part(tensor: TensorRecord, scale: float) -> Part:
    group = name = tensor.name
    if found := re.match(r"(.*?)\.?(\d+)\.(.+)", name):
        group, name = f"{found[1].rpartition('.')[2].removesuffix('s')} {found[2]}", found[3]
    shape = " x ".join(map(str, tensor.shape)) or "a number"
    kept = f"{tensor.kept} by {tensor.codec}" if tensor.codec else tensor.kept
    tip = (
        f"{tensor.name}: {tensor.num_params:,} parameters ({shape}), {tensor.role}, as {kept}; "
        f"{tensor.compressed_bytes:,} bytes compressed on its own"
    )
    return Part(name.removesuffix(".weight"), group, tensor.role, tensor.compressed_bytes * scale, tip)


def draw_ledger(made: Drawing, result: Result) -> None:
    """Draws the budget as a bar to scale, and below it the used part, magnified, on a wide figure."""
    axes, parts = made.axes, parts_of(result)
    axes.set_axis_off()
    axes.set(xlim=(0, _WIDTH), ylim=(-0.32, 4.28))
    used = _draw_bar(axes, result)
    top = _MAP.y + _MAP.height
    axes.fill([0, used, _WIDTH, 0], [_BAR.y, _BAR.y, top, top], color=_FREE, alpha=0.18, linewidth=0)
    groups: dict[str, list[Part]] = {}
    for part in parts:
        groups.setdefault(part.group, []).append(part)
    frames = squarify([sum(part.num_bytes for part in group) for group in groups.values()], _MAP)
    for group, frame in zip(groups.values(), frames, strict=True):
        _draw_group(made, group, frame)
    _draw_legend(axes, parts)


def _draw_bar(axes: "Axes", result: Result) -> float:
    """Draws the budget and returns the right end of its used part."""
    budget, total = result.budget_bytes, result.total_bytes
    scale, used = _WIDTH / max(budget, total), 0.0
    for kind, size in result.parts.items():
        _draw_box(axes, Rectangle(used, _BAR.y, scale * size, _BAR.height), COLOURS[kind])
        used += scale * size
    end = scale * budget
    _draw_box(axes, Rectangle(used, _BAR.y, max(end - used, 0), _BAR.height), _FREE, alpha=0.3)
    style: Any = {"ha": "right", "va": "bottom"}
    axes.text(0, 4.0, f"{total:,} bytes used ({100 * total / budget:.1f} %)", weight="bold", va="bottom")
    if result.within_budget:
        axes.text(_WIDTH, 4.0, f"{budget - total:,} free of {budget:,}", color=MUTED, **style)
    else:
        axes.plot([end, end], [_BAR.y - 0.06, _BAR.y + _BAR.height + 0.06], color=_OVER, linewidth=2)
        over = f"{total - budget:,} OVER the budget of {budget:,}"
        axes.text(_WIDTH, 4.0, over, color=_OVER, weight="bold", **style)
    return used


def _draw_group(made: Drawing, parts: Sequence[Part], frame: Rectangle) -> None:
    heading = 0.16 if len(parts) > 1 and frame.width > 0.55 and frame.height > 0.5 else 0.0
    inner = frame.inset(0.012, top=heading)
    if heading:
        above = Rectangle(frame.x, inner.y + inner.height, frame.width, heading)
        _draw_text(made.axes, parts[0].group, above, INK, weight="bold")
    for part, cell in zip(parts, squarify([part.num_bytes for part in parts], inner), strict=True):
        colour = COLOURS[part.kind]
        gid = f"part-{len(made.tips)}"
        made.tips[gid] = part.tip
        _draw_box(made.axes, cell, colour, gid=gid)
        ink = _DARK_TEXT if colour in _NEEDS_DARK_TEXT else "#ffffff"
        _draw_text(made.axes, part.name, cell, ink, detail=_bytes(part.num_bytes))


def _draw_box(axes: "Axes", box: Rectangle, colour: str, **style: Any) -> None:
    from matplotlib.patches import Rectangle as Patch  # noqa: PLC0415 (an extra)

    line = 0.7 if min(box.width, box.height) > 0.05 else 0.25
    axes.add_patch(
        Patch(box[:2], box.width, box.height, facecolor=colour, edgecolor=PAPER, linewidth=line, **style)
    )


def _draw_text(
    axes: "Axes", whole: str, box: Rectangle, colour: str, *, detail: str = "", weight: str = "normal"
) -> None:
    """Writes a text and a detail below it into a box, as large as they fit; nothing if that is too small."""
    is_upright = box.height > 2 * box.width
    room, depth = (box.height, box.width) if is_upright else (box.width, box.height)
    whole = legible(whole)
    for text in (whole, whole.rpartition(".")[2]):
        size = min(9.0, (room - 0.06) / (_CHARACTER * max(len(text), 1)), (depth - 0.02) / _LINE)
        if size >= _EASY_SIZE:
            break
    if size < _SMALLEST_SIZE:
        return
    height = size * _LINE
    has_detail = detail and depth > 2.2 * height and room - 0.06 > _CHARACTER * size * len(detail) * 0.85
    up = height / 2 if has_detail else 0.0
    x, y = box.x + box.width / 2, box.y + box.height / 2
    across, along = (up, 0.0) if is_upright else (0.0, up)
    style: Any = {"color": colour, "ha": "center", "va": "center", "rotation": 90 if is_upright else 0}
    axes.text(x - across, y + along, text, size=size, weight=weight, **style)
    if has_detail:
        axes.text(x + across, y - along, detail, size=size * 0.85, alpha=0.85, **style)


def _draw_legend(axes: "Axes", parts: Sequence[Part]) -> None:
    from matplotlib.patches import Patch  # noqa: PLC0415 (an extra)

    sums: dict[str, float] = {}
    for part in parts:
        sums[part.kind] = sums.get(part.kind, 0.0) + part.num_bytes
    handles = [Patch(color=COLOURS[kind], label=f"{kind}  {_bytes(total)}") for kind, total in sums.items()]
    axes.legend(
        handles=handles, ncol=len(handles), loc="lower left", bbox_to_anchor=(0.0, -0.02),
        handlelength=0.9, handleheight=0.9, columnspacing=1.6, borderpad=0, borderaxespad=0,
    )  # fmt: skip
