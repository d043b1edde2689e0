"""A run as one bar whose length is the time budget, with its figures beside it."""

import math
import time

from rich.console import RenderableType
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from plgolf.console import clock_time, printable
from plgolf.training.logs.console.facts import StepFacts

_REFRESHES_PER_SECOND = 4


class TimeBar:
    """A bar on a terminal; what else is said goes above it.

    Args:
        max_seconds: the time budget; None where steps alone end the run.
        max_steps: what the bar's length is then.
    """

    def __init__(self, max_seconds: float | None, max_steps: int | None) -> None:
        self._by_time = max_seconds is not None
        total = max_seconds if max_seconds is not None else max_steps
        self._bar = Progress(
            BarColumn(bar_width=None),
            TextColumn("{task.description}", markup=False),
            refresh_per_second=_REFRESHES_PER_SECOND,
            expand=True,
        )
        self._figures = ""
        self._moved = -math.inf
        self._task = self._bar.add_task("starting", total=total)

    def start(self) -> None:
        """Begins to draw."""
        self._bar.start()
        # A killed process could not show it again.
        self._bar.console.show_cursor(True)

    def stop(self) -> None:
        """Ends the drawing; the bar stays, with the last step's figures."""
        self._bar.update(self._task, description=self._figures)
        self._bar.stop()

    @property
    def is_due(self) -> bool:
        """True if it is time to redraw the bar: most steps are shorter than that."""
        return time.monotonic() - self._moved >= 1 / _REFRESHES_PER_SECOND

    def step(self, facts: StepFacts) -> None:
        """Moves the bar; it is drawn by a thread of its own, a few times a second."""
        self._moved = time.monotonic()
        budget = "" if facts.max_seconds is None else f"/{facts.max_seconds:g}"
        words = [f"step {facts.step}", f"loss {facts.loss:.4f}", f"{facts.recent_ms:.1f} ms/step"]
        words += [f"lr x{facts.lr_factor:.3f}", f"{facts.elapsed_seconds:.0f}{budget} s"]
        if facts.seconds_left is not None:
            words.append(f"{clock_time(facts.seconds_left)} left")
        self._figures = "  ".join(words)
        done = facts.elapsed_seconds if self._by_time else facts.step
        self._bar.update(self._task, completed=done, description=self._figures)

    def say(self, line: str) -> None:
        self._bar.console.print(Text(printable(line)), soft_wrap=True)

    def show(self, renderable: RenderableType) -> None:
        """Prints above the bar."""
        self._bar.console.print(renderable)

    def live(self, line: str) -> None:
        """Shows beside the bar what is being done, until the next step."""
        self._bar.update(self._task, description=printable(line))
