"""The folder of a run: what the run left there, finished or not."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plgolf.arguments import read_settings
from plgolf.errors import UserError
from plgolf.files import open_regular
from plgolf.report.curves import Curves, read_curves
from plgolf.report.records import Analysis, Result, read_record

_MAX_HEADER_BYTES = 2**16


@dataclass(frozen=True)
class Run:
    """A run.

    Args:
        result: None if the run has not finished.
        settings: ``config.yaml`` as values by dotted key, empty if there is none.
        notes: what is missing, a sentence each.
        name: name in the report; by default the folder's.
    """

    folder: Path
    result: Result | None
    curves: Curves
    analysis: Analysis | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.folder.resolve().name or "run")

    @property
    def seed(self) -> int | None:
        """Seed of the run; None if it was not seeded."""
        if self.result is not None and self.result.seed is not None:
            return self.result.seed
        written = self.settings.get("seed_everything", "")
        return int(written) if re.fullmatch(r"\d{1,18}", written) else None


def read_run(folder: Path) -> Run:
    """Reads the folder of a run: ``result.json``, or at least a ``metrics.csv`` if it has not finished.

    Raises:
        UserError: the folder holds no run, or a file in it is broken; the message starts with the path.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder")
    analysis_path, settings_path = folder / "analysis.json", folder / "config.yaml"
    result = read_record(Result, path) if (path := folder / "result.json").exists() else None
    files, notes = _metrics_files(folder, result)
    if result is None and not files:
        raise UserError(f"{folder}: must hold a run: result.json or logs/version_0/metrics.csv")
    curves = read_curves(files)
    if result is None:
        unfinished = "This run has no result.json: it has not finished, or stopped before its export."
        notes = (f"{unfinished} The page shows its newest log, up to step {curves.last_step:,}.", *notes)
    return Run(
        folder=folder,
        result=result,
        curves=curves,
        analysis=read_record(Analysis, analysis_path) if result and analysis_path.exists() else None,
        settings=dict(_flat(read_settings(settings_path))) if settings_path.exists() else {},
        notes=notes,
    )


def _metrics_files(folder: Path, result: Result | None) -> tuple[list[Path], tuple[str, ...]]:
    if result is not None and result.metrics:
        listed = [Path(path) for path in result.metrics]
        inside = [path for path in listed if not path.is_absolute() and ".." not in path.parts]
        found = [folder / path for path in inside if (folder / path).is_file()]
        lost = len(listed) - len(found)
        note = f"{lost} of the {len(listed)} metrics files that result.json lists are not in the folder."
        return found, (note,) if lost else ()
    versions = sorted(
        (int(path.parent.name.removeprefix("version_")), path)
        for logs in ("logs", "lightning_logs")
        for path in folder.glob(f"{logs}/version_*/metrics.csv")
        if re.fullmatch(r"version_\d{1,9}", path.parent.name)
    )
    if not versions:
        return [], ("The folder has no metrics.csv, so there are no curves.",) if result is not None else ()
    # A validation of the run leaves its own log in the same place.
    newest = ([path for _, path in versions if _has_training_loss(path)] or [versions[-1][1]])[-1]
    note = f"The folder has {len(versions)} logs; the page shows {newest.relative_to(folder)}."
    return [newest], (note,) if len(versions) > 1 else ()


def _has_training_loss(path: Path) -> bool:
    with open_regular(path) as file:
        return b"train/loss" in file.readline(_MAX_HEADER_BYTES)


def _flat(settings: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields the leaves of a tree of settings as they would be written in YAML."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            written = str(value).lower() if isinstance(value, bool) else str(value)
            yield f"{prefix}{key}", "null" if value is None else written
