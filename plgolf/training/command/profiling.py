"""Lightning's profilers by their short names, with their reports in the run's folder."""

from lightning.pytorch.profilers import (
    AdvancedProfiler,
    Profiler,
    PyTorchProfiler,
    SimpleProfiler,
)

_PROFILERS: dict[str, type[SimpleProfiler | AdvancedProfiler | PyTorchProfiler]] = {
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
    "pytorch": PyTorchProfiler,
}


def profiler_named(name: str, folder: str) -> Profiler | str:
    """Builds a profiler that writes ``fit-profile.txt``; Lightning's default is a log, which is silenced.

    Args:
        name: value of ``trainer.profiler``.
        folder: folder for the report and for traces.

    Returns:
        The profiler; an unknown name is returned as it is, for Lightning to refuse.
    """
    kind = _PROFILERS.get(name)
    return name if kind is None else kind(dirpath=folder, filename="profile")
