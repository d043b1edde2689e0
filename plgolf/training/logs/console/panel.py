"""Renders the end of a run in one panel: scores, bytes against the budget, files, next commands."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.panel import Panel
from rich.text import Text

from plgolf.console import printable
from plgolf.training.logs.metrics_row import percent

_BAR_LETTERS = 40
_LABEL_LETTERS = 16


def end_panel(result: Mapping[str, Any], folder: Path, *, framed: bool) -> RenderableType:
    """Renders the end of a run, from ``result.json`` and its folder; ``framed`` for a terminal."""
    rows = [*_scores(result), Text(), *_bytes(result), Text(), *_files(result, folder)]
    text = Text("\n").join(rows)
    if not framed:
        return Text("\n") + text
    title = Text(printable(result["run_name"]))  # A string would be markup.
    return Panel(text, title=title, border_style="green", expand=False)


def _row(label: str, value: str, note: str = "", style: str = "") -> Text:
    return Text.assemble(
        f"{label:<{_LABEL_LETTERS}} ", (printable(value), style), (f"  {note}" if note else "", "dim")
    )


def _scores(result: Mapping[str, Any]) -> Iterator[Text]:
    before, after, share = result["val_bpb"], result["roundtrip_val_bpb"], result["val_share"]
    if share < 1:
        note = f"{percent(share)} of the split: not comparable with scores of all of it"
        yield _row("partial scores", f"{result['val_tokens']:,} tokens", note, "bold yellow")
    of_what = "" if share == 1 else " (partial)"
    yield _row("val/bpb", f"{before:.4f}{of_what}", f"val/loss {result['val_loss']:.4f}", "bold")
    if averages := result.get("averages"):
        raw = averages["raw_val_bpb"]
        note = f"val/loss {averages['raw_val_loss']:.4f}, {raw - before:+.4f} bpb, of the weights themselves"
        yield _row("not averaged", f"{raw:.4f}{of_what}", note)
    yield _row(
        "round-trip bpb",
        f"{after:.4f}{of_what}",
        f"val/loss {result['roundtrip_val_loss']:.4f}, {after - before:+.4f} bpb, of the file on disk",
        "bold green",
    )
    for name, score in list(result["scores"].items())[1:]:
        cost = f"{score['computed_per_token']:.1f} times the tokens computed, {score['seconds']:.1f} s"
        label = name.replace("_", " ")
        yield _row(label, f"{score['val_bpb']:.4f}{of_what}", f"{score['class']}: {cost}", "bold green")
    if result["val_raw_bytes"] not in (None, result["val_bytes"]):
        yield _row(
            "per raw byte",
            f"{result['roundtrip_val_bpb_raw']:.4f}",
            f"the tokens count for {result['val_bytes']:,} bytes, the text had {result['val_raw_bytes']:,}",
        )
    for name, bpb in result["compressors_bpb"].items():
        yield _row(f"{name} -9", f"{bpb:.4f}", f"on the same {result['val_bytes']:,} bytes")
    yield _row("steps", f"{result['steps']:,}", f"in {result['train_seconds']:.1f} s of training")


def _bytes(result: Mapping[str, Any]) -> Iterator[Text]:
    budget, total = result["budget_bytes"], result["total_bytes"]
    parts = {"model": result["artifact_bytes"] - result["tokenizer_bytes"], "code": result["code_bytes"]}
    if result["tokenizer_bytes"]:
        parts["tokenizer"] = result["tokenizer_bytes"]
    for name, size in parts.items():
        yield _row(name, f"{size:>12,} bytes", f"{100 * size / budget:.2f} % of the budget")
    over = total > budget
    verdict = f"OVER the budget of {budget:,}" if over else f"within the budget of {budget:,}"
    yield _row("total", f"{total:>12,} bytes", verdict, "bold red" if over else "bold")
    full = min(round(_BAR_LETTERS * total / budget), _BAR_LETTERS)
    bar = "█" * full + "░" * (_BAR_LETTERS - full)
    yield Text.assemble(" " * (_LABEL_LETTERS + 1), (bar, "red" if over else "green"))


def _files(result: Mapping[str, Any], folder: Path) -> Iterator[Text]:
    yield _row("written to", f"{folder}/{{{result['artifact']},code.tar.bz2,result.json,analysis.json}}")
    artifact = shlex.quote(str(folder / result["artifact"]))
    yield _row("next", f"plgolf generate --artifact {artifact}", style="cyan")
    yield _row("", f"plgolf report {shlex.quote(str(folder))}", style="cyan")
