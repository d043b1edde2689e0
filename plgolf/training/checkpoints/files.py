"""Checkpoints and artifacts as files: written whole or not at all, and read without running code."""

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from plgolf.artifact import SUFFIX, Artifact, read_artifact
from plgolf.config import config_from_dict
from plgolf.errors import UserError
from plgolf.files import atomic_file, open_regular
from plgolf.model import GPTConfig
from plgolf.model.weights import check_weights_fit
from plgolf.reference import gpt_config_from_weights, weights_to_reference
from plgolf.tensor_file import load_tensors


class CannotWriteError(UserError):
    """The file system refuses a checkpoint: it is full, for example."""


class CheckpointFiles(TorchCheckpointIO):
    """Writes checkpoints whole, reads them as plain tensors, and artifacts as if they were checkpoints."""

    def __init__(self) -> None:
        self._artifacts: dict[str, Artifact] = {}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        try:
            with atomic_file(Path(path)) as file:
                torch.save(checkpoint, file)
                # What would be refused when it is needed is refused now, and never takes its place.
                load_tensors(file, map_location="meta", verify=False)
        except UserError as error:
            raise UserError(f"{path}: would be no checkpoint that can be read back: {error}") from error
        except (OSError, RuntimeError) as error:
            # torch's writer answers a file system that refuses with an error of its own.
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):
                raise
            raise CannotWriteError(f"{path}: cannot be written: {cause.strerror}") from error

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: Any = None
    ) -> dict[str, Any]:
        if str(path).endswith(SUFFIX):
            found = str(path) in self._artifacts
            return _as_checkpoint(self._artifacts.pop(str(path)) if found else read_artifact(path))
        try:
            with open_regular(Path(path)) as file:
                # Whatever Lightning asks for: a checkpoint is data, and goes to the CPU first.
                checkpoint = load_tensors(file, map_location="meta" if map_location == "meta" else "cpu")
        except UserError as error:
            raise UserError(f"{path}: is no checkpoint: {error}") from error
        if not isinstance(checkpoint, dict):
            raise UserError(f"{path}: is no checkpoint: it holds a {type(checkpoint).__name__}")
        return checkpoint

    def saved_architecture(self, path: str, otherwise: GPTConfig) -> GPTConfig:
        """Reads from a file what model it holds; an artifact is kept for ``load_checkpoint``, once.

        Args:
            path: an artifact or a checkpoint.
            otherwise: says what the weights of a reference artifact do not show: rotary base and soft cap.

        Returns:
            The architecture, which the file's weights fit.

        Raises:
            UserError: the file is malformed or not plgolf's.
        """
        if not path.endswith(SUFFIX):
            return _architecture_of(read_checkpoint(path), path)
        artifact = read_artifact(path)
        try:
            config = artifact.config or _inferred(artifact.weights, otherwise)
            check_weights_fit(config, artifact.weights)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        self._artifacts[path] = artifact
        return config


def _inferred(weights: Mapping[str, Tensor], otherwise: GPTConfig) -> GPTConfig:
    config = gpt_config_from_weights(weights_to_reference(weights))
    return replace(
        config,
        attention=replace(config.attention, rope_base=otherwise.attention.rope_base),
        head=replace(config.head, softcap=otherwise.head.softcap),
    )


def _as_checkpoint(artifact: Artifact) -> dict[str, Any]:
    return {
        "state_dict": {f"gpt.{name}": tensor for name, tensor in artifact.weights.items()},
        "pytorch-lightning_version": version("lightning"),
        "epoch": 0,
        "global_step": 0,
    }


def _architecture_of(checkpoint: dict[str, Any], path: str) -> GPTConfig:
    try:
        config = config_from_dict(GPTConfig, checkpoint["gpt_config"])
        weights = checkpoint["state_dict"]
        if not isinstance(weights, dict) or not all(isinstance(w, Tensor) for w in weights.values()):
            raise UserError("state_dict must hold tensors by name")
        # Before a model of that size is made.
        check_weights_fit(config, {name.removeprefix("gpt."): weight for name, weight in weights.items()})
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return config


def read_checkpoint(path: str) -> dict[str, Any]:
    """Reads a checkpoint of a fit without the data of its tensors.

    Raises:
        UserError: the file is no checkpoint of plgolf's.
    """
    checkpoint = CheckpointFiles().load_checkpoint(path, map_location="meta")
    for key in ("state_dict", "gpt_config", "global_step", "optimizer_states"):
        if key not in checkpoint:
            raise UserError(f"{path}: is no checkpoint of plgolf: it has no {key}")
    return checkpoint
