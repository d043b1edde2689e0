"""The Lightning shell: the only part that knows Lightning."""

from plgolf.training.averages import WeightAverages
from plgolf.training.checkpoints.run_checkpoint import RunCheckpoint
from plgolf.training.datamodule import ShardDataModule
from plgolf.training.finish.export import ArtifactExport
from plgolf.training.health.peers import PeerWatch
from plgolf.training.logs.console.log import ConsoleLog
from plgolf.training.logs.samples import SampleLog
from plgolf.training.module import GolfModule
from plgolf.training.timing.clock import TrainClock
from plgolf.training.warmup import CompileWarmup

__all__ = [
    "ArtifactExport",
    "CompileWarmup",
    "ConsoleLog",
    "GolfModule",
    "PeerWatch",
    "RunCheckpoint",
    "SampleLog",
    "ShardDataModule",
    "TrainClock",
    "WeightAverages",
]
