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
    """Makes a profiler that writes ``fit-profile.txt``; Lightning's own would print it to a silent log.

    Args:
        name: as ``trainer.profiler`` has it.
        folder: where the report goes, and traces beside it.

    Returns:
        The profiler, or a name that is none of these, for Lightning to judge.
    """
    kind = _PROFILERS.get(name)
    return name if kind is None else kind(dirpath=folder, filename="profile")
