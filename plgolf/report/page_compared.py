"""The page of several runs, compared."""

from collections.abc import Sequence

from plgolf.report import markup
from plgolf.report.comparison import Row, table
from plgolf.report.groups import Group, settings_apart
from plgolf.report.markup import FOOTER, Cell, escaped, figures, notes, number_cell, page, section, text_cell
from plgolf.report.runs import Run
from plgolf.report.statistics import REQUIRED_NATS, REQUIRED_P
from plgolf.report.style import PALETTE, Picture

_MOST_SETTINGS = 40


def page_compared(groups: Sequence[Group], rows: Sequence[Row], pictures: Sequence[Picture]) -> str:
    """Returns the page of several runs.

    Args:
        groups: the runs; the first group is the reference.
        rows: their comparison.
        pictures: of all of them.
    """
    count = sum(len(group.runs) for group in groups)
    by_name = {picture.name: picture for picture in pictures}
    first = [by_name.pop(name) for name in ("comparison",) if name in by_name]
    said = [sentence for group in groups for sentence in group.notes]
    body = (
        notes(said)
        + section("Comparison", _comparison(rows) + figures(first))
        + section("Training", figures(list(by_name.values())))
        + section("Runs", _runs(groups))
        + section("Settings in which groups differ", _differences(groups))
    )
    title = (
        " vs ".join(group.name for group in groups) if len(groups) < 5 else f"{len(groups)} groups of runs"
    )
    names = f"{count} runs in {len(groups)} groups" if len(groups) > 1 else f"{count} runs of one recipe"
    return page(title, f"{names}; the reference is {groups[0].name}", body, FOOTER)


def _comparison(rows: Sequence[Row]) -> str:
    heading, *lines = table(rows)
    cells = [
        (
            row.verdict.replace(" ", "-"),
            [
                Cell(
                    f'<i class="swatch" style="background:{PALETTE[i % len(PALETTE)]}"></i>{escaped(line[0])}'
                ),
                *map(number_cell, line[1:-1]),
                text_cell(line[-1]),
            ],
        )
        for i, (row, line) in enumerate(zip(rows, lines, strict=True))
    ]
    head = [*map(number_cell, heading[:-1]), text_cell(heading[-1])]
    return markup.table(head, cells) + (
        "<p>Losses are nats per token and bits per byte of the file on disk, means and sample standard "
        "deviations over seeds. p is the chance to see such losses if the group were not better than the "
        f"reference, or not by {REQUIRED_NATS} nats (Welch's t-test, one-sided). The challenge's bar: that "
        f"an improvement of {REQUIRED_NATS} nats is shown at p &lt; {REQUIRED_P}.</p>\n"
    )


def _runs(groups: Sequence[Group]) -> str:
    names = ("seed", "steps", "ms a step", "loss", "bpb", "bpb before export", "bytes", "commit")
    heading = [text_cell("run"), text_cell("group"), *map(number_cell, names)]
    rows = []
    for i, group in enumerate(groups):
        swatch = f'<i class="swatch" style="background:{PALETTE[i % len(PALETTE)]}"></i>{escaped(group.name)}'
        rows += [
            ("", [text_cell(run.folder), Cell(swatch, "text"), *map(number_cell, _run_cells(run))])
            for run in group.runs
        ]
    return markup.table(heading, rows)


def _run_cells(run: Run) -> list[str]:
    seed = "-" if run.seed is None else str(run.seed)
    if run.result is None:
        return [seed, f"{run.curves.last_step:,}", "-", "not finished", "-", "-", "-", "-"]
    result = run.result
    over = "" if result.within_budget else " OVER"
    return [
        seed,
        f"{result.steps:,}",
        f"{1000 * result.train_seconds / max(result.steps, 1):.4g}",
        f"{result.roundtrip_val_loss:.4f}",
        f"{result.roundtrip_val_bpb:.4f}",
        f"{result.val_bpb:.4f}",
        f"{result.total_bytes:,}{over}",
        (result.git_commit or "-")[:10],
    ]


def _differences(groups: Sequence[Group]) -> str:
    apart = settings_apart(groups)
    if not apart:
        return ""
    shown = [
        ("", [text_cell(cell, is_long=i > 0) for i, cell in enumerate(row)]) for row in apart[:_MOST_SETTINGS]
    ]
    more = f"<p>and {len(apart) - _MOST_SETTINGS} more</p>\n" if len(apart) > _MOST_SETTINGS else ""
    return markup.table([text_cell("setting"), *(text_cell(group.name) for group in groups)], shown) + more
