"""The packed code of a run: packed, checked in a process of its own, described in ``result.json``."""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import plgolf
from plgolf.artifact import Artifact
from plgolf.submission.archive import archive_folder
from plgolf.training.datamodule import ShardDataModule
from plgolf.training.logs.screen import say

_MAX_SAMPLE_TOKENS = 1024
_MAX_DIFFERENCE = 1e-6


@dataclass(frozen=True)
class CodeRecord:
    """The packed code, and what its check found.

    Args:
        archive: contents of ``code.tar.bz2``.
        num_modules: Python files in it.
        minifier: program that shortened them; None if they were only stripped.
        check_seconds: seconds that the check took; None if it was not run.
        bpb_difference: bits per byte between the scores of a sample by this process and by the packed code.
        error: why the check failed; None if it did not.
    """

    archive: bytes
    num_modules: int
    minifier: str | None = None
    check_seconds: float | None = None
    bpb_difference: float | None = None
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns what ``result.json`` says."""
        return {name: value for name, value in asdict(self).items() if name != "archive"}


def pack_run(config: str) -> CodeRecord:
    """Packs the code of this run.

    Args:
        config: the complete configuration as YAML; empty if the run was not started by a command.
    """
    try:
        from plgolf.submission.packing import pack_code  # noqa: PLC0415 (packed code cannot pack)
    except ModuleNotFoundError:
        # This process runs packed code, whose folder is what was submitted.
        folder = Path(plgolf.__file__).parent.parent
        return CodeRecord(*archive_folder(folder, config))
    packed = pack_code(config)
    return CodeRecord(packed.archive, packed.num_modules, packed.minifier)


def check_code(code: CodeRecord, path: Path, artifact: Artifact, data: ShardDataModule) -> CodeRecord:
    """Runs the packed code on the artifact, in a process that sees no other code of plgolf.

    It imports all that training imports, parses the configuration, loads the artifact and scores the first
    sequence of the validation split, as this process does with its own code, on the CPU.

    Args:
        code: the packed code.
        path: the artifact's file.
        artifact: what this process has read from it.
        data: has the validation split.

    Returns:
        The record with what was found; a failure is also shown on the console.
    """
    try:
        from plgolf.submission.packing.check import score_with  # noqa: PLC0415 (as above)
    except ModuleNotFoundError:
        return code
    batch = data.val_split.batch(0)
    inputs, targets = (ids[0, :_MAX_SAMPLE_TOKENS].long() for ids in (batch.input_ids, batch.target_ids))
    num_bytes = int(np.asarray(data.byte_counts(inputs.numpy(), targets.numpy())).sum())
    with torch.no_grad():
        losses = artifact.gpt()(inputs[None], targets[None], reduction="none")
    expected = float(losses.double().sum())
    checked = score_with(code.archive, path, inputs.numpy(), targets.numpy())
    difference = None if checked.nats is None else abs(checked.nats - expected) / (math.log(2) * num_bytes)
    error = checked.error
    if difference is not None and not difference <= _MAX_DIFFERENCE:
        error = f"its score of a sample differs by {difference:.3g} bits per byte"
    if error:
        say(f"export: the packed code failed its check: {error}")
    return replace(code, check_seconds=checked.seconds, bpb_difference=difference, error=error)
