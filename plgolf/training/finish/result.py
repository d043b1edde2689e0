"""``result.json``: settings, scores and bytes of a run."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from plgolf.evaluate.score import Score
from plgolf.hardware import device_name
from plgolf.submission import Ledger
from plgolf.training.finish.provenance import Provenance, versions
from plgolf.training.module import GolfModule


def describe_run(trainer: Trainer, module: GolfModule, provenance: Provenance) -> dict[str, Any]:
    """Describes a run: settings, steps, seconds, data, machine."""
    clock, steps = module.run.clock, trainer.global_step
    data = trainer.datamodule  # type: ignore[attr-defined]
    return {
        "run_name": Path(trainer.default_root_dir).resolve().name,
        "recipe": provenance.recipe,
        "overrides": provenance.overrides,
        "seed": provenance.seed,
        "num_params": sum(p.numel() for p in module.gpt.parameters()),
        "steps": steps,
        "step_ms": 1000 * clock.elapsed_seconds / max(steps, 1),
        "train_seconds": clock.elapsed_seconds,
        "seconds": {"train": clock.elapsed_seconds, **clock.phase_seconds},
        "world_size": trainer.world_size,
        "global_batch_tokens": data.global_batch_tokens,
        "dataset": data.identity(),
        "hardware": device_name(module.device),
        "versions": versions(),
    }


def describe_scores(before: Score, after: Score, share: float) -> dict[str, Any]:
    """Describes the scores with the trained weights and with those in the file, of a share of the split."""
    return {
        "val_loss": before.loss,
        "val_bpb": before.bpb,
        "val_bpb_raw": before.bpb_raw,
        "roundtrip_val_loss": after.loss,
        "roundtrip_val_bpb": after.bpb,
        "roundtrip_val_bpb_raw": after.bpb_raw,
        "val_tokens": after.num_tokens,
        "val_bytes": after.num_bytes,
        "val_raw_bytes": after.num_raw_bytes or None,
        "val_share": share,
    }


def describe_bytes(ledger: Ledger, stats: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the bytes by part, and the format's counters."""
    return {
        **asdict(ledger),
        "total_bytes": ledger.total_bytes,
        "within_budget": ledger.within_budget,
        "quantize": dict(stats),
    }
