"""The one clock of a run: training seconds, the same on every rank."""

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
    """Counts training seconds and ends the run: by them, by ``trainer.max_steps``, or by a signal.

    The clock starts with the first batch, after compile warm-up. It stands while the run validates or
    writes a checkpoint, from the start of either to the next batch. All ranks go by rank 0's reading, so that
    they apply the same learning rate and stop after the same step; Lightning then validates once more. The
    reading is saved in checkpoints: a resumed run keeps what is left.

    To share the reading, and the losses with it, is to wait for the device. A CPU is waited for anyway; on a
    GPU it happens every two seconds, and after the first steps, the last ones and those that somebody reads.
    In between the clock goes on at the pace of the interval before.

    SIGTERM or SIGINT on any rank ends the run on all of them after the step, or the validation, that they
    are in, on several GPUs after the next reading: with ``StoppedBySignal``, once the callbacks had their
    turn and ``RunCheckpoint`` has saved.

    Args:
        max_seconds: training seconds after which the run ends; null for no limit.
        agree_seconds: training seconds between two readings that are shared; null for 2 on a GPU and each
            step on a CPU. There are 32 steps between them at most.
    """

    def __init__(self, max_seconds: float | None = None, agree_seconds: float | None = None) -> None:
        if max_seconds is not None and not max_seconds > 0:
            raise UserError(f"clock.max_seconds must be positive, got {max_seconds}")
        if agree_seconds is not None and not agree_seconds >= 0:
            raise UserError(f"clock.agree_seconds must be at least 0, got {agree_seconds}")
        self.max_seconds = max_seconds
        self.agree_seconds = agree_seconds
        self.now: Callable[[], float] = time.perf_counter
        self.elapsed_seconds = 0.0
        """Rank 0's training seconds at the end of the last optimizer step, as all ranks have them."""
        self.phase_seconds = {"warmup": 0.0, "validate": 0.0, "export": 0.0, "roundtrip": 0.0}
        """This rank's seconds outside training."""
        self.signals = StopSignals()
        self.stopped_by = 0
        """The signal that all ranks agree to stop for; 0 for none."""
        self.step_seconds: list[float] = []
        """What each optimizer step of this fit took, by rank 0's reading."""
        self._pace = Pace()
        self._reached_steps: int | None = None
        self._banked_seconds = 0.0
        self._started: float | None = None
        self._validation_started = 0.0

    @staticmethod
    def of(trainer: Trainer) -> "TrainClock":
        """Returns the trainer's clock; ``GolfModule`` sees to it that there is one."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, TrainClock):
                return callback
        raise LookupError("the trainer has no TrainClock")

    def progress(self, step: int, max_steps: int) -> RunProgress:
        """Says how far the run is after ``step`` optimizer steps; ``max_steps`` is -1 for no limit."""
        return RunProgress(
            step=step,
            elapsed_seconds=self.elapsed_seconds,
            max_steps=max_steps if max_steps >= 0 else None,
            max_seconds=self.max_seconds,
        )

    def is_due(self, trainer: Trainer) -> bool:
        """Says whether the ranks agree after the step just made; the same on all of them."""
        if self._pace.is_due or trainer.global_step == trainer.max_steps:
            return True
        if self.signals.received and trainer.world_size == 1:
            return True
        # Not isinstance, which takes a microsecond or ten to look through a protocol.
        readers: Iterable[ReadsSteps]
        readers = (c for c in trainer.callbacks if hasattr(c, "reads_step"))  # type: ignore[attr-defined]
        return any(reader.reads_step(trainer.global_step) for reader in readers)

    def facts(self) -> list[float]:
        """Returns what this rank has to tell: its reading, once the device is done, and the signal it got."""
        _wait_for_device()
        return [self._read(), self.signals.received]

    def agree(self, everyones: Sequence[Sequence[float]]) -> None:
        """Takes the facts of all ranks after a step, so that all of them go on alike.

        Args:
            everyones: by rank; what comes behind is not the clock's.
        """
        steps = self._pace.read(everyones[0][0])
        # Those that were counted at the pace before are among them.
        self.step_seconds[len(self.step_seconds) + 1 - steps :] = [self._pace.seconds_per_step] * steps
        self.elapsed_seconds = everyones[0][0]
        self._take_signals(everyones)

    def go_on(self) -> None:
        """Counts a step after which the ranks do not agree."""
        self._pace.go_on()
        self.step_seconds.append(self._pace.seconds_per_step)
        self.elapsed_seconds += self._pace.seconds_per_step

    def agree_to_stop(self, device: torch.device) -> None:
        """Shares the signals alone, where no step has ended; every rank calls it at the same time."""
        self._take_signals(all_gather_floats(torch.empty(0, device=device), self.facts()))

    def _take_signals(self, everyones: Sequence[Sequence[float]]) -> None:
        self.stopped_by = 0
        for _, signum, *_ in everyones:
            self.stopped_by = self.stopped_by or int(signum)

    def end_if_stopped(self, trainer: Trainer) -> None:
        """Raises StoppedBySignal on all ranks if one of them got a signal."""
        if self.stopped_by:
            name = signal.Signals(self.stopped_by).name
            message = f"stopped by {name} after step {trainer.global_step}"
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
        """Raises a UserError if nothing would end a fit, or nothing would begin one."""
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
        """Prepares for a run that goes on after ``step`` steps, which may have been its last."""
        if 0 <= trainer.max_steps <= step:
            # Lightning would not begin a run without steps, nor end it: there is an export to do.
            self._reached_steps = trainer.max_steps
            trainer.fit_loop.epoch_loop.max_steps = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self.check(trainer)
            self.signals.install_for(trainer)
            # Of an earlier fit; a checkpoint's are restored later.
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

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self._is_over or 0 <= trainer.max_steps <= trainer.global_step:
            # Unlike reaching max_steps by itself, this makes Lightning validate once more.
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
        # After a signal the other callbacks have farewells to say, which another one must not cut short;
        # Lightning puts the handlers back behind them.
        if not isinstance(exception, StoppedBySignal):
            self.signals.restore()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.signals.restore()

    def state_dict(self) -> dict[str, Any]:
        # Lightning asks for it first when it takes a checkpoint, which is no training.
        self._pause()
        # What the next step's learning rate depends on, and what the budget goes on with: a bit more.
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
