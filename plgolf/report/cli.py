"""``plgolf report``: one run as a page, or several runs compared."""

from collections.abc import Sequence
from pathlib import Path

from plgolf.arguments import SettingsParser
from plgolf.console import Terminal
from plgolf.report.comparison import table
from plgolf.report.writing import write_report

_LONGEST_NAME = 40


def parser() -> SettingsParser:
    """Returns the parser of the command line."""
    parser = SettingsParser(
        prog="plgolf report",
        description="Draw a run into one HTML file, or compare several. Runs whose settings differ only in "
        "the seed and in folders form a group, and NAME=FOLDER,FOLDER is a group of any runs. Every group is "
        "compared with the group of the first run.",
        allow_abbrev=False,
    )
    runs = "folders of runs, patterns such as 'base-*', or NAME=FOLDER,FOLDER"
    parser.add_argument("runs", nargs="+", type=str, help=runs)
    out = "HTML file to write; pictures go to a folder beside it with its name without the ending. Default: "
    parser.add_argument("--out", type=str | None, help=f"{out}report.html, for one run in its folder")
    return parser


def run(words: list[str]) -> int:
    """Runs the command with the words after ``plgolf report`` and returns its exit status."""
    settings = parser().parse(words or ["--help"])
    written = write_report(settings.runs, Path(settings.out) if settings.out else None)
    size, folder = written.page.stat().st_size, written.page.with_suffix("")
    lines = [f"note: {note}" for note in written.notes]
    lines += aligned(table(written.rows)) if written.rows else []
    count = len(written.pictures)
    lines += [f"report: wrote {written.page} ({size:,} bytes) and {count} pictures in {folder}/"]
    for line in lines:
        Terminal().say(line)
    return 0


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a table; the first and the last column are aligned left, the others right."""
    rows = [[" ".join(row[0].split())[:_LONGEST_NAME], *row[1:]] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if 0 < i < len(row) - 1 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
