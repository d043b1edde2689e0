"""Reads and writes checkpoint files: atomic writes, and reads that never run code from the file."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from plgolf.artifact import SUFFIXES, Artifact, read_artifact
from plgolf.config import config_from_dict
from plgolf.errors import UserError
from plgolf.files import atomic_file, open_regular
from plgolf.model import GPTConfig
from plgolf.model.weights import check_weights_fit
from plgolf.reference import gpt_config_from_weights, weights_to_reference
from plgolf.tensor_file import load_tensors


class CannotWriteError(UserError):
    """The file system refuses a checkpoint, for example because it is full."""


@dataclass(frozen=True)
class Saved:
    """What a file says about the model in it.

    Args:
        config: the architecture, which the file's weights fit.
        seq_len: tokens of the sequences it was trained on; None if the file does not say.
        tokenizer_sha256: hash of its tokenizer's file; None if the file does not say.
    """

    config: GPTConfig
    seq_len: int | None
    tokenizer_sha256: str | None


class CheckpointFiles(TorchCheckpointIO):
    """Writes checkpoints atomically, reads them as plain tensors, and reads artifacts as checkpoints."""

    def __init__(self) -> None:
        self._artifacts: dict[str, Artifact] = {}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        try:
            with atomic_file(Path(path)) as file:
                torch.save(checkpoint, file)
                # A file that a resume would refuse must not replace a good one.
                load_tensors(file, map_location="meta", verify=False)
        except Exception as error:
            # torch's writer raises an error of its own if the file system refuses.
            cause = error if isinstance(error, OSError) else error.__context__
            if isinstance(cause, OSError):
                raise CannotWriteError(f"{path}: cannot be written: {cause.strerror}") from error
            culprit = _unsaveable(checkpoint)
            if not culprit and not isinstance(error, UserError):
                raise
            raise UserError(f"{path}: {culprit}cannot be saved: {error}") from error

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: Any = None
    ) -> dict[str, Any]:
        if str(path).endswith(SUFFIXES):
            kept = str(path) in self._artifacts
            return _as_checkpoint(self._artifacts.pop(str(path)) if kept else read_artifact(path))
        try:
            with open_regular(Path(path)) as file:
                # Always as plain data to the CPU, whatever Lightning asks for.
                checkpoint = load_tensors(file, map_location="meta" if map_location == "meta" else "cpu")
        except UserError as error:
            raise UserError(f"{path}: is not a checkpoint: {error}") from error
        if not isinstance(checkpoint, dict):
            raise UserError(f"{path}: is not a checkpoint: it holds a {type(checkpoint).__name__}")
        return checkpoint

    def read_saved(self, path: str, otherwise: GPTConfig) -> Saved:
        """Reads what a file says about its model; keeps an artifact for one call of ``load_checkpoint``.

        Args:
            path: the file.
            otherwise: dtype, rotary base and soft cap of a reference artifact, whose weights do not show
                them.

        Raises:
            UserError: the file is malformed or plgolf did not write it.
        """
        if not path.endswith(SUFFIXES):
            return _saved_in_checkpoint(read_checkpoint(path), path)
        artifact = read_artifact(path)
        try:
            config = artifact.config or _inferred(artifact.weights, otherwise)
            check_weights_fit(config, artifact.weights)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        self._artifacts[path] = artifact
        return Saved(config, artifact.seq_len, artifact.tokenizer_sha256)


def _unsaveable(checkpoint: Mapping[str, Any]) -> str:
    """Names the callback, or the key, whose state cannot be written and read back; empty if all can be."""
    callbacks = checkpoint.get("callbacks") or {}
    parts = {f"the state of the callback {name.split('{')[0]} ": state for name, state in callbacks.items()}
    parts |= {f"{key} ": value for key, value in checkpoint.items() if key not in ("callbacks", "state_dict")}
    for name, part in parts.items():
        file = io.BytesIO()
        try:
            torch.save({"part": part}, file)
            load_tensors(file, map_location="meta", verify=False)
        except Exception:
            return name
    return ""


def _inferred(weights: Mapping[str, Tensor], otherwise: GPTConfig) -> GPTConfig:
    config = gpt_config_from_weights(weights_to_reference(weights))
    return replace(
        config,
        compute_dtype=otherwise.compute_dtype,
        attention=replace(config.attention, rope_base=otherwise.attention.rope_base),
        head=replace(config.head, softcap=otherwise.head.softcap),
    )


def _as_checkpoint(artifact: Artifact) -> dict[str, Any]:
    sha256 = artifact.tokenizer_sha256
    return {
        "state_dict": {f"gpt.{name}": tensor for name, tensor in artifact.weights.items()},
        "pytorch-lightning_version": version("lightning"),
        "epoch": 0,
        "global_step": 0,
        **({"ShardDataModule": {"tokenizer": sha256}} if sha256 else {}),
    }


def _saved_in_checkpoint(checkpoint: dict[str, Any], path: str) -> Saved:
    try:
        config = config_from_dict(GPTConfig, checkpoint["gpt_config"])
        weights, data = checkpoint["state_dict"], checkpoint.get("ShardDataModule", {})
        if not isinstance(weights, dict) or not all(isinstance(w, Tensor) for w in weights.values()):
            raise UserError("state_dict must hold tensors by name")
        # Before a model of that size is built.
        check_weights_fit(config, {name.removeprefix("gpt."): weight for name, weight in weights.items()})
        kinds = {"seq_len": int | None, "tokenizer": str | None}
        if not isinstance(data, dict) or not all(isinstance(data.get(k), kinds[k]) for k in kinds):
            raise UserError("ShardDataModule must have a seq_len and the hash of a tokenizer")
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return Saved(config, data.get("seq_len"), data.get("tokenizer"))


def read_checkpoint(path: str) -> dict[str, Any]:
    """Reads a checkpoint of a fit without the data of its tensors.

    Raises:
        UserError: plgolf did not write the file.
    """
    checkpoint = CheckpointFiles().load_checkpoint(path, map_location="meta")
    for key in ("state_dict", "gpt_config", "global_step", "optimizer_states"):
        if key not in checkpoint:
            raise UserError(f"{path}: is not a checkpoint of plgolf: it has no {key}")
    return checkpoint
