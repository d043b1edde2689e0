"""``plgolf report``: a run as a page, several runs compared."""

from collections.abc import Sequence
from pathlib import Path

from plgolf.arguments import OneLineErrors
from plgolf.console import Terminal
from plgolf.report.comparison import table
from plgolf.report.writing import write_report

_LONGEST_NAME = 40


def parser() -> OneLineErrors:
    """Returns the parser of the command line."""
    parser = OneLineErrors(
        prog="plgolf report",
        description="Draw a run into one HTML file, or compare several. Runs whose configurations differ in "
        "no more than the seed and in folders are a group; every group is compared with the first run's.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=str,
        help="folders of runs, patterns such as 'base-*', or NAME=FOLDER,FOLDER",
    )
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="HTML file to write; pictures go to a folder beside it that has its name without the ending. By "
        "default report.html, for one run in its folder",
    )
    return parser


def run(words: list[str]) -> int:
    """Runs the command.

    Args:
        words: the command line after ``plgolf report``.

    Returns:
        The exit status.

    Raises:
        UserError: there is a mistake of the user's.
    """
    settings = parser().parse_args(words or ["--help"])
    written = write_report(settings.runs, Path(settings.out) if settings.out else None)
    terminal = Terminal()
    for sentence in written.notes:
        terminal.say(f"note: {sentence}")
    for line in aligned(table(written.rows)) if written.rows else []:
        terminal.say(line)
    size = written.page.stat().st_size
    folder = written.page.with_suffix("")
    terminal.say(
        f"report: wrote {written.page} ({size:,} bytes) and {len(written.pictures)} pictures in {folder}/"
    )
    return 0


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a table: words begin at the left, numbers end at the right."""
    rows = [[" ".join(row[0].split())[:_LONGEST_NAME], *row[1:]] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:-1], strict=True)),
                row[-1],
            ]
        ).rstrip()
        for row in rows
    ]
