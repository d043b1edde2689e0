"""Progress of a score on the console; packed code does without it."""

from typing import Any

from plgolf.evaluate.evaluator import Observer
from plgolf.evaluate.targets import Targets
from plgolf.training.logs.screen import progress


def scoring_progress(targets: Targets) -> Observer:
    """Returns an observer that shows how many of this rank's targets are scored."""
    line, done = progress("scoring", targets.last - targets.first, "tokens"), [0]

    def show(scored: Any, _: Any) -> None:
        done[0] += scored.nats.numel()
        line.show(done[0])

    return show
