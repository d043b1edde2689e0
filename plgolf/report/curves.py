"""Metrics that a run logged: one ``metrics.csv``, or several if the run was resumed."""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plgolf.errors import UserError
from plgolf.files import read_regular
from plgolf.report.records import LARGEST

_MAX_CSV_BYTES = 2**27
_SECONDS = "train/seconds"


@dataclass(frozen=True)
class Series:
    """A metric over a run.

    Args:
        steps: int64 (points,), completed optimizer steps, ascending.
        values: float64 (points,), NaN where the logged value was not finite.
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float64]

    def __len__(self) -> int:
        return int(self.steps.size)


@dataclass(frozen=True)
class Curves:
    """All metrics of a run by name, each with at least one value."""

    series: Mapping[str, Series] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Series:
        return self.series.get(name) or _series({})

    @property
    def last_step(self) -> int:
        """Newest step of any metric; 0 without metrics."""
        return max((int(series.steps[-1]) for series in self.series.values()), default=0)

    def seconds_of(self, series: Series) -> NDArray[np.float64] | None:
        """Returns the training seconds at each value of a series, (points,); None if the run logged none.

        Interpolates linearly between two logged times, and from zero seconds at step zero.
        """
        known = self[_SECONDS]
        if not len(known) or not len(series):
            return None
        steps, seconds = np.append(0, known.steps), np.append(0.0, known.values)
        found: NDArray[np.float64] = np.interp(series.steps, steps, seconds)
        return found


def read_curves(paths: Sequence[Path]) -> Curves:
    """Reads the metrics of a run.

    A resumed run repeats the steps after its checkpoint. Where files overlap, the later one in ``paths``
    counts.

    Raises:
        UserError: a file cannot be read or is not a metrics file; the message starts with its path.
    """
    points: dict[str, dict[int, float]] = {}
    for path in paths:
        rows = list(_rows(path))
        first = min((step for step, _, _ in rows), default=math.inf)
        for name, known in points.items():
            points[name] = {step: value for step, value in known.items() if step < first}
        for step, name, value in rows:
            points.setdefault(name, {})[step] = value
    return Curves({name: _series(known) for name, known in points.items() if known})


def _series(points: Mapping[int, float]) -> Series:
    steps = sorted(points)
    return Series(np.array(steps, dtype=np.int64), np.array([points[step] for step in steps], dtype=float))


def _rows(path: Path) -> Iterator[tuple[int, str, float]]:
    data = read_regular(path, max_bytes=_MAX_CSV_BYTES)
    # The last line may be incomplete: the run is still training, or was killed.
    text = data[: data.rfind(b"\n") + 1].decode(errors="replace")
    rows = csv.DictReader(io.StringIO(text, newline=""))
    try:
        if text and "step" not in (rows.fieldnames or ()):
            raise ValueError("has no column step")
        for row in rows:
            if None in row or None in row.values():
                raise ValueError("does not have a cell for each column")
            if row["step"]:
                step = float(row["step"])
                if not 0 <= step < 2**53 or step % 1:
                    raise ValueError(f"step must be a whole number, got {row['step']:.40}")
                for name in row.keys() - {"step", "epoch"}:
                    value = float(row[name] or "nan")
                    is_finite = abs(value) <= LARGEST
                    # Seconds are what other metrics are drawn against, so they must have no gaps.
                    if is_finite or (row[name] and name != _SECONDS):
                        yield int(step), name, value if is_finite else math.nan
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: line {rows.line_num} is not a row of metrics: {error!s:.200}") from error
