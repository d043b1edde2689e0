"""Makes a module of the model in a file; packed code does without it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from plgolf.errors import UserError
from plgolf.model import GPTConfig
from plgolf.training.checkpoints import resume
from plgolf.training.checkpoints.files import CheckpointFiles
from plgolf.training.phases import restore_order

if TYPE_CHECKING:
    from plgolf.training.scoring import ScoringModule


def load_module(
    kind: "type[ScoringModule]", path: Any, given: tuple[Any, ...], settings: dict[str, Any]
) -> "ScoringModule":
    """Loads the weights of a checkpoint or an artifact; see ``ScoringModule.load_from_checkpoint``."""
    device = settings.pop("map_location", None)
    if given or "gpt" in settings:
        raise UserError("load_from_checkpoint takes the architecture from the file, and keyword arguments")
    files, path = CheckpointFiles(), str(Path(path))
    module = kind(gpt=files.read_saved(path, GPTConfig()).config, **settings)
    weights = files.load_checkpoint(path)
    resume.check_weights(weights, module.state_dict())
    module.load_state_dict(weights["state_dict"])
    restore_order(module.gpt, weights)
    return module if device is None else module.to(device)
