"""What a run says on rank 0: lines that stay, progress that is rewritten, and ``ConsoleLog``'s styles."""

import sys

from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.panel import Panel

from plgolf.console import Console, Countdown, Terminal


class _Screen:
    """The place of what is said: standard output, unless a bar has taken it over."""

    def __init__(self) -> None:
        self.taken_by: Console | None = None

    def say(self, line: str) -> None:
        (self.taken_by or Terminal(sys.stdout)).say(line)


_screen = _Screen()


def take_over(console: Console | None) -> None:
    """Sends what is said from now on through another console; None gives it back to standard output."""
    _screen.taken_by = console


@rank_zero_only
def say(line: str) -> None:
    """Prints a line on rank 0, at once even into a pipe."""
    _screen.say(line)


@rank_zero_only
def show(renderable: RenderableType) -> None:
    """Prints what Rich can render on rank 0: in colour on a terminal, plain and unwrapped elsewhere."""
    Terminal(sys.stdout).clear()
    rich = RichConsole(file=sys.stdout, highlight=False, emoji=False, markup=False)
    rich.print(renderable, soft_wrap=not isinstance(renderable, Panel))
    sys.stdout.flush()


def progress(label: str, total: int, noun: str) -> Countdown:
    """Returns what shows how far a job of a run is, on rank 0.

    Args:
        label: what is being done.
        total: parts to do.
        noun: what a part is.
    """
    silent = getattr(rank_zero_only, "rank", 0) != 0
    return Countdown(_Silence() if silent else _screen.taken_by or Terminal(sys.stdout), label, total, noun)


class _Silence:
    def say(self, line: str) -> None:
        pass

    def live(self, line: str) -> None:
        pass
