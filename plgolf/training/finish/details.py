"""What reports and loggers show of a run besides its scores and bytes; packed code does without it."""

import functools
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer

from plgolf.artifact import Artifact
from plgolf.evaluate.analysis import ScoreAnalysis
from plgolf.evaluate.compressors import compressor_bits_per_byte
from plgolf.evaluate.evaluator import Observer
from plgolf.evaluate.score import Score
from plgolf.quantize.coders import CoderName
from plgolf.quantize.measure import measure_tensors
from plgolf.quantize.streams import count_bytes
from plgolf.reference.int8_zlib import compressed_bytes
from plgolf.reference.measure import stored_tensors
from plgolf.roles import parameter_roles
from plgolf.training.datamodule import ShardDataModule
from plgolf.training.finish.packed_code import check_code, pack_run
from plgolf.training.finish.provenance import git_commit
from plgolf.training.logs.run_config import log_ledger
from plgolf.training.logs.scoring_line import scoring_progress
from plgolf.training.module import GolfModule

__all__ = [
    "check_code",
    "compare_compressors",
    "describe_more",
    "log_ledger",
    "pack_run",
    "start_analysis",
]

_HISTOGRAM_BINS = 60


def start_analysis(
    module: GolfModule, data: ShardDataModule, num_documents: int
) -> tuple[ScoreAnalysis, list[Observer]]:
    """Returns an analysis of a plain score, and what must see the score: the analysis and the console."""
    targets = module.targets()
    analysis = ScoreAnalysis(targets, data.tokenizer, num_documents=num_documents)
    return analysis, [analysis.add, scoring_progress(targets)]


def describe_more(artifact: Artifact, module: GolfModule, coder: CoderName | None) -> dict[str, Any]:
    """Returns commit, times of steps, and codec, bytes and error of each tensor of the artifact read back.

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
        "git_commit": git_commit(),
        **step_times(module.run.clock.step_seconds),
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


def step_times(seconds: Sequence[float]) -> dict[str, Any]:
    """Summarises step times in ms, given seconds; empty if the process made no step."""
    if not seconds:
        return {}
    ms = np.round(1000 * np.array(seconds), 6)  # Bins must be wider than a clock's tick.
    names = {"min": 0.0, "p10": 0.1, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    quantiles = {name: float(np.quantile(ms, share)) for name, share in names.items()}
    # A few slow steps must not squeeze the others, so they fall into the last bin.
    counts, edges = np.histogram(np.minimum(ms, quantiles["p99"]), bins=_HISTOGRAM_BINS)
    return {
        "step_ms_quantiles": quantiles,
        "step_ms_histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }
