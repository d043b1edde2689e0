"""Style of all figures, in colours that colour-blind people can tell apart; rendering to SVG and PNG."""

import contextlib
import html
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plgolf.console import printable
from plgolf.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, LINE, PAPER = "#1c2128", "#646d78", "#dfe3e8", "#fefefd"
"""Text, less important text, grid and background; in a page they follow its light or dark theme."""
_THEME = {INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)", PAPER: "var(--paper)"}
PALETTE = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#999999")
"""Paul Tol's "bright" scheme (https://sronpersonalpages.nl/~pault/)."""
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
NARROW, WIDE = (4.7, 3.0), (9.6, 4.6)
"""Width and height in inches: half the page's width, and all of it. 8 points are the page's small print."""
_DPI = 180
_STYLE = Path(__file__).with_name("figures.mplstyle")
_DIRECTIONS = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Picture:
    """A rendered figure: an ``<svg>`` element that takes its colours from the page, and a PNG on white."""

    name: str
    caption: str
    svg: str
    png: bytes
    is_wide: bool = False


@dataclass
class Drawing:
    """A figure with one pair of axes; to be rendered within the block of ``drawing``."""

    figure: "Figure"
    axes: "Axes"
    tips: dict[str, str] = field(default_factory=dict)
    """Texts that a page shows over an artist, by its gid."""

    def name_rows(self, names: Sequence[str]) -> None:
        """Labels horizontal rows, the first on top."""
        self.axes.set_yticks(range(len(names)), [legend_label(name) for name in names], color=INK)
        self.axes.set_ylim(len(names) - 0.4, -0.6)
        self.axes.grid(visible=False, axis="y")
        self.axes.spines["left"].set_visible(False)

    def use_log_x(self) -> None:
        """Makes the horizontal axis logarithmic, with labels at powers of ten only."""
        self.axes.set_xscale("log")
        self.axes.xaxis.set_minor_formatter(lambda _value, _: "")

    def picture(self, name: str, title: str, caption: str = "", *, x: str = "", y: str = "") -> Picture:
        """Labels and renders the figure; ``x`` and ``y`` are labels of the axes."""
        if self.axes.axison:
            self.axes.set(title=title, xlabel=x, ylabel=y)
        svg = self._svg(name, title)
        self.figure.set_layout_engine("none")  # To do the layout again takes as long as drawing.
        return Picture(name, caption, svg, self.png(), bool(self.figure.get_figwidth() > NARROW[0]))

    def png(self) -> bytes:
        """Renders the figure as PNG on white."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})
        return buffer.getvalue()

    def _svg(self, name: str, title: str) -> str:
        import matplotlib as mpl  # noqa: PLC0415 (an extra)

        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        with mpl.rc_context({"svg.hashsalt": name}):
            self.figure.savefig(buffer, format="svg", metadata=nothing)
        svg = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
        for gid, tip in self.tips.items():
            opening = f'<g id="{gid}">'
            svg = svg.replace(opening, f"{opening}<title>{html.escape(legible(tip))}</title>", 1)
        for colour, variable in _THEME.items():
            svg = svg.replace(colour, variable)
        # matplotlib counts identifiers, such as axes_1, in each figure; a page needs each one once.
        svg = re.sub(r'\bid="', f'id="{name}-', svg)
        svg = re.sub(r'((xlink:)?href="#|url\(#)', rf"\g<1>{name}-", svg)
        box = re.search(r'<svg[^>]* viewBox="([^"]+)"[^>]*>', svg)
        assert box is not None
        return f'<svg viewBox="{box[1]}" role="img" aria-label="{html.escape(title)}">' + svg[box.end() :]


@contextlib.contextmanager
def drawing(size: tuple[float, float] = NARROW, *, num_rows: int = 0) -> Iterator[Drawing]:
    """Opens a figure of a size in inches, higher if many rows must fit, and sets the report's style.

    Raises:
        UserError: matplotlib is missing.
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415 (an extra)
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise UserError("plgolf report needs matplotlib: pip install matplotlib") from error
    with mpl.rc_context(fname=_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        size = size[0], max(size[1], 0.8 + 0.19 * num_rows)
        figure = Figure(figsize=size, layout="constrained", facecolor="none")
        yield Drawing(figure, figure.add_subplot())


def legible(text: object) -> str:
    """Returns a text without control characters, changes of direction and half surrogates."""
    safe = str(text).encode(errors="replace").decode()
    return _DIRECTIONS.sub("\ufffd", printable(safe))


def legend_label(text: str) -> str:
    """Returns a text as a label of one line; matplotlib hides labels that begin with an underscore."""
    text = " ".join(legible(text).split()).lstrip("_") or "run"
    return text if len(text) <= 40 else f"{text[:38]}…"


def short(value: float) -> str:
    """Returns a number in few characters, for an axis: 500, 2k, 1.5M."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"
