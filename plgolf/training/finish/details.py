"""What reports and loggers show of a run besides its scores and bytes; packed code does without it."""

import functools
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from lightning.pytorch import Trainer

from plgolf.artifact import Artifact
from plgolf.evaluate.analysis import ScoreAnalysis
from plgolf.evaluate.compressors import compressor_bits_per_byte
from plgolf.evaluate.score import Score
from plgolf.quantize.coders import CoderName
from plgolf.quantize.measure import measure_tensors
from plgolf.quantize.streams import count_bytes
from plgolf.reference.int8_zlib import compressed_bytes
from plgolf.reference.measure import stored_tensors
from plgolf.roles import parameter_roles
from plgolf.training.finish.packed_code import check_code, pack_run
from plgolf.training.logs.run_config import log_ledger
from plgolf.training.module import GolfModule

__all__ = ["ScoreAnalysis", "check_code", "compare_compressors", "describe_tensors", "log_ledger", "pack_run"]


def describe_tensors(artifact: Artifact, module: GolfModule, coder: CoderName | None) -> dict[str, Any]:
    """Returns codec, bytes and error of each tensor of the artifact that was read back.

    Args:
        artifact: the artifact.
        module: has the original weights.
        coder: coder of a container; None for the reference's format.
    """
    roles = parameter_roles(module.gpt)
    stored = artifact.stored if coder else stored_tensors(artifact.stored)
    count = functools.partial(count_bytes, coder) if coder else compressed_bytes
    entries = measure_tensors(stored, artifact.weights, module.gpt.state_dict(), count)
    carried = bytearray(artifact.tokenizer or b"")
    return {
        "tokenizer_bytes": count(torch.frombuffer(carried, dtype=torch.uint8)) if carried else 0,
        "tensors": [{**asdict(entry), "role": roles[entry.name].value} for entry in entries],
    }


def compare_compressors(trainer: Trainer, names: Sequence[str], score: Score) -> dict[str, float]:
    """Returns the bits per byte of general compressors on the text that a score is of, by name.

    Empty if ``limit_val_batches`` cut that text, since each rank scored a part of its own.
    """
    if not names or score.num_tokens != trainer.datamodule.val_split.num_tokens:  # type: ignore[attr-defined]
        return {}
    return compressor_bits_per_byte(trainer.datamodule.val_bytes(), names)  # type: ignore[attr-defined]
