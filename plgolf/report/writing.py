"""Reads runs, draws them and writes a page with its pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from plgolf.errors import UserError
from plgolf.files import write_atomically
from plgolf.report.comparison import Row, compare
from plgolf.report.groups import read_groups
from plgolf.report.page import page_compared, page_of
from plgolf.report.pictures import NAMES, pictures_compared, pictures_of
from plgolf.report.style import Picture


class Written(NamedTuple):
    """A report on disk; ``rows`` is empty for one run, ``notes`` are sentences."""

    page: Path
    pictures: list[Path]
    rows: list[Row]
    notes: list[str]


def write_report(words: Sequence[str], out: Path | None = None) -> Written:
    """Writes the report of one run, or of several compared.

    Args:
        words: runs, as ``read_groups`` takes them.
        out: the HTML file; by default ``report.html``, in the run's folder for one run. Pictures go to a
            folder beside it with its name without the ending.

    Raises:
        UserError: a run cannot be read, matplotlib is missing, or the report cannot be written.
    """
    if out is not None and out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"out must end in .html, got {out}")
    groups = read_groups(words)
    runs, rows = [run for group in groups for run in group.runs], list[Row]()
    if len(runs) == 1:
        notes = list(runs[0].notes)
        pictures = pictures_of(runs[0])
        text, default = page_of(runs[0], pictures), runs[0].folder / "report.html"
    else:
        rows, notes = compare(groups), [note for group in groups for note in group.notes]
        pictures = pictures_compared(groups, rows)
        text, default = page_compared(groups, rows, pictures), Path("report.html")
    out = out or default
    try:
        return Written(out, _write(out, text, pictures), rows, notes)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror or error}") from error


def _write(out: Path, text: str, pictures: Sequence[Picture]) -> list[Path]:
    folder = out.with_suffix("")
    for name in set(NAMES) - {picture.name for picture in pictures}:
        (folder / f"{name}.png").unlink(missing_ok=True)  # A picture of an earlier report.
    files = [folder / f"{picture.name}.png" for picture in pictures]
    for file, picture in zip(files, pictures, strict=True):
        write_atomically(file, picture.png)
    write_atomically(out, text.encode())
    return files
