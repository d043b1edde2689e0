"""A fit as ``plgolf fit`` sets it up, without its command line: the same callbacks, logger and trainer."""

import io
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from contestants import Size
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.optim import Optimizer

from plgolf.model import GPTConfig
from plgolf.optim import MuonAdam
from plgolf.training import (
    ArtifactExport,
    CompileWarmup,
    ConsoleLog,
    GolfModule,
    PeerWatch,
    RunCheckpoint,
    ShardDataModule,
    TrainClock,
)
from plgolf.training.checkpoints.files import CheckpointFiles
from plgolf.training.command.quiet import quiet_libraries


def optimizer_of(size: Size) -> Callable[[Iterable[dict[str, Any]]], Optimizer]:
    return partial(MuonAdam, **size.optimizer)


def module_of(size: Size, gpt: GPTConfig | None = None, *, compiled: bool = False) -> GolfModule:
    return GolfModule(gpt or size.gpt, optimizer_of(size), compile=compiled)


def data_of(size: Size, root: Path, **settings: Any) -> ShardDataModule:
    return ShardDataModule(
        root=str(root),
        vocab_size=size.gpt.vocab_size,
        seq_len=size.seq_len,
        global_batch_tokens=size.step_tokens,
        micro_batch_sequences=size.sequences,
        **{"val_batch_sequences": size.sequences, "val_every_steps": 0, **settings},
    )


def trainer_of(
    folder: Path,
    *callbacks: Callback,
    max_steps: int = -1,
    max_seconds: float | None = None,
    warmup_steps: int = 0,
    export: bool = False,
) -> Trainer:
    """Makes the trainer of a run on one device.

    Args:
        folder: folder of the run.
        callbacks: further callbacks, besides plgolf's own.
        max_steps: number of steps; -1 for no limit.
        max_seconds: training seconds; None for no limit.
        warmup_steps: compile warm-up steps before the clock starts.
        export: True to end the run with an artifact.
    """
    quiet_libraries()
    console = ConsoleLog("lines" if find_spec("rich") else "reference")
    ours = [TrainClock(max_seconds), CompileWarmup(warmup_steps), RunCheckpoint(), PeerWatch(), console]
    return Trainer(
        accelerator="auto",
        devices=1,
        logger=CSVLogger(str(folder), name="logs"),
        callbacks=[*ours, *([ArtifactExport()] if export else []), *callbacks],
        plugins=[CheckpointFiles()],
        max_steps=max_steps,
        max_epochs=-1,
        default_root_dir=str(folder),
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        inference_mode=False,
    )


def fit_silently(trainer: Trainer, module: GolfModule, data: ShardDataModule) -> str:
    """Trains and returns the output of the run: standard output is for the benchmark's JSON."""
    said = io.StringIO()
    with redirect_stdout(said):
        trainer.fit(module, data)
    return said.getvalue()
