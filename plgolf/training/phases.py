"""The order of a model's layers during a run, where it changes with the run's progress."""

from collections.abc import Iterator
from typing import Any

from plgolf.errors import UserError
from plgolf.model import GPT
from plgolf.model.depth import phases
from plgolf.progress import RunProgress


def set_phase(module: Any, progress: RunProgress) -> None:
    """Sets the order of layers for the next step of a ``GolfModule``.

    Args:
        module: the module.
        progress: of the run after the last step, the same on all ranks.

    Raises:
        UserError: the order changes at a fraction of a run that has no end.
    """
    gpt: GPT = module.gpt
    if len(phases(gpt.config)) == 1:
        return
    if progress.fraction is None:
        limits = "clock.max_seconds or trainer.max_steps"
        raise UserError(f"model.gpt.recurrence.starts must be 0 in a run without {limits}")
    gpt.at(progress.fraction)


def each_phase(gpt: GPT) -> Iterator[float]:
    """Sets the order of layers to each that a run will have, and yields its fraction of the run."""
    for fraction in phases(gpt.config):
        gpt.at(fraction)
        yield fraction
