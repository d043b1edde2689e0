"""Formats a run as the reference program's log lines, character for character, for existing parsers.

Lines about an artifact in another format name that format instead.

The lines are those of https://github.com/openai/parameter-golf. The reference always has a
number of steps; it is 0 here for a run without a limit.
"""

import io
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from plgolf.evaluate.score import Score
from plgolf.model import GPT
from plgolf.reference import weights_to_reference


def step_line(step: int, max_steps: int | None, loss: float, elapsed_seconds: float) -> str:
    """Formats the progress after an optimizer step."""
    return f"step:{step}/{max_steps or 0} train_loss:{loss:.4f} {_times(step, elapsed_seconds)}"


def validation_line(
    step: int, max_steps: int | None, score: Score, elapsed_seconds: float, share: float
) -> str:
    """Formats the result of a validation, which is of a share of the split."""
    return (
        f"step:{step}/{max_steps or 0} val_loss:{score.loss:.4f} val_bpb:{score.bpb:.4f} "
        f"{_times(step, elapsed_seconds)}{_partial(share)}"
    )


def _partial(share: float) -> str:
    """Marks a partial score, which the reference program cannot have."""
    return f" partial:{share:.6f}" if share < 1 else ""


def _times(step: int, elapsed_seconds: float) -> str:
    ms = 1000 * elapsed_seconds
    return f"train_time:{ms:.0f}ms step_avg:{ms / max(step, 1):.2f}ms"


def end_lines(
    result: Mapping[str, Any], folder: Path, gpt: GPT, *, max_steps: int | None, peak_mib: tuple[int, int]
) -> Iterator[str]:
    """Yields the lines of the end of a run, from what ``result.json`` holds.

    Args:
        result: contents of ``result.json``.
        folder: folder of the artifact.
        gpt: the trained model.
        max_steps: step at which the run would have ended.
        peak_mib: memory allocated and reserved.
    """
    steps = result["steps"]
    if max_steps is None or steps < max_steps:
        ms = 1000 * result["train_seconds"]
        yield f"stopping_early: wallclock_cap train_time:{ms:.0f}ms step:{steps}/{max_steps or 0}"
    yield f"peak memory allocated: {peak_mib[0]} MiB reserved: {peak_mib[1]} MiB"
    raw = io.BytesIO()
    torch.save(weights_to_reference(gpt.state_dict()), raw)
    code, model = result["code_bytes"], len(raw.getvalue())
    yield f"Serialized model: {model} bytes"
    yield f"Code size: {code} bytes"
    yield f"Total submission size: {model + code} bytes"
    counts = result["quantize"]
    coder = counts.get("coder")
    kind = f"container+{coder}" if coder else "int8+zlib"
    payload = counts["payload_bytes" if coder else "int8_payload_bytes"]
    ratio = counts["baseline_tensor_bytes"] / max(payload, 1)
    inflated = (
        "" if coder else f"raw_torch:{len(zlib.decompress((folder / result['artifact']).read_bytes()))} "
    )
    yield (
        f"Serialized model {kind}: {result['artifact_bytes']} bytes "
        f"(payload:{payload} {inflated}payload_ratio:{ratio:.2f}x)"
    )
    yield f"Total submission size {kind}: {result['artifact_bytes'] + code} bytes"
    loss, bpb = result["roundtrip_val_loss"], result["roundtrip_val_bpb"]
    ms, mark = 1000 * result["seconds"]["roundtrip"], _partial(result["val_share"])
    name = f"final_{kind.replace('+', '_')}_roundtrip"
    yield f"{name} val_loss:{loss:.4f} val_bpb:{bpb:.4f} eval_time:{ms:.0f}ms{mark}"
    yield f"{name}_exact val_loss:{loss:.8f} val_bpb:{bpb:.8f}{mark}"
