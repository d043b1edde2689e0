"""Lets Lightning read an artifact where it expects a checkpoint, and neither ever runs code."""

import pickle
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from lightning.pytorch.plugins.io import TorchCheckpointIO

from plgolf.artifact import SUFFIX, load_artifact, read_artifact
from plgolf.config import config_from_dict
from plgolf.errors import UserError
from plgolf.interop import gpt_config_from_weights, weights_to_reference
from plgolf.model import GPTConfig


class ArtifactIO(TorchCheckpointIO):
    """Reads ``.ptz`` artifacts as checkpoints that hold weights alone, and other files as plain tensors."""

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: Any = None
    ) -> dict[str, Any]:
        if str(path).endswith(SUFFIX):
            return _as_checkpoint(path)
        try:
            # Whatever Lightning asks for: a checkpoint is data.
            return super().load_checkpoint(path, map_location=map_location, weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(f"{path}: is no checkpoint: {reason}") from error


def _as_checkpoint(path: Any) -> dict[str, Any]:
    weights = read_artifact(path).weights
    return {
        "state_dict": {f"gpt.{name}": tensor for name, tensor in weights.items()},
        "pytorch-lightning_version": version("lightning"),
        "epoch": 0,
        "global_step": 0,
    }


def saved_architecture(path: str, otherwise: GPTConfig) -> GPTConfig:
    """Reads from a file what model it holds.

    Args:
        path: an artifact or a checkpoint.
        otherwise: says what the weights of a reference artifact do not show: rotary base and soft cap.

    Returns:
        The architecture, which the file's weights fit.

    Raises:
        UserError: the file is malformed or not plgolf's.
    """
    if not path.endswith(SUFFIX):
        return config_from_dict(GPTConfig, read_checkpoint(path)["gpt_config"])
    artifact = read_artifact(path)
    config = artifact.config
    if config is None:
        config = gpt_config_from_weights(weights_to_reference(artifact.weights))
        config = replace(
            config,
            attention=replace(config.attention, rope_base=otherwise.attention.rope_base),
            head=replace(config.head, softcap=otherwise.head.softcap),
        )
    return load_artifact(path, config=config).config


def read_checkpoint(path: str) -> dict[str, Any]:
    """Reads a checkpoint of a fit without the data of its tensors.

    Raises:
        UserError: the file is no checkpoint of plgolf's.
    """
    checkpoint = ArtifactIO().load_checkpoint(path, map_location="meta")
    for key in ("gpt_config", "global_step", "optimizer_states"):
        if key not in checkpoint:
            raise UserError(f"{path}: is no checkpoint of plgolf: it has no {key}")
    return checkpoint
