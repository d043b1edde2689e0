"""The page of a run."""

from collections.abc import Sequence

from plgolf.report.ledger import COLOURS
from plgolf.report.markup import (
    FOOTER,
    Cell,
    documents,
    escaped,
    figures,
    notes,
    number_cell,
    page,
    section,
    table,
    text_cell,
    tiles,
)
from plgolf.report.records import Result, TensorRecord
from plgolf.report.runs import Run
from plgolf.report.style import Picture


def page_of(run: Run, pictures: Sequence[Picture]) -> str:
    """Returns the page of a run.

    Args:
        run: finished or not.
        pictures: of it.
    """
    by_name = {picture.name: picture for picture in pictures}
    ledger = [by_name.pop(name) for name in ("ledger",) if name in by_name]
    depth = [by_name.pop(name) for name in ("positions", "quantisation") if name in by_name]
    result = run.result
    body = (
        notes(run.notes)
        + (_headline(result) if result else _unfinished(run))
        + section("Training", figures(list(by_name.values())))
        + section("Bytes", figures(ledger) + (_tensors(result.tensors) if result else ""))
        + section("Context and quantisation", figures(depth))
        + (section("Hardest documents", documents(run.analysis)) if run.analysis else "")
        + section("Settings", _settings(run))
    )
    return page(run.name, _subtitle(run), body, FOOTER)


def _subtitle(run: Run) -> str:
    result = run.result
    said = [str(run.folder)]
    if run.seed is not None:
        said.append(f"seed {run.seed}")
    if result and result.hardware:
        said.append(f"{result.world_size} x {result.hardware}" if result.world_size > 1 else result.hardware)
    if result and result.git_commit:
        said.append(f"commit {result.git_commit[:10]}")
    return " · ".join(said)


def _headline(result: Result) -> str:
    step_ms = (
        result.step_ms if result.step_ms is not None else 1000 * result.train_seconds / max(result.steps, 1)
    )
    values = [
        (f"{result.roundtrip_val_bpb:.4f}", "bits per byte, of the file on disk"),
        (f"{result.val_bpb:.4f}", "bits per byte before export"),
        (f"{result.roundtrip_val_loss:.4f}", "nats per token, of the file on disk"),
        (f"{result.steps:,}", f"steps in {_duration(result.train_seconds)} of training"),
        (f"{step_ms:.4g} ms", "a step, mean"),
    ]
    if result.num_params is not None:
        values.append((_millions(result.num_params), "parameters"))
    if result.val_raw_bytes not in (None, result.val_bytes) and result.roundtrip_val_bpb_raw is not None:
        values.insert(1, (f"{result.roundtrip_val_bpb_raw:.4f}", "bits per raw byte, of the file on disk"))
    return tiles(values) + _budget(result)


def _budget(result: Result) -> str:
    whole = max(result.budget_bytes, result.total_bytes)
    model = max(result.artifact_bytes - result.tokenizer_bytes, 0)
    parts = (
        (model, COLOURS["model"]),
        (result.tokenizer_bytes, COLOURS["tokenizer"]),
        (result.code_bytes, COLOURS["code"]),
    )
    bars = "".join(
        f'<i style="width:{100 * size / whole:.3f}%;background:{colour}"></i>'
        for size, colour in parts
        if size
    )
    verdict = "within" if result.within_budget else "OVER"
    said = (
        f"{result.total_bytes:,} of {result.budget_bytes:,} bytes, {verdict} the budget: model {model:,}"
        + (f", tokenizer {result.tokenizer_bytes:,}" if result.tokenizer_bytes else "")
        + f", code {result.code_bytes:,}"
    )
    bar = f'<div class="budget" role="img" aria-label="{escaped(said)}">{bars}</div>'
    return f'{bar}<p class="sub">{escaped(said)}</p>\n'


def _unfinished(run: Run) -> str:
    found = [
        (f"{run.curves[metric].last:.4f}", name)
        for metric, name in (
            ("val/bpb", "bits per byte, newest validation"),
            ("train/loss", "nats per token, newest training step logged"),
        )
        if len(run.curves[metric])
    ]
    seconds = run.curves["train/seconds"]
    found.append((f"{run.curves.last_step:,}", "steps so far"))
    if len(seconds):
        found.append((_duration(seconds.last), "of training so far"))
    return tiles(found)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 120 else f"{minutes} min {rest} s"


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count >= 1e6 else f"{count:,}"


def _tensors(tensors: Sequence[TensorRecord]) -> str:
    if not tensors:
        return ""
    heading = [text_cell("tensor"), text_cell("role"), text_cell("shape"), text_cell("kept as")] + [
        number_cell(name) for name in ("payload bytes", "compressed alone", "relative error", "clipped")
    ]
    rows = [
        (
            "",
            [
                text_cell(tensor.name),
                Cell(
                    f'<i class="swatch" style="background:{COLOURS[tensor.role]}"></i>{escaped(tensor.role)}',
                    "text",
                ),
                text_cell(" x ".join(map(str, tensor.shape)) or "-"),
                text_cell(tensor.kept),
                number_cell(f"{tensor.payload_bytes:,}"),
                number_cell(f"{tensor.compressed_bytes:,}"),
                number_cell(f"{100 * tensor.relative_error:.3f} %"),
                number_cell(f"{100 * tensor.clipped_fraction:.4f} %"),
            ],
        )
        for tensor in tensors
    ]
    summary = f"<summary>All {len(tensors)} tensors as a table</summary>"
    return f"<details>{summary}{table(heading, rows)}</details>\n"


def _settings(run: Run) -> str:
    result, rows = run.result, []
    if result:
        rows = [
            ("recipe", " ".join(result.recipe)),
            ("overrides", " ".join(result.overrides)),
            ("seed", "" if run.seed is None else str(run.seed)),
            ("hardware", result.hardware or ""),
            ("devices", str(result.world_size)),
            ("tokens a step", f"{result.global_batch_tokens:,}" if result.global_batch_tokens else ""),
            (
                "validation",
                f"{result.val_tokens:,} tokens, {result.val_bytes:,} bytes"
                if result.val_tokens and result.val_bytes
                else "",
            ),
            ("seconds", ", ".join(f"{name} {value:.1f}" for name, value in result.seconds.items())),
            ("versions", ", ".join(f"{name} {value}" for name, value in result.versions.items())),
            ("commit", result.git_commit or ""),
        ]
    cells = [("", [text_cell(name), text_cell(value, is_long=True)]) for name, value in rows if value]
    found = table([], cells) if cells else ""
    if run.settings:
        every = [
            ("", [text_cell(key), text_cell(value, is_long=True)]) for key, value in run.settings.items()
        ]
        found += (
            f"<details><summary>All {len(every)} settings of config.yaml</summary>"
            f"{table([text_cell('setting'), text_cell('value')], every)}</details>\n"
        )
    return found
