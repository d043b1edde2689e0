"""What a run says on rank 0: lines that stay, progress that is rewritten, and ``ConsoleLog``'s styles."""

import sys
from typing import TYPE_CHECKING, Protocol

from lightning.pytorch.utilities import rank_zero_only

from plgolf.console import Console, ProgressLine, Terminal

if TYPE_CHECKING:
    from rich.console import RenderableType


class Screen(Console, Protocol):
    """A console that can show what Rich renders."""

    def show(self, renderable: "RenderableType") -> None:
        """Prints it."""


class _Output(Terminal):
    """Standard output: in colour on a terminal, plain and unwrapped elsewhere."""

    def show(self, renderable: "RenderableType") -> None:
        # The reference style does without Rich, on a machine that has only what trains.
        from rich.console import Console as RichConsole  # noqa: PLC0415
        from rich.panel import Panel  # noqa: PLC0415

        self.clear()
        rich = RichConsole(file=self.stream, highlight=False, emoji=False, markup=False)
        with rich.capture() as captured:  # Where a pipe is closed it would end the process by itself.
            rich.print(renderable, soft_wrap=not isinstance(renderable, Panel))
        self.stream.write(captured.get())
        self.stream.flush()


class _Silence:
    """Where the other ranks speak."""

    def say(self, line: str) -> None:
        pass

    def live(self, line: str) -> None:
        pass

    def show(self, renderable: "RenderableType") -> None:
        pass


_taken_by: list[Screen] = []


def take_over(screen: Screen | None) -> None:
    """Sends what is said from now on to another screen; None gives it back to standard output."""
    if screen is not None:
        _Output(sys.stdout).clear()
    _taken_by[:] = [] if screen is None else [screen]


def _screen() -> Screen:
    if getattr(rank_zero_only, "rank", 0):
        return _Silence()
    return _taken_by[0] if _taken_by else _Output(sys.stdout)


def say(line: str) -> None:
    """Prints a line on rank 0, at once even into a pipe."""
    _screen().say(line)


def show(renderable: "RenderableType") -> None:
    """Prints what Rich can render, on rank 0."""
    _screen().show(renderable)


def progress(label: str, total: int, noun: str) -> ProgressLine:
    """Returns what shows on rank 0 how far a job of a run is.

    Args:
        label: what is being done.
        total: parts to do.
        noun: what a part is.
    """
    return ProgressLine(_screen(), label, total, noun)
