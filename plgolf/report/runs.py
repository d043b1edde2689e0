"""The folder of a run: what it left, finished or not."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plgolf.arguments import read_settings
from plgolf.errors import UserError
from plgolf.report.analysis import Analysis, read_analysis
from plgolf.report.curves import Curves, is_of_training, read_curves
from plgolf.report.records import Result, read_result

_MAX_SETTINGS = 10_000


@dataclass(frozen=True)
class Run:
    """A run.

    Args:
        folder: where it left its files.
        name: what it is called.
        result: ``result.json``; None of a run that has not finished.
        curves: its metrics, empty if there are none.
        analysis: ``analysis.json``; None if there is none.
        settings: ``config.yaml``, flat: value by dotted key; None if there is none.
        notes: what a reader should know of how complete this is, a sentence each.
    """

    folder: Path
    name: str
    result: Result | None
    curves: Curves
    analysis: Analysis | None
    settings: Mapping[str, str] | None
    notes: tuple[str, ...] = ()

    @property
    def seed(self) -> int | None:
        """Of everything random."""
        if self.result is not None and self.result.seed is not None:
            return self.result.seed
        written = (self.settings or {}).get("seed_everything", "")
        return int(written) if re.fullmatch(r"\d{1,18}", written) else None


def read_run(folder: Path) -> Run:
    """Reads the folder of a run.

    Args:
        folder: with ``result.json``, or, of a run that has not finished, at least a ``metrics.csv``.

    Returns:
        What is there; ``notes`` says what is not.

    Raises:
        UserError: it is no run's folder, or a file in it is broken; one line that starts with the path.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder")
    result_path, analysis_path, config_path = (
        folder / name for name in ("result.json", "analysis.json", "config.yaml")
    )
    result = read_result(result_path) if result_path.exists() else None
    files, notes = _metrics_files(folder, result)
    if result is None and not files:
        raise UserError(
            f"{folder}: is no run's folder: it has neither result.json nor logs/version_0/metrics.csv"
        )
    curves = read_curves(files)
    if result is None:
        unfinished = "This run has no result.json: it has not finished, or did not come to its export."
        notes = (f"{unfinished} Shown is its newest log, up to step {curves.last_step:,}.", *notes)
    return Run(
        folder=folder,
        name=(result and result.run_name) or folder.resolve().name or "run",
        result=result,
        curves=curves,
        analysis=read_analysis(analysis_path) if result and analysis_path.exists() else None,
        settings=dict(_flat(read_settings(config_path))) if config_path.exists() else None,
        notes=notes,
    )


def _metrics_files(folder: Path, result: Result | None) -> tuple[list[Path], tuple[str, ...]]:
    if result is not None and result.metrics:
        inside = [
            path for path in map(Path, result.metrics) if not path.is_absolute() and ".." not in path.parts
        ]
        there = [folder / path for path in inside if os.path.isfile(folder / path)]
        lost = len(result.metrics) - len(there)
        note = (
            f"{lost} of the {len(result.metrics)} metrics files that result.json names are not in the folder."
        )
        return there, (note,) if lost else ()
    versions = sorted(
        (int(path.parent.name.removeprefix("version_")), path)
        for logs in ("logs", "lightning_logs")
        for path in folder.glob(f"{logs}/version_*/metrics.csv")
        if re.fullmatch(r"version_\d{1,9}", path.parent.name)
    )
    if not versions:
        return [], ("No metrics.csv was found: there are no curves.",) if result is not None else ()
    # A validation has left its log beside those of the run.
    newest = ([path for _, path in versions if is_of_training(path)] or [versions[-1][1]])[-1]
    note = f"Of {len(versions)} logs the newest of training is shown, {newest.relative_to(folder)}."
    return [newest], (note,) if len(versions) > 1 else ()


def _flat(settings: Mapping[Any, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Returns the leaves of a tree of settings, lists written out."""
    pairs: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            pairs += _flat(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", "null" if value is None else _written(value)))
        if len(pairs) > _MAX_SETTINGS:
            raise UserError(f"config.yaml must have at most {_MAX_SETTINGS} settings")
    return pairs


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
