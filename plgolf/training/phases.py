"""The order of a model's layers during a run, where it changes with the run's progress."""

from typing import Any

from plgolf.errors import UserError
from plgolf.model import GPT
from plgolf.progress import RunProgress


def set_phase(module: Any, progress: RunProgress) -> None:
    """Sets the order of layers for the next step of a ``GolfModule`` whose layers recur.

    Args:
        module: the module.
        progress: of the run after the last step, the same on all ranks. A run that is over has no next step:
            the model stays as it was trained.

    Raises:
        UserError: the order changes at a fraction of a run that has no end.
    """
    gpt: GPT = module.gpt
    recurrence = gpt.config.recurrence
    if progress.fraction is None and recurrence is not None and recurrence.starts:
        limits = "clock.max_seconds or trainer.max_steps"
        raise UserError(f"model.gpt.recurrence.starts must be 0 in a run without {limits}")
    if progress.fraction != 1:
        gpt.at(progress.fraction or 0.0)
