"""Decides when checkpoints are written and deleted, and finds the newest one that can be read."""

import contextlib
import os
import re
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from plgolf.errors import UserError
from plgolf.files import lock_folder
from plgolf.training.checkpoints.files import CannotWriteError, CheckpointFiles, read_checkpoint
from plgolf.training.logs.screen import say
from plgolf.training.timing.clock import TrainClock

_NAME = re.compile(r"step-\d{6,}\.ckpt")


class RunCheckpoint(Checkpoint):
    """Saves everything that a run needs to continue exactly as if it had not been interrupted.

    A checkpoint is written whole or not at all. Then the run's older ones are deleted; those of earlier runs
    in the same folder stay. The last step gets one before it is validated and exported, and so does the step
    at which a signal ends the run. If one cannot be written, the run prints that and continues. Only one run
    at a time may use the folder.

    Args:
        every_seconds: training seconds between checkpoints; null for no limit by time.
        every_steps: steps between checkpoints; null for no limit by steps.
        keep: number of checkpoints that stay.
        dir: folder to write to; by default ``trainer.default_root_dir``.
        allow_changed: names of what may differ from the checkpoint, as the error names it: ``data.seq_len``,
            or ``data.train_shards`` for all shards; for ``validate``, ``data.tokenizer``.
    """

    def __init__(
        self,
        every_seconds: float | None = 60.0,
        every_steps: int | None = None,
        keep: int = 2,
        dir: str | None = None,  # noqa: A002
        allow_changed: list[str] | None = None,
    ) -> None:
        for name, value in (("every_seconds", every_seconds), ("every_steps", every_steps), ("keep", keep)):
            if value is not None and not value > 0:
                raise UserError(f"{name} must be positive, got {value}")
        self.every_seconds = every_seconds
        self.every_steps = every_steps
        self.keep = keep
        self.dir = dir
        self.allow_changed = allow_changed or []
        self._saved_step = -1
        self._saved_seconds = 0.0
        self._own: list[Path] = []
        self._lock = -1
        self._clock = TrainClock()

    def folder(self, trainer: Trainer) -> Path:
        """Returns the folder of the checkpoints."""
        return Path(self.dir or trainer.default_root_dir)

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        self._clock = pl_module.run.clock
        strategy = trainer.strategy
        if type(strategy.checkpoint_io) is TorchCheckpointIO:
            strategy.checkpoint_io = CheckpointFiles()
        if stage != "fit" or not trainer.is_global_zero:
            return
        folder = self.folder(trainer)
        try:
            self._lock = lock_folder(folder)
        except BlockingIOError as error:
            raise UserError(f"{folder}: another run is at work there (trainer.default_root_dir)") from error
        for left in folder.glob(".step-*.ckpt.partial"):  # Left by a killed process.
            left.unlink(missing_ok=True)

    def on_exception(self, *_: Any) -> None:
        self.teardown()

    def teardown(self, *_: Any, **__: Any) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_step = trainer.global_step
        self._saved_seconds = self._clock.elapsed_seconds
        resumed, folder = Path(str(trainer.ckpt_path or "")), self.folder(trainer)
        self._own = []
        if resumed.name and resumed.parent.resolve() == folder.resolve():
            # This run wrote the earlier ones, too, before it was interrupted.
            earlier = [path for path in checkpoints(folder) if _step_of(path) < trainer.global_step]
            self._own = [folder / resumed.name, *earlier]

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        step, clock = trainer.global_step, self._clock
        if step == self._saved_step:
            return
        seconds = clock.elapsed_seconds - self._saved_seconds
        by_time = self.every_seconds is not None and seconds >= self.every_seconds
        if self.reads_step(step) or by_time or clock.stopped_by or trainer.should_stop:
            self._save(trainer)

    def reads_step(self, step: int) -> bool:
        """Returns True if this step is saved, so that its loss is checked first."""
        return self.every_steps is not None and step % self.every_steps == 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and self._clock.stopped_by:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        step, clock = trainer.global_step, self._clock
        if step == self._saved_step or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._saved_step, self._saved_seconds = step, clock.elapsed_seconds
        path = self.folder(trainer) / f"step-{step:06}.ckpt"
        try:
            trainer.save_checkpoint(path)
        except CannotWriteError as error:
            # Only rank 0 writes; the others wait at the barrier behind it.
            trainer.strategy.barrier()
            say(f"{error}: the run continues, earlier checkpoints are whole")
            return
        self._own = [path, *(old for old in self._own if old != path)]
        if trainer.is_global_zero:
            for old in self._own[self.keep :]:
                with contextlib.suppress(OSError):
                    old.unlink()
        del self._own[self.keep :]


def checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoints in a folder, the one that was written last first."""
    written = []
    for path in folder.glob("step-*.ckpt"):
        with contextlib.suppress(OSError):
            if _NAME.fullmatch(path.name) and path.is_file():
                written.append((path.stat().st_mtime_ns, _step_of(path), path))
    return [path for _, _, path in sorted(written, reverse=True)]


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def find_checkpoint(folder: Path, ckpt_path: str | None, resume: str | None = None) -> str | None:
    """Finds the file that a user names as a checkpoint.

    Args:
        folder: folder of the run's checkpoints.
        ckpt_path: a file; ``last`` for the newest one that can be read; ``hpc`` for the newest one that
            Lightning wrote before it put a job of SLURM back into the queue.
        resume: ``auto`` for the newest one that can be read, if there is one.

    Returns:
        The file; None to begin a new run.

    Raises:
        UserError: there is no such checkpoint.
    """
    if resume:
        if ckpt_path:
            raise UserError(f"resume must be left alone where ckpt_path is given, got {ckpt_path}")
        return _newest(folder)
    if ckpt_path == "last":
        ckpt_path = _newest(folder)
        if not ckpt_path:
            raise UserError(f"{folder}: holds no checkpoint (ckpt_path: last)")
    elif ckpt_path == "hpc":
        written = [path for path in folder.glob("hpc_ckpt_*.ckpt") if path.stem[9:].isdigit()]
        ckpt_path = str(max(written, key=lambda path: int(path.stem[9:]), default=""))
        if not ckpt_path:
            raise UserError(f"{folder}: holds no hpc_ckpt_<number>.ckpt (ckpt_path: hpc)")
    elif ckpt_path == "best" and not Path(ckpt_path).is_file():
        raise UserError(
            "ckpt_path must be a file or last, got best: give the file that ModelCheckpoint has written"
        )
    if ckpt_path and not Path(ckpt_path).is_file():
        raise UserError(f"{ckpt_path}: no such checkpoint (ckpt_path)")
    return ckpt_path


def _newest(folder: Path) -> str | None:
    found = checkpoints(folder)
    for path in found:
        try:
            read_checkpoint(str(path))
            return str(path)
        except UserError as error:  # noqa: PERF203 (few)
            say(f"{error}: passed over")
    if found:  # A new run would overwrite them.
        raise UserError(
            f"{folder}: none of its {len(found)} checkpoints can be read: move them away to start a new run"
        )
    return None
