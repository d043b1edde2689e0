"""Console output of rank 0: lines that stay, and progress that is rewritten in place."""

import io
import sys
from typing import TYPE_CHECKING, Protocol

from lightning.pytorch.utilities import rank_zero_only

from plgolf.console import Console, ProgressLine, Terminal

if TYPE_CHECKING:
    from rich.console import RenderableType


class Screen(Console, Protocol):
    """Console that also prints Rich renderables."""

    def show(self, renderable: "RenderableType") -> None:
        """Prints it."""


class _Output(Terminal):
    """Standard output: coloured on a terminal, plain and unwrapped elsewhere."""

    def show(self, renderable: "RenderableType") -> None:
        # Imported here: the reference style needs no Rich.
        from rich.console import Console as RichConsole  # noqa: PLC0415
        from rich.panel import Panel  # noqa: PLC0415

        self.clear()
        rich = RichConsole(file=self.stream, highlight=False, emoji=False, markup=False)
        with rich.capture() as captured:  # On a closed pipe, Rich would end the process.
            rich.print(renderable, soft_wrap=not isinstance(renderable, Panel))
        self.stream.write(captured.get())
        self.stream.flush()


_taken_by: list[Screen] = []


def take_over(screen: Screen | None) -> None:
    """Redirects later output to another screen; None restores standard output."""
    if screen is not None:
        _Output(sys.stdout).clear()
    _taken_by[:] = [] if screen is None else [screen]


def _screen() -> Screen:
    if getattr(rank_zero_only, "rank", 0):
        return _Output(io.StringIO())  # Other ranks print nothing.
    return _taken_by[0] if _taken_by else _Output(sys.stdout)


def say(line: str) -> None:
    """Prints a line on rank 0, at once even into a pipe."""
    _screen().say(line)


def show(renderable: "RenderableType") -> None:
    """Prints a Rich renderable on rank 0."""
    _screen().show(renderable)


def progress(label: str, total: int, noun: str) -> ProgressLine:
    """Returns a progress line for rank 0; takes the arguments of ``ProgressLine``."""
    return ProgressLine(_screen(), label, total, noun)
