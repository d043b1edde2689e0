"""Squarified treemaps: a frame cut into rectangles of given areas, each as square as possible.

The layout of Bruls, Huizing and van Wijk, "Squarified Treemaps" (2000).
"""

from collections.abc import Sequence
from typing import NamedTuple

_TINY = 1e-12


class Rectangle(NamedTuple):
    """A rectangle by its lower left corner; it extends to the right and upwards."""

    x: float
    y: float
    width: float
    height: float

    @property
    def area(self) -> float:
        """Width times height."""
        return self.width * self.height

    def inset(self, margin: float, *, top: float = 0.0) -> "Rectangle":
        """Returns the inside of a margin, at most a tenth of a side, and of a heading at the top."""
        across, along = min(margin, self.width / 10), min(margin, self.height / 10)
        width, height = self.width - 2 * across, self.height - 2 * along - top
        return Rectangle(self.x + across, self.y + along, width, height)


def squarify(sizes: Sequence[float], frame: Rectangle) -> list[Rectangle]:
    """Cuts a frame into a rectangle for each size, the largest at the upper left.

    Areas are proportional to the positive sizes, and the rectangles fill the frame without overlaps.
    """
    if frame.area <= 0:
        return [frame] * len(sizes)
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    scale = frame.area / sum(sizes, start=_TINY)
    areas = [max(scale * sizes[i], _TINY) for i in order]
    placed: list[Rectangle] = []
    rest = frame
    while (start := len(placed)) < len(areas):
        is_wide, side = rest.width >= rest.height, max(min(rest.width, rest.height), _TINY)
        end = start + 1
        while end < len(areas) and _worst(areas[start : end + 1], side) <= _worst(areas[start:end], side):
            end += 1
        strip, rest = _cut(rest, sum(areas[start:end]) / sum(areas[start:]), at_left=is_wide)
        for i in range(start, end):
            cell, strip = _cut(strip, areas[i] / sum(areas[i:end]), at_left=not is_wide)
            placed.append(cell)
    return [cell for _, cell in sorted(zip(order, placed, strict=True))]


def _worst(areas: Sequence[float], side: float) -> float:
    """Returns the largest ratio of sides if areas, largest first, share a strip along a side."""
    thickness = sum(areas) / side
    return max(areas[0] / thickness**2, thickness**2 / areas[-1])


def _cut(rectangle: Rectangle, share: float, *, at_left: bool) -> tuple[Rectangle, Rectangle]:
    """Cuts a share of a rectangle off, at its left or at its top, and returns it and the rest."""
    x, y, width, height = rectangle
    if at_left:
        taken = width * share
        return Rectangle(x, y, taken, height), Rectangle(x + taken, y, width - taken, height)
    taken = height * share
    return Rectangle(x, y + height - taken, width, taken), Rectangle(x, y, width, height - taken)
