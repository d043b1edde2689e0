"""The groups of settings of a run, by the class whose arguments they are."""

from plgolf.training import (
    ArtifactExport,
    CompileWarmup,
    ConsoleLog,
    GolfModule,
    PeerWatch,
    RunCheckpoint,
    SampleLog,
    ShardDataModule,
    TrainClock,
    WeightAverages,
)

GROUPS: dict[str, type] = {
    "model": GolfModule,
    "data": ShardDataModule,
    # The callbacks, in the order in which Lightning calls them.
    "clock": TrainClock,
    "warmup": CompileWarmup,
    "export": ArtifactExport,
    "checkpoint": RunCheckpoint,
    "peers": PeerWatch,
    "console": ConsoleLog,
    "averages": WeightAverages,
    "samples": SampleLog,
}
