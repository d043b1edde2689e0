"""Squarified treemaps: a frame cut into rectangles whose areas are as given, each as square as can be.

The layout of Bruls, Huizing and van Wijk, "Squarified Treemaps" (2000).
"""

from collections.abc import Sequence
from typing import NamedTuple


class Rectangle(NamedTuple):
    """An upright rectangle.

    Args:
        x: of its left edge.
        y: of its lower edge.
        width: to the right.
        height: upwards.
    """

    x: float
    y: float
    width: float
    height: float

    @property
    def area(self) -> float:
        """Width times height."""
        return self.width * self.height

    def inset(self, margin: float, *, top: float = 0.0) -> "Rectangle":
        """Returns what is left inside a margin, and below a heading; of a small one most is left."""
        across, along = min(margin, self.width / 10), min(margin, self.height / 10)
        return Rectangle(
            self.x + across, self.y + along, self.width - 2 * across, self.height - 2 * along - top
        )


def squarify(sizes: Sequence[float], frame: Rectangle) -> list[Rectangle]:
    """Cuts a frame into rectangles, the largest at the upper left.

    Args:
        sizes: positive numbers, in any order and unit.
        frame: what they fill together.

    Returns:
        A rectangle for each size, in the order of the sizes: areas are proportional to sizes, no two overlap,
        and together they are the frame.
    """
    assert all(size > 0 for size in sizes)
    if frame.area <= 0:
        return [frame] * len(sizes)
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    scale = frame.area / (sum(sizes) or 1.0)
    areas = [sizes[i] * scale for i in order]
    placed: list[Rectangle] = []
    rest = frame
    while len(placed) < len(areas):
        row = _row(areas, len(placed), min(rest.width, rest.height))
        upright = rest.width >= rest.height
        cut, rest = _split(rest, sum(row), is_last=len(placed) + len(row) == len(areas))
        placed += _fill(cut, row, upright=upright)
    by_size: list[Rectangle] = [frame] * len(sizes)
    for i, rectangle in zip(order, placed, strict=True):
        by_size[i] = rectangle
    return by_size


def _row(areas: Sequence[float], start: int, side: float) -> Sequence[float]:
    """Takes areas for as long as the least square of them gets no worse."""
    total, end, worst = 0.0, start, float("inf")
    while end < len(areas):
        total += areas[end]
        thickness = max(total / max(side, 1e-300), 1e-300)
        longest, shortest = areas[start] / thickness, areas[end] / thickness
        now = max(longest / thickness, thickness / max(shortest, 1e-300))
        if now > worst:
            break
        worst, end = now, end + 1
    return areas[start:end]


def _split(rest: Rectangle, area: float, *, is_last: bool) -> tuple[Rectangle, Rectangle]:
    """Cuts a strip along the shorter side off: at the left of a wide frame, at the top of a tall one."""
    x, y, width, height = rest
    if is_last:
        return rest, Rectangle(x, y, 0.0, 0.0)
    if width >= height:
        taken = min(area / max(height, 1e-300), width)
        return Rectangle(x, y, taken, height), Rectangle(x + taken, y, width - taken, height)
    taken = min(area / max(width, 1e-300), height)
    return Rectangle(x, y + height - taken, width, taken), Rectangle(x, y, width, height - taken)


def _fill(strip: Rectangle, areas: Sequence[float], *, upright: bool) -> list[Rectangle]:
    """Cuts a strip across: from the top where it is upright, else from the left."""
    total, done, filled = sum(areas), 0.0, []
    for area in areas:
        begin, end = done / total, (done + area) / total
        if upright:
            top, bottom = strip.height * (1 - begin), strip.height * (1 - end)
            filled.append(Rectangle(strip.x, strip.y + bottom, strip.width, top - bottom))
        else:
            left, right = strip.width * begin, strip.width * end
            filled.append(Rectangle(strip.x + left, strip.y, right - left, strip.height))
        done += area
    return filled
