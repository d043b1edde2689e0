"""What a run logged, as curves: ``metrics.csv``, or several of a run that was resumed."""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plgolf.errors import UserError
from plgolf.regular_files import open_regular, read_regular
from plgolf.report.json_files import LARGEST

_MAX_CSV_BYTES = 2**27
_MAX_FILES = 1000
_MAX_HEADER_BYTES = 2**16
_SECONDS = "train/seconds"


@dataclass(frozen=True)
class Series:
    """A metric over a run.

    Args:
        steps: int64, completed optimizer steps, rising.
        values: float64, as many; a loss that was no number, or beyond all reason, is nan.
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float64]

    def __len__(self) -> int:
        return int(self.steps.size)

    @property
    def last(self) -> float:
        """The newest value."""
        return float(self.values[-1])


_EMPTY = Series(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float64))


@dataclass(frozen=True)
class Curves:
    """All metrics of a run.

    Args:
        series: by the metric's name, each with at least one value.
    """

    series: Mapping[str, Series] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Series:
        return self.series.get(name, _EMPTY)

    @property
    def last_step(self) -> int:
        """The newest step of any metric; 0 of none."""
        return max((int(series.steps[-1]) for series in self.series.values()), default=0)

    def seconds_of(self, series: Series) -> NDArray[np.float64] | None:
        """Returns the training seconds at each value of a series.

        Between two logged times they are linear, and before the first since zero seconds at step zero.

        Returns:
            As many as there are values; None if the run logged no seconds.
        """
        known = self[_SECONDS]
        if not len(known) or not len(series):
            return None
        steps = np.concatenate([[0], known.steps])
        seconds: NDArray[np.float64] = np.interp(series.steps, steps, np.concatenate([[0.0], known.values]))
        return seconds


def is_of_training(path: Path) -> bool:
    """Returns whether a file's first line names the training loss.

    Raises:
        UserError: it cannot be read; the message starts with the path.
    """
    with open_regular(path) as file:
        return b"train/loss" in file.readline(_MAX_HEADER_BYTES)


def read_curves(paths: Sequence[Path]) -> Curves:
    """Reads the metrics of a run.

    A run that was resumed goes on from a checkpoint: rows that an earlier file has from the first step of a
    later one on were done anew, and are dropped.

    Args:
        paths: the files, oldest first.

    Raises:
        UserError: one cannot be read or is none; the message starts with its path.
    """
    if len(paths) > _MAX_FILES:
        raise UserError(f"a run must have at most {_MAX_FILES} metrics files, got {len(paths)}")
    points: dict[str, dict[int, float]] = {}
    for path in paths:
        rows = list(_rows(path))
        if not rows:
            continue
        first = min(step for step, _, _ in rows)
        for known in points.values():
            for step in [step for step in known if step >= first]:
                del known[step]
        for step, name, value in rows:
            if name == _SECONDS and math.isnan(value):
                continue  # Other metrics are drawn against it: it has no gaps.
            points.setdefault(name, {})[step] = value
    return Curves({name: _series(known) for name, known in points.items() if known})


def _series(points: Mapping[int, float]) -> Series:
    steps = sorted(points)
    return Series(
        np.array(steps, dtype=np.int64), np.array([points[step] for step in steps], dtype=np.float64)
    )


def _rows(path: Path) -> Iterator[tuple[int, str, float]]:
    data = read_regular(path, max_bytes=_MAX_CSV_BYTES)
    # A run that is under way, or was killed, may have left half a line.
    whole = data[: data.rfind(b"\n") + 1]
    try:
        reader = csv.reader(io.StringIO(whole.decode(), newline=""))
        header = next(reader, [])
        if header and "step" not in header:
            raise UserError(f"{path}: must have a column step, got {', '.join(header):.100}")
        at = header.index("step") if header else 0
        for cells in reader:
            if len(cells) != len(header):
                raise UserError(
                    f"{path}: line {reader.line_num}: must have {len(header)} cells, got {len(cells)}"
                )
            if cells[at] == "":
                continue
            step = _step(cells[at], path, reader.line_num)
            for name, cell in zip(header, cells, strict=True):
                if cell and name not in ("step", "epoch"):
                    yield step, name, _number(cell, path, reader.line_num)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: is no CSV: {error}") from error


def _step(cell: str, path: Path, line: int) -> int:
    step = _number(cell, path, line)
    if not 0 <= step < 2**53 or step != int(step):
        raise UserError(f"{path}: line {line}: step must be a whole number, got {cell:.40}")
    return int(step)


def _number(cell: str, path: Path, line: int) -> float:
    try:
        value = float(cell)
    except ValueError:
        raise UserError(f"{path}: line {line}: must hold numbers, got {cell:.40}") from None
    return value if abs(value) <= LARGEST else math.nan
