"""What reports and loggers show of a run besides its scores and bytes; packed code does without it."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lightning.pytorch import Trainer

from plgolf.artifact import Artifact
from plgolf.evaluate.analysis import ScoreAnalysis
from plgolf.evaluate.compressors import compressor_bits_per_byte
from plgolf.evaluate.score import Score
from plgolf.reference import weight_name_from_reference, weights_to_reference
from plgolf.reference.int8_zlib import compressed_bytes
from plgolf.reference.measure import measure_tensors
from plgolf.reference.validation import TOKENIZER_KEY
from plgolf.roles import parameter_roles
from plgolf.training.finish.packed_code import check_code, pack_run
from plgolf.training.logs.run_config import log_ledger
from plgolf.training.module import GolfModule

__all__ = ["ScoreAnalysis", "check_code", "compare_compressors", "describe_tensors", "log_ledger", "pack_run"]


def describe_tensors(artifact: Artifact, module: GolfModule) -> dict[str, Any]:
    """Returns the bytes and the error of each tensor of the artifact that was read back."""
    roles = parameter_roles(module.gpt)
    originals = weights_to_reference(module.gpt.state_dict())
    restored = weights_to_reference(artifact.weights)
    entries = [asdict(entry) for entry in measure_tensors(artifact.stored, restored, originals)]
    for entry in entries:
        entry["name"] = weight_name_from_reference(entry["name"])
        entry["role"] = roles[entry["name"]].value
    carried = artifact.stored.get(TOKENIZER_KEY)
    return {
        "tokenizer_bytes": 0 if carried is None else compressed_bytes(carried),
        "tensors": entries,
    }


def compare_compressors(trainer: Trainer, names: Sequence[str], score: Score) -> dict[str, float]:
    """Returns the bits per byte of general compressors on the text that a score is of, by name.

    Empty if ``limit_val_batches`` cut that text, since each rank scored a part of its own.
    """
    if not names or score.num_tokens != trainer.datamodule.val_split.num_tokens:  # type: ignore[attr-defined]
        return {}
    return compressor_bits_per_byte(trainer.datamodule.val_bytes(), names)  # type: ignore[attr-defined]
