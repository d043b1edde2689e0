"""Loggers and profilers of a run, with their files in its folder."""

from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.profilers import AdvancedProfiler, PyTorchProfiler, SimpleProfiler

_PROFILERS: dict[str, type[SimpleProfiler | AdvancedProfiler | PyTorchProfiler]] = {
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
    "pytorch": PyTorchProfiler,
}


def run_loggers(wanted: Any, folder: str, *, training: bool) -> Any:
    """Adds CSV files in ``logs`` to the loggers of a fit; ``validate`` logs only to those of the recipe.

    Args:
        wanted: ``trainer.logger``: loggers, a logger, true, false or None.
        folder: folder of the run.
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


def profiler_named(name: str, folder: str) -> Any:
    """Builds a profiler that writes ``fit-profile.txt``, where Lightning's default would write to a log.

    An unknown name is returned as it is, for Lightning to refuse.
    """
    kind = _PROFILERS.get(name)
    return name if kind is None else kind(dirpath=folder, filename="profile")
