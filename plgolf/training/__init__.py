"""The Lightning shell: the only part that knows Lightning."""

from plgolf.training.checkpoint import RunCheckpoint
from plgolf.training.clock import TrainClock
from plgolf.training.console.log import ConsoleLog
from plgolf.training.datamodule import ShardDataModule
from plgolf.training.export import ArtifactExport
from plgolf.training.module import GolfModule
from plgolf.training.peers import PeerWatch
from plgolf.training.samples import SampleLog
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
]
