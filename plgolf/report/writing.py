"""Reading runs, drawing them and writing a page with its pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from plgolf.errors import UserError
from plgolf.files import write_whole
from plgolf.report.comparison import Row, compare
from plgolf.report.groups import read_groups
from plgolf.report.page import page_of
from plgolf.report.page_compared import page_compared
from plgolf.report.pictures import NAMES, pictures_compared, pictures_of
from plgolf.report.style import Picture


@dataclass(frozen=True)
class Written:
    """A report on disk.

    Args:
        page: the HTML file.
        pictures: the PNG files.
        rows: the comparison; empty for one run.
        notes: what a reader should know first.
    """

    page: Path
    pictures: list[Path]
    rows: list[Row]
    notes: list[str]


def write_report(words: Sequence[str], out: Path | None = None) -> Written:
    """Writes the report of one run, or of several compared.

    Args:
        words: runs, as ``read_groups`` takes them.
        out: the HTML file; by default ``report.html``, in the run's folder for one run. Pictures go to a
            folder beside it that has its name without the ending.

    Returns:
        What was written.

    Raises:
        UserError: a run cannot be read, matplotlib is missing, or the report cannot be written.
    """
    if out is not None and out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"out must end in .html, got {out}")
    groups = read_groups(words)
    runs = [run for group in groups for run in group.runs]
    if len(runs) == 1:
        rows: list[Row] = []
        pictures = pictures_of(runs[0])
        text, notes = page_of(runs[0], pictures), list(runs[0].notes)
        out = out or runs[0].folder / "report.html"
    else:
        rows = compare(groups)
        pictures = pictures_compared(groups, rows)
        text = page_compared(groups, rows, pictures)
        notes = [sentence for group in groups for sentence in group.notes]
        out = out or Path("report.html")
    try:
        files = _write(out, text, pictures)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror or error}") from error
    return Written(out, files, rows, notes)


def _write(out: Path, text: str, pictures: Sequence[Picture]) -> list[Path]:
    folder = out.with_suffix("")
    drawn = {picture.name for picture in pictures}
    for name in NAMES:
        if name not in drawn:  # Of an earlier report, of something else.
            (folder / f"{name}.png").unlink(missing_ok=True)
    files = []
    for picture in pictures:
        files.append(folder / f"{picture.name}.png")
        write_whole(files[-1], picture.png)
    write_whole(out, text.encode())
    return files
