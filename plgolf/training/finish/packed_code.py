"""The packed code of a run: packed, checked in a process of its own, described in ``result.json``."""

import inspect
import math
import pydoc
import time
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint

from plgolf.artifact import Artifact
from plgolf.submission.packing import pack_code
from plgolf.submission.packing.check import score_with
from plgolf.training.command.packed import CALLBACKS
from plgolf.training.datamodule import ShardDataModule
from plgolf.training.logs.screen import say
from plgolf.training.module import GolfModule

_MAX_SAMPLE_TOKENS = 1024
_MAX_DIFFERENCE = 1e-6
_NOT_USED = ("samples", "checkpoint", "resume", "ckpt_path")
"""Settings that packed code does not have."""


def pack_run(config: str) -> tuple[bytes, dict[str, Any]]:
    """Packs the code of a run with this configuration as YAML, which is empty without a command.

    Returns:
        The archive, and what ``result.json`` says of it: the other fields of ``PackedCode``.
    """
    described = asdict(pack_code(packed_config(config)))
    return described.pop("archive"), described


def packed_config(config: str) -> str:
    """Leaves out what packed code does not use: defaults, a corpus to prepare, samples, styles, checkpoints.

    An empty configuration stays empty.
    """
    settings = yaml.safe_load(config)
    if not settings:
        return ""
    trainer = settings.setdefault("trainer", {})
    named = trainer.pop("callbacks", None) or []
    callbacks = [one for one in (named if isinstance(named, list) else [named]) if not _saves(one)]
    averages = settings.pop("averages", None) or {}
    if averages.get("ema") is not None or averages.get("tail") is not None:
        callbacks += [{"class_path": "plgolf.training.averages.WeightAverages", "init_args": averages}]
    if callbacks:
        trainer["callbacks"] = callbacks
    kinds = {"trainer": Trainer, "model": GolfModule, "data": ShardDataModule, **CALLBACKS}
    settings["console"] = {**(settings.get("console") or {}), "style": "reference"}
    kept = {
        name: _changed(value, kinds.get(name)) for name, value in settings.items() if name not in _NOT_USED
    }
    kept.get("data", {}).pop("corpus", None)
    kept = {name: value for name, value in kept.items() if value not in (None, {})}
    return str(yaml.safe_dump(kept, sort_keys=False, default_flow_style=None))


def _saves(callback: Any) -> bool:
    kind = pydoc.locate(callback["class_path"]) if isinstance(callback, dict) else None
    return isinstance(kind, type) and issubclass(kind, Checkpoint)


def _changed(value: Any, kind: Any) -> Any:
    """Leaves out settings with the default of the class that they are for; ``kind`` is None if unknown."""
    if isinstance(value, list):
        return [_changed(item, None) for item in value]
    if not isinstance(value, dict):
        return value
    if "class_path" in value:
        kind = pydoc.locate(value["class_path"])
        return {**value, "init_args": _changed(value.get("init_args") or {}, kind)}
    parameters = inspect.signature(kind).parameters if kind else {}
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    if is_dataclass(kind):
        defaults |= {f.name: f.default_factory() for f in fields(kind) if f.default_factory is not MISSING}
    parts = {name: type(default) for name, default in defaults.items() if is_dataclass(default)}
    kept = {name: _changed(item, parts.get(name)) for name, item in value.items()}
    return {name: item for name, item in kept.items() if not _is_default(item, defaults.get(name, ...))}


def _is_default(value: Any, default: Any) -> bool:
    if value == {} and is_dataclass(default):
        kind: Any = type(default)
        return bool(default == kind())  # The settings left out are the defaults of the class.
    default = list(default) if isinstance(default, tuple) else default
    return type(value) is type(default) and bool(value == default)


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
