"""How every figure looks, in colours that colour-blind people tell apart; rendering to SVG and PNG."""

import contextlib
import html
import io
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from plgolf.console import printable
from plgolf.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, LINE, PAPER = "#1c2128", "#646d78", "#dfe3e8", "#fefefd"
"""Text, lesser text, grid and background: in a page these follow its light or dark theme."""
_THEME = {INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)", PAPER: "var(--paper)"}
PALETTE = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#999999")
"""Paul Tol's "bright" scheme (https://sronpersonalpages.nl/~pault/)."""
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
NARROW, WIDE = (4.7, 3.0), (9.6, 4.6)
"""Inches: half of a page's width, and all of it. Type of 8 points is then the page's small print."""
_DPI = 180
_DIRECTIONS = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "path.simplify": True,
    "path.simplify_threshold": 0.3,
}


@dataclass(frozen=True)
class Picture:
    """A figure, rendered.

    Args:
        name: of its file.
        title: what it shows, in a few words.
        caption: what a reader should know of it.
        svg: for a page: an ``<svg>`` element that takes its colours from the page.
        png: for everything else.
        is_wide: it wants the whole width of a page.
    """

    name: str
    title: str
    caption: str
    svg: str
    png: bytes
    is_wide: bool = False


@dataclass
class Drawing:
    """A figure in the making.

    Args:
        figure: matplotlib's.
        axes: its only axes.
        tips: texts that a page shows over an artist, by its gid.
    """

    figure: "Figure"
    axes: "Axes"
    tips: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def drawing(size: tuple[float, float] = NARROW) -> Iterator[Drawing]:
    """Gives a figure in the house's style; what is drawn in the block takes its settings.

    Args:
        size: inches.

    Raises:
        UserError: matplotlib is missing.
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415 (an extra)
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise UserError("a report needs the matplotlib package: pip install matplotlib") from error
    with mpl.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=size, layout="constrained", facecolor="none")
        yield Drawing(figure, figure.add_subplot())


def rendered(made: Drawing, name: str, title: str, caption: str = "") -> Picture:
    """Renders a figure; to be called within its block.

    Args:
        made: the figure.
        name: of its file.
        title: what it shows.
        caption: what a reader should know of it.
    """
    svg = svg_of(made, name, title)
    made.figure.set_layout_engine("none")  # Its layout is found; finding it takes as long as drawing.
    is_wide = bool(made.figure.get_figwidth() > NARROW[0])
    return Picture(name, title, caption, svg, png_of(made), is_wide)


def png_of(made: Drawing) -> bytes:
    """Renders a figure as PNG on white; to be called within its block."""
    buffer = io.BytesIO()
    made.figure.savefig(buffer, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def svg_of(made: Drawing, name: str, title: str) -> str:
    """Renders a figure as an element of a page; to be called within its block.

    Args:
        made: the figure.
        name: unlike that of any other in the page, as the identifiers inside are made of it.
        title: what it shows, for those who cannot see it.
    """
    import matplotlib as mpl  # noqa: PLC0415 (an extra)

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": name}):
        made.figure.savefig(buffer, format="svg", metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]+)"', svg)
    assert box is not None
    opening = f'<svg viewBox="{box[1]}" role="img" aria-label="{html.escape(title)}">'
    svg = opening + svg[svg.index(">") + 1 :]
    for colour, variable in _THEME.items():
        svg = svg.replace(colour, variable)
    return _unlike_others(_with_tips(svg, made.tips), name)


def _unlike_others(svg: str, name: str) -> str:
    """Makes identifiers that matplotlib counts, such as axes_1, this figure's own."""
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(xlink:)?href="#', f'href="#{name}-', svg)
    return svg.replace("url(#", f"url(#{name}-")


def _with_tips(svg: str, tips: Mapping[str, str]) -> str:
    for gid, tip in tips.items():
        svg = svg.replace(f'<g id="{gid}">', f'<g id="{gid}"><title>{html.escape(legible(tip))}</title>', 1)
    return svg


def legible(text: object) -> str:
    """Returns a text of which every letter can be drawn: no control, turn of direction or half of a pair."""
    safe = str(text).encode(errors="replace").decode()
    return _DIRECTIONS.sub("\ufffd", printable(safe))


def legend_label(text: str) -> str:
    """Returns a text as a label of one line: matplotlib hides what begins with an underscore."""
    text = " ".join(legible(text).split()).lstrip("_") or "run"
    return text if len(text) <= 40 else f"{text[:38]}…"


def short(value: float) -> str:
    """Returns a number in few letters, for an axis: 500, 2k, 1.5M."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"
