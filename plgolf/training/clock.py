"""The one clock of a run: training seconds, the same on every rank."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer

from plgolf.errors import UserError
from plgolf.optim import Progress
from plgolf.optim.sharing import ranks


class TrainClock(Callback):
    """Counts training seconds and ends the run by them, or by ``trainer.max_steps``.

    The clock starts with the first batch, after compile warm-up. It stands while the run validates or
    writes a checkpoint, from the start of either to the next batch. Rank 0's reading is shared after each
    optimizer step, so that all ranks apply the same learning rate and stop after the same step; Lightning
    then validates once more. The reading is saved in checkpoints: a resumed run keeps what is left.

    Args:
        max_seconds: training seconds after which the run ends; None for no limit.
    """

    def __init__(self, max_seconds: float | None = None) -> None:
        if max_seconds is not None and not max_seconds > 0:
            raise UserError(f"clock.max_seconds must be positive, got {max_seconds}")
        self.max_seconds = max_seconds
        self.now: Callable[[], float] = time.perf_counter
        self.elapsed_seconds = 0.0
        """Rank 0's training seconds at the end of the last optimizer step."""
        self.phase_seconds = {"warmup": 0.0, "validate": 0.0, "export": 0.0}
        """This rank's seconds outside training."""
        self._banked_seconds = 0.0
        self._started: float | None = None
        self._validation_started = 0.0

    @staticmethod
    def of(trainer: Trainer) -> "TrainClock":
        """Returns the trainer's clock; ``GolfModule`` sees to it that there is one."""
        return next(c for c in trainer.callbacks if isinstance(c, TrainClock))  # type: ignore[attr-defined]

    def progress(self, step: int, max_steps: int) -> Progress:
        """Says how far the run is after ``step`` optimizer steps; ``max_steps`` is -1 for no limit."""
        return Progress(
            step=step,
            elapsed_seconds=self.elapsed_seconds,
            max_steps=max_steps if max_steps >= 0 else None,
            max_seconds=self.max_seconds,
        )

    def tick(self, device: torch.device) -> None:
        """Shares rank 0's reading; every rank calls it once per optimizer step."""
        self.elapsed_seconds = self._read()
        if ranks()[1] > 1:
            shared = torch.tensor([self.elapsed_seconds], dtype=torch.float64, device=device)
            dist.broadcast(shared, src=0)
            self.elapsed_seconds = shared.item()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the time of a ``with`` block as ``phase_seconds[name]``."""
        started = self.now()
        try:
            yield
        finally:
            self.phase_seconds[name] += self.now() - started

    def _read(self) -> float:
        running = 0.0 if self._started is None else self.now() - self._started
        return self._banked_seconds + running

    def _pause(self) -> None:
        if self._started is not None:
            _wait_for_device()
            self._banked_seconds = self._read()
            self._started = None

    def check(self, trainer: Trainer) -> None:
        """Raises a UserError if nothing would end a fit."""
        # The training stream has no end, and so no epochs but those of limit_train_batches.
        by_epochs = isinstance(trainer.limit_train_batches, int) and trainer.max_epochs not in (None, -1)
        if self.max_seconds is None and trainer.max_steps < 0 and not by_epochs:
            raise UserError("clock.max_seconds or trainer.max_steps must be set, got neither")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self.check(trainer)

    def on_train_batch_start(self, *_: Any) -> None:
        if self._started is None:
            _wait_for_device()
            self._started = self.now()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        out_of_time = self.max_seconds is not None and self.elapsed_seconds >= self.max_seconds
        if out_of_time or 0 <= trainer.max_steps <= trainer.global_step:
            # Unlike reaching max_steps by itself, this makes Lightning validate once more.
            trainer.should_stop = True

    def on_validation_start(self, *_: Any) -> None:
        self._pause()
        self._validation_started = self.now()

    def on_validation_end(self, *_: Any) -> None:
        _wait_for_device()
        self.phase_seconds["validate"] += self.now() - self._validation_started

    def on_train_end(self, *_: Any) -> None:
        self._pause()

    def state_dict(self) -> dict[str, Any]:
        # Lightning asks for it first when it takes a checkpoint, which is no training.
        self._pause()
        return {"elapsed_seconds": self._banked_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.elapsed_seconds = self._banked_seconds = state_dict["elapsed_seconds"]


def _wait_for_device() -> None:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
