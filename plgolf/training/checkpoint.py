"""Checkpoints: when one is written, how many stay, which is the newest that is whole."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from plgolf.errors import UserError
from plgolf.training.clock import TrainClock
from plgolf.training.console import say

_PATTERN = "step-*.ckpt"


class RunCheckpoint(Checkpoint):
    """Saves all that a run needs to go on exactly as if it had not been interrupted.

    A checkpoint appears whole or not at all; the older ones go once it is there. The last step gets one
    before it is validated and exported, and so does the step that a signal ends the run after. If one cannot
    be written, the run says so and goes on.

    Args:
        every_seconds: training seconds between checkpoints; null for none by time.
        every_steps: steps between checkpoints; null for none by steps.
        keep: how many stay.
        dir: folder to write to; by default ``trainer.default_root_dir``.
        allow_changed: what may differ from the checkpoint that a run goes on from, as its refusal calls it:
            ``data.seq_len``, or ``data.train_shards`` with all of them.
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
                raise UserError(f"checkpoint.{name} must be positive, got {value}")
        self.every_seconds = every_seconds
        self.every_steps = every_steps
        self.keep = keep
        self.dir = dir
        self.allow_changed = allow_changed or []
        self._saved_step = -1
        self._saved_seconds = 0.0

    @staticmethod
    def allowed_changes(trainer: Trainer) -> list[str]:
        """Returns what the trainer's ``RunCheckpoint`` allows to differ on resuming."""
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        return [name for c in callbacks if isinstance(c, RunCheckpoint) for name in c.allow_changed]

    def folder(self, trainer: Trainer) -> Path:
        """Returns where the checkpoints are."""
        return Path(self.dir or trainer.default_root_dir)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.is_global_zero:
            for left in self.folder(trainer).glob(f".{_PATTERN}.partial"):  # By whoever was killed there.
                left.unlink(missing_ok=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_step = trainer.global_step
        self._saved_seconds = TrainClock.of(trainer).elapsed_seconds

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        step, clock = trainer.global_step, TrainClock.of(trainer)
        if step == self._saved_step:
            return
        by_steps = self.every_steps is not None and step % self.every_steps == 0
        by_time = self.every_seconds is not None and (
            clock.elapsed_seconds - self._saved_seconds >= self.every_seconds
        )
        if by_steps or by_time or clock.stopped_by or trainer.should_stop:
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and TrainClock.of(trainer).stopped_by:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        step, clock = trainer.global_step, TrainClock.of(trainer)
        if step == self._saved_step or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._saved_step, self._saved_seconds = step, clock.elapsed_seconds
        path = self.folder(trainer) / f"step-{step:06}.ckpt"
        try:
            trainer.save_checkpoint(path)
        except UserError as error:
            # Rank 0 alone writes; the others wait for it behind that.
            trainer.strategy.barrier()
            say(f"{error}: the run goes on, earlier checkpoints are whole")
            return
        if trainer.is_global_zero:
            for old in checkpoints(path.parent)[self.keep :]:
                old.unlink(missing_ok=True)


def checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoints in a folder, the one that was written last first."""
    written = [(path.stat().st_mtime_ns, path) for path in folder.glob(_PATTERN)]
    return [path for _, path in sorted(written, reverse=True)]
