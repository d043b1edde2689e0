"""The packed code of a run: packed, checked in a process of its own, described in ``result.json``."""

import inspect
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from lightning.pytorch import Trainer

from plgolf.artifact import Artifact
from plgolf.submission.packing import pack_code
from plgolf.submission.packing.check import score_with
from plgolf.training.datamodule import ShardDataModule
from plgolf.training.logs.screen import say

_MAX_SAMPLE_TOKENS = 1024
_MAX_DIFFERENCE = 1e-6


def pack_run(config: str) -> tuple[bytes, dict[str, Any]]:
    """Packs the code of a run with this configuration as YAML, which is empty without a command.

    Returns:
        The archive, and what ``result.json`` says of it: the other fields of ``PackedCode``.
    """
    described = asdict(pack_code(packed_config(config)))
    return described.pop("archive"), described


def packed_config(config: str) -> str:
    """Leaves out what packed code does not use; an empty configuration stays empty.

    That is the Trainer's defaults, a corpus to prepare, samples, styles, and parts of the model that are off.
    """
    settings = yaml.safe_load(config)
    if not settings:
        return ""
    defaults = inspect.signature(Trainer).parameters
    trainer = {k: v for k, v in settings.get("trainer", {}).items() if v != defaults[k].default}
    console = {**settings.get("console", {}), "style": "reference"}
    data = {name: value for name, value in settings.get("data", {}).items() if name != "corpus"}
    gpt = settings.get("model", {}).get("gpt", {})
    if "parts" in gpt:
        gpt["parts"] = {name: part for name, part in (gpt["parts"] or {}).items() if part is not None}
    kept = {**settings, "trainer": trainer, "data": data, "console": console}
    kept = {name: value for name, value in kept.items() if value is not None and name != "samples"}
    return str(yaml.safe_dump(kept, sort_keys=False, default_flow_style=None))


def check_code(archive: bytes, path: Path, artifact: Artifact, data: ShardDataModule) -> dict[str, Any]:
    """Runs the packed code on the artifact, in a process that sees no other code of plgolf.

    It imports all that training imports, parses the configuration, loads the artifact and scores the first
    sequence of the validation split, as this process does with its own code, on the CPU.

    Args:
        archive: the packed code.
        path: the artifact's file.
        artifact: what this process has read from it.
        data: has the validation split.

    Returns:
        What ``result.json`` says of the check: ``check_seconds``, ``bpb_difference`` (bits per byte between
        the two scores; None if the packed code gave none) and ``error`` (why the check failed, or None). A
        failure is also shown on the console.
    """
    batch = data.val_split.batch(0)
    inputs, targets = (ids[0, :_MAX_SAMPLE_TOKENS].long() for ids in (batch.input_ids, batch.target_ids))
    num_bytes = int(np.asarray(data.byte_counts(inputs.numpy(), targets.numpy())).sum())
    with torch.no_grad():
        losses = artifact.gpt()(inputs[None], targets[None], reduction="none")
    expected = float(losses.double().sum())
    start = time.monotonic()
    nats, error = score_with(archive, path, inputs.numpy(), targets.numpy())
    seconds, difference = time.monotonic() - start, abs(nats - expected) / (math.log(2) * num_bytes)
    if error is None and not difference <= _MAX_DIFFERENCE:
        error = f"its score of a sample differs by {difference:.3g} bits per byte"
    if error:
        say(f"export: the packed code failed its check: {error}")
    known = None if math.isnan(nats) else difference
    return {"check_seconds": seconds, "bpb_difference": known, "error": error}
