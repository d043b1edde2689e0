"""Lets Lightning read an artifact where it expects a checkpoint."""

from importlib.metadata import version
from typing import Any

from lightning.pytorch.plugins.io import TorchCheckpointIO

from plgolf.artifact import SUFFIX, read_artifact


class ArtifactIO(TorchCheckpointIO):
    """Reads ``.ptz`` artifacts as checkpoints that hold weights alone; other files are Lightning's."""

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if not str(path).endswith(SUFFIX):
            return super().load_checkpoint(path, *args, **kwargs)
        weights = read_artifact(path).weights
        return {
            "state_dict": {f"gpt.{name}": tensor for name, tensor in weights.items()},
            "pytorch-lightning_version": version("lightning"),
            "epoch": 0,
            "global_step": 0,
        }
