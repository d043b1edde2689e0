"""The groups of settings of a run, by the class whose arguments they are."""

from plgolf.training import GolfModule, RunCheckpoint, SampleLog, ShardDataModule, WeightAverages
from plgolf.training.command.packed import CALLBACKS

GROUPS: dict[str, type] = {
    "model": GolfModule,
    "data": ShardDataModule,
    **CALLBACKS,
    "checkpoint": RunCheckpoint,
    "averages": WeightAverages,
    "samples": SampleLog,
}
