"""Loggers of a run: those of the recipe, and CSV files beside them."""

from typing import Any

from lightning.pytorch.loggers import CSVLogger


def run_loggers(wanted: Any, folder: str, *, training: bool) -> Any:
    """Adds CSV files to the loggers of a fit; ``validate`` logs only to the loggers of the recipe.

    Args:
        wanted: ``trainer.logger``: loggers, a logger, true, false or None.
        folder: folder of the run; the files go to ``logs`` in it.
        training: True for a fit.

    Returns:
        What the Trainer takes.
    """
    if wanted is False:
        return False
    named = [] if wanted in (None, True) else wanted if isinstance(wanted, list) else [wanted]
    if training and not any(isinstance(logger, CSVLogger) for logger in named):
        named = [*named, CSVLogger(folder, name="logs")]
    return named or False
