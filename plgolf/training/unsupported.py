"""Refuses parts of Lightning that cannot work with plgolf, with the reason and what to use instead."""

from collections import Counter
from collections.abc import Sequence

from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from plgolf.errors import RunError, UserError

_INSTEAD = {
    LearningRateFinder: "each role has a learning rate of its own: compare short runs with other values of "
    "--model.optimizer.init_args.matrix.lr",
    BatchSizeFinder: "data.micro_batch_sequences sets what fits into memory, without changing the result",
}
_SETTINGS = {
    "ArtifactExport": "export",
    "CompileWarmup": "warmup",
    "ConsoleLog": "console",
    "PeerWatch": "peers",
    "RunCheckpoint": "checkpoint",
    "SampleLog": "samples",
    "TrainClock": "clock",
    "WeightAverages": "averages",
}
"""Callbacks of plgolf by name, with the group of settings that configures each on the command line."""


def check_parts(trainer: Trainer) -> None:
    """Raises a UserError if a callback, the strategy or the launcher of a trainer cannot work."""
    _check_processes(trainer)
    check_callbacks(trainer.callbacks)  # type: ignore[attr-defined]
    kind = type(trainer.strategy)
    if kind.__module__.startswith("lightning.") and kind not in (DDPStrategy, SingleDeviceStrategy):
        raise UserError(
            "trainer.strategy must be auto or ddp, since each rank needs the whole model for its export, "
            f"got {kind.__name__}"
        )


def check_callbacks(callbacks: Sequence[Callback]) -> None:
    """Raises a UserError if a callback cannot work, or one of plgolf's is there twice."""
    for callback in callbacks:
        for kind, instead in _INSTEAD.items():
            if isinstance(callback, kind):
                raise UserError(f"trainer.callbacks must leave out {kind.__name__}: {instead}")
    for name, count in Counter(type(callback).__name__ for callback in callbacks).items():
        if count > 1 and name in _SETTINGS:
            raise UserError(
                f"trainer.callbacks must leave out a second {name}: on the command line, set the first one "
                f"with --{_SETTINGS[name]}.*"
            )


def _check_processes(trainer: Trainer) -> None:
    """Raises if torchrun started more processes than the trainer has ranks: each would run on its own."""
    launched = TorchElasticEnvironment().world_size() if TorchElasticEnvironment.detect() else 0
    if launched in (0, trainer.world_size):
        return
    message = (
        f"trainer.devices and trainer.num_nodes must be of as many processes as were launched ({launched}), "
        f"got {trainer.world_size}: set --trainer.devices={launched // trainer.num_nodes} "
        "--trainer.strategy=ddp"
    )
    if TorchElasticEnvironment().global_rank() > 0:
        raise RunError(message, silent=True)  # Rank 0 prints it once.
    raise UserError(message)
