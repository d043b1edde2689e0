"""Lets Lightning read an artifact where it expects a checkpoint, and neither ever runs code."""

import pickle
from importlib.metadata import version
from typing import Any

from lightning.pytorch.plugins.io import TorchCheckpointIO

from plgolf.artifact import SUFFIX, read_artifact
from plgolf.errors import UserError


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
