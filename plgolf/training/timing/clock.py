"""The clock of a run: training seconds, the same on every rank."""

import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from plgolf.distributed import all_gather_floats
from plgolf.errors import StoppedBySignal, UserError
from plgolf.progress import RunProgress
from plgolf.training.timing.pace import Pace, ReadsSteps
from plgolf.training.timing.signals import StopSignals


class TrainClock(Callback):
    """Counts training seconds, and ends the run after them, after ``trainer.max_steps`` or after a signal.

    The clock starts with the first batch, after compile warm-up. It pauses while the run validates or writes
    a checkpoint, until the next batch. All ranks use rank 0's reading, so that they apply the same learning
    rate and stop after the same step; then Lightning validates once more. Checkpoints hold the reading: a
    resumed run keeps the time that is left.

    Sharing the reading, and the losses with it, waits for the device. A CPU is waited for anyway. On a GPU
    it happens every two seconds, after the first and the last steps, and after steps that a callback reads.
    In between the clock advances at the pace of the interval before.

    A stop signal on any rank ends the run on all ranks after the current step or validation, on several GPUs
    after the next reading, with ``StoppedBySignal``: the callbacks run first and ``RunCheckpoint`` saves.

    Args:
        max_seconds: training seconds after which the run ends; null for no limit.
        reserve_seconds: share of ``max_seconds`` that is left for work after training, in seconds: training
            ends that much earlier, and schedules count to that end.
        agree_seconds: training seconds between two shared readings; null for 2 on a GPU and every step on a
            CPU. There are at most 32 steps between two readings.
    """

    def __init__(
        self,
        max_seconds: float | None = None,
        agree_seconds: float | None = None,
        reserve_seconds: float = 0.0,
    ) -> None:
        if max_seconds is not None and not max_seconds > 0:
            raise UserError(f"max_seconds must be positive, got {max_seconds}")
        if agree_seconds is not None and not agree_seconds >= 0:
            raise UserError(f"agree_seconds must be at least 0, got {agree_seconds}")
        if reserve_seconds and not 0 < reserve_seconds < (max_seconds or 0):
            raise UserError(
                f"reserve_seconds must be at least 0 and below max_seconds, got {reserve_seconds}"
            )
        self.max_seconds = max_seconds and max_seconds - reserve_seconds
        """Training seconds after which training ends; None for no limit."""
        self.agree_seconds, self.reserve_seconds = agree_seconds, reserve_seconds
        self.now: Callable[[], float] = time.perf_counter
        self.elapsed_seconds = 0.0
        """Training seconds at the end of the last optimizer step, by rank 0's clock."""
        self.phase_seconds = {"warmup": 0.0, "validate": 0.0, "export": 0.0, "roundtrip": 0.0}
        """Seconds of this rank outside training, by phase."""
        self.signals = StopSignals()
        self.stopped_by = 0
        """Number of the signal that all ranks stop for; 0 for none."""
        self.step_seconds: list[float] = []
        """Seconds of each optimizer step of this fit, by rank 0's clock."""
        self._pace = Pace()
        self._reached_steps: int | None = None
        self._banked_seconds = self._validation_started = 0.0
        self._started: float | None = None

    def progress(self, step: int, max_steps: int) -> RunProgress:
        """Returns the progress of the run after ``step`` steps; ``max_steps`` is -1 for no limit."""
        return RunProgress(
            step=step,
            elapsed_seconds=self.elapsed_seconds,
            max_steps=max_steps if max_steps >= 0 else None,
            max_seconds=self.max_seconds,
        )

    def is_due(self, trainer: Trainer) -> bool:
        """Returns True if the ranks share a reading after the current step; the same on all ranks."""
        if self._pace.is_due or trainer.global_step == trainer.max_steps:
            return True
        if self.signals.received and trainer.world_size == 1:
            return True
        # isinstance takes some 10 microseconds for a protocol.
        readers: Iterable[ReadsSteps]
        readers = (c for c in trainer.callbacks if hasattr(c, "reads_step"))  # type: ignore[attr-defined]
        return any(reader.reads_step(trainer.global_step) for reader in readers)

    def reading(self) -> list[float]:
        """Returns this rank's reading, after waiting for the device, and the number of its signal."""
        _wait_for_device()
        return [self._read(), self.signals.received]

    def agree(self, by_rank: Sequence[Sequence[float]]) -> None:
        """Takes over the readings of all ranks after a step.

        Args:
            by_rank: values that start with ``reading``, by rank.
        """
        steps = self._pace.read(by_rank[0][0])
        # Replaces the times of steps that were counted at the pace before.
        self.step_seconds[len(self.step_seconds) + 1 - steps :] = [self._pace.seconds_per_step] * steps
        self.elapsed_seconds = by_rank[0][0]
        self._take_signals(by_rank)

    def advance(self) -> None:
        """Counts a step after which the ranks do not share a reading."""
        self._pace.advance()
        self.step_seconds.append(self._pace.seconds_per_step)
        self.elapsed_seconds += self._pace.seconds_per_step

    def agree_to_stop(self, device: torch.device) -> None:
        """Shares signals outside a step; every rank calls it at the same time."""
        self._take_signals(all_gather_floats(torch.empty(0, device=device), self.reading()))

    def _take_signals(self, by_rank: Sequence[Sequence[float]]) -> None:
        self.stopped_by = 0
        for _, signum, *_ in by_rank:
            self.stopped_by = self.stopped_by or int(signum)

    def end_if_stopped(self, trainer: Trainer) -> None:
        """Raises StoppedBySignal on all ranks if one of them received a signal."""
        if self.stopped_by:
            message = f"stopped by {signal.Signals(self.stopped_by).name} after step {trainer.global_step}"
            raise StoppedBySignal(self.stopped_by, message, silent=not trainer.is_global_zero)

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
        """Raises a UserError if nothing would end a fit, or if it would have no step."""
        if trainer.max_steps == 0:
            raise UserError("trainer.max_steps must be at least 1, or -1 for no limit, got 0")
        # The training stream has no end, and so no epochs but those of limit_train_batches.
        by_epochs = isinstance(trainer.limit_train_batches, int) and trainer.max_epochs not in (None, -1)
        if self.max_seconds is None and trainer.max_steps < 0 and not by_epochs:
            raise UserError("clock.max_seconds or trainer.max_steps must be set, got neither")

    @property
    def _is_over(self) -> bool:
        return self.max_seconds is not None and self.elapsed_seconds >= self.max_seconds

    def start_at(self, step: int, trainer: Trainer) -> None:
        """Prepares for a run that resumes after ``step`` steps, which may have been its last."""
        if 0 <= trainer.max_steps <= step:
            # Lightning would skip a fit without steps, and with it the export.
            self._reached_steps = trainer.max_steps
            trainer.fit_loop.epoch_loop.max_steps = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self.check(trainer)
            self.signals.expect(loud=trainer.is_global_zero)
            # Values of an earlier fit. Those of a checkpoint are restored later.
            self.stopped_by, self._reached_steps, self._started = 0, None, None
            self.elapsed_seconds = self._banked_seconds = 0.0
            self.step_seconds = []
            self.phase_seconds = dict.fromkeys(self.phase_seconds, 0.0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._reached_steps is not None:
            trainer.fit_loop.epoch_loop.max_steps = self._reached_steps
        if self._is_over or self._reached_steps is not None:
            trainer.should_stop = True
        on_gpu = pl_module.device.type == "cuda"
        apart = self.agree_seconds if self.agree_seconds is not None else 2.0 if on_gpu else 0.0
        self._pace = Pace(apart, self._banked_seconds, self.max_seconds)

    def on_train_batch_start(self, *_: Any) -> None:
        if self._started is None:
            _wait_for_device()
            self._started = self.now()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self._is_over or 0 <= trainer.max_steps <= trainer.global_step:
            # Reaching max_steps alone does not make Lightning validate once more; this does.
            trainer.should_stop = True

    def on_validation_start(self, *_: Any) -> None:
        self._pause()
        self._validation_started = self.now()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _wait_for_device()
        self.phase_seconds["validate"] += self.now() - self._validation_started
        if trainer.state.fn == "fit":
            self.agree_to_stop(pl_module.device)

    def on_train_end(self, *_: Any) -> None:
        self._pause()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # After a signal the other callbacks still have work to do, which a second signal must not interrupt:
        # the handlers stay until Lightning puts back those before the fit.
        if isinstance(exception, StoppedBySignal):
            self.signals.expected = False
        else:
            self.signals.restore()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.signals.restore()

    def state_dict(self) -> dict[str, Any]:
        # Lightning calls this first when it makes a checkpoint, which is not training time.
        self._pause()
        # The next learning rate depends on the first; the budget continues from the second, a little later.
        return {"elapsed_seconds": self.elapsed_seconds, "banked_seconds": self._banked_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name in ("elapsed_seconds", "banked_seconds"):
            seconds = state_dict.get(name)
            if not isinstance(seconds, float) or not 0 <= seconds < math.inf:
                raise UserError(f"the checkpoint's {name} must be a time, got {seconds!r:.50}")
        self.elapsed_seconds = state_dict["elapsed_seconds"]
        self._banked_seconds = state_dict["banked_seconds"]


def _wait_for_device() -> None:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
