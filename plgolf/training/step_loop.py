"""The loop over micro-batches: Lightning's, without the work that nobody asked for."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultCollection, _ResultMetric

from plgolf.data.stream import Batch
from plgolf.training.hooks import Hooks, overridden
from plgolf.training.optimization import Optimization, StepPrecision
from plgolf.training.ordinary import is_ordinary, moves_batches_itself, only_iterator
from plgolf.training.requirements import check_optimization

_END = object()


class _LoggedValue(_ResultMetric):
    """A number that was logged. Lightning moves it with each new one, and copies what it knows of it."""

    def to(self, device: torch.device, *args: Any, **kwargs: Any) -> _ResultMetric:  # type: ignore[override]
        there = self.value.device == device and (
            not self.meta.is_mean_reduction or self.cumulated_batch_size.device == device
        )
        return self if there else super().to(device, *args, **kwargs)


class _Logged(_ResultCollection):
    """What was logged in an epoch, and whether that is news."""

    changed = True

    def __setitem__(self, key: str, metric: _ResultMetric) -> None:
        if metric.is_tensor and type(metric) is _ResultMetric:
            metric.__class__ = _LoggedValue
        super().__setitem__(key, metric)

    def update_metrics(self, key: str, value: Any, batch_size: int) -> None:
        self.changed = True
        super().update_metrics(key, value, batch_size)

    def reset(self, metrics: bool | None = None, fx: str | None = None) -> None:
        self.changed = True
        super().reset(metrics, fx)


class StepLoop(_TrainingEpochLoop):
    """Lightning's loop with the same hooks, arguments, counters and logged values.

    Lightning makes some twenty calls of hooks a micro-batch, each with a line for a debugging log, a context
    of a profiler and properties of properties; inspects signatures; looks for overridden methods; collects
    metrics that have not changed. And on several ranks it shares before every micro-batch whether rank 0 has
    been terminated, which is to wait for the device: here ranks tell each other of signals by ``TrainClock``.

    Where more is asked for, each micro-batch goes Lightning's own way (``is_ordinary``), and so does the
    first one of a resumed run. ``GolfModule`` has one scheduler, which steps after each step.
    """

    def __init__(self, trainer: Trainer, replaced: _TrainingEpochLoop) -> None:
        super().__init__(trainer)
        # Its own parts and counters, so that whoever holds them holds these.
        self.__dict__.update(vars(replaced))
        self._results: _Logged = _Logged(training=True)
        self._hooks: Hooks | None = None
        self._optimization: Optimization | None = None
        self._batches: Iterator[Any] | None = None
        self._device: torch.device | None = None
        self._strategy_begins: Callable[..., Any] | None = None

    @classmethod
    def put_in_place(cls, trainer: Trainer) -> None:
        """Replaces the trainer's loop, unless it is somebody else's own; before a checkpoint is restored."""
        if type(trainer.fit_loop.epoch_loop) is _TrainingEpochLoop:
            trainer.fit_loop.epoch_loop = cls(trainer, trainer.fit_loop.epoch_loop)

    def run(self, data_fetcher: _DataFetcher) -> None:
        trainer = self.trainer
        check_optimization(trainer)  # Again: a callback may have put another scheduler in place.
        if not is_ordinary(trainer, data_fetcher):
            super().run(data_fetcher)
            return
        strategy = trainer.strategy
        hooks = self._hooks = Hooks(trainer)
        self._optimization = Optimization(trainer, hooks)
        self._device = strategy.root_device if moves_batches_itself(trainer) else None
        self._strategy_begins = overridden(strategy, "on_train_batch_start", Strategy)
        self._results.changed = True
        precision, strategy.precision_plugin = strategy.precision_plugin, StepPrecision(trainer, hooks)
        try:
            super().run(data_fetcher)
        finally:
            self._hooks = self._optimization = self._batches = None
            strategy.precision_plugin = precision

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        super().on_run_start(data_fetcher)
        if self._optimization is not None:
            self._batches = only_iterator(data_fetcher)

    def advance(self, data_fetcher: _DataFetcher) -> None:
        hooks, optimization = self._hooks, self._optimization
        if hooks is None or optimization is None or self._restarting:
            super().advance(data_fetcher)
            return
        if self.val_loop._restarting:
            self.val_loop.restarting = False
        progress, logged, connector = self.batch_progress, self._results, self.trainer._logger_connector
        batch, batch_idx = self._next_batch(data_fetcher), progress.current.ready
        progress.is_last_batch = data_fetcher.done
        batch = self._to_device(batch, hooks)
        progress.increment_ready()
        connector._first_loop_iter = connector._first_loop_iter is None
        logged.batch, logged.batch_size, logged.dataloader_idx = batch, None, None

        outputs, goes_on, ends_step = None, True, not self._should_accumulate()
        if batch is None:
            said = "train_dataloader yielded None. If this was on purpose, ignore this warning..."
            self._warning_cache.warn(said)
        else:
            goes_on = hooks.call("on_train_batch_start", batch, batch_idx) != -1
            if self._strategy_begins is not None:
                hooks.call_one("on_train_batch_start", self._strategy_begins, batch, batch_idx)
            if goes_on:
                progress.increment_started()
                outputs = optimization.run(batch, batch_idx, ends_step=ends_step)
            else:
                progress.increment_by(0, is_last_batch=True)
                ends_step = not self._should_accumulate()
        progress.increment_processed()
        if ends_step:
            self._step_scheduler(hooks)
        if not goes_on:
            raise StopIteration

        hooks.call("on_train_batch_end", outputs, batch, batch_idx)
        self._end_batch()

    def _next_batch(self, data_fetcher: _DataFetcher) -> Any:
        batch = _END if self._batches is None else next(self._batches, _END)
        if batch is _END:  # Lightning's own way then, which also knows how an epoch ends.
            batch, _, _ = next(data_fetcher)
        else:
            data_fetcher.fetched += 1
            data_fetcher.done = data_fetcher.fetched >= data_fetcher.length  # type: ignore[operator]
        return batch

    def _to_device(self, batch: Any, hooks: Hooks) -> Any:
        if self._device is not None and type(batch) is Batch:
            return batch.to(self._device)
        strategy = self.trainer.strategy
        batch = strategy.precision_plugin.convert_input(batch)
        batch = self.trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
        return hooks.call_one("batch_to_device", strategy.batch_to_device, batch, dataloader_idx=0)

    def _step_scheduler(self, hooks: Hooks) -> None:
        strategy = self.trainer.strategy
        self.scheduler_progress.increment_ready()
        step = strategy.lightning_module.lr_scheduler_step
        hooks.call_one("lr_scheduler_step", step, strategy.lr_scheduler_configs[0].scheduler, None)
        self.scheduler_progress.increment_completed()

    def _end_batch(self) -> None:
        trainer, logged = self.trainer, self._results
        if logged.changed:
            trainer._logger_connector.on_batch_end()
            logged.changed = False
        logged.batch = logged.batch_size = None
        self.batch_progress.increment_completed()
        every = trainer.log_every_n_steps
        has_row = every and (self._batches_that_stepped + 1) % every == 0
        if has_row or trainer.should_stop or trainer.fast_dev_run:
            trainer._logger_connector.update_train_step_metrics()

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        trainer = self.trainer
        if (
            self._optimization is None
            or self._skip_next_val
            or trainer.should_stop
            or trainer.received_sigterm
            or self._should_check_val_fx(data_fetcher)
        ):
            super().on_advance_end(data_fetcher)
            self._results.changed = True  # A validation may have logged by the same names.
        elif not self._should_accumulate():
            self._batches_that_stepped += 1

    @property
    def done(self) -> bool:
        most = self.max_steps
        goes_on = (
            self._optimization is not None
            and not self.trainer.should_stop
            and (most == -1 or self.global_step < most)
            and not self._num_ready_batches_reached()
        )
        # Why a run may end, and when it may not, takes more to find out.
        return not goes_on and bool(super().done)

    @property
    def global_step(self) -> int:
        if self._optimization is None:
            return super().global_step
        return self.automatic_optimization.optim_progress.optimizer.step.total.completed

    def _should_accumulate(self) -> bool:
        trainer = self.trainer
        if self.batch_progress.current.ready % trainer.accumulate_grad_batches == 0:
            return False
        return not self._num_ready_batches_reached() or trainer.strategy.handles_gradient_accumulation

    def _num_ready_batches_reached(self) -> bool:
        progress = self.batch_progress
        return progress.is_last_batch or progress.current.ready == self.trainer.fit_loop.max_batches

    def _should_check_val_fx(self, data_fetcher: _DataFetcher) -> bool:
        # That none is due takes less to find out than whether there is any.
        trainer, progress, every = self.trainer, self.batch_progress, self.trainer.val_check_batch
        by_batches = trainer._val_check_time_interval is None
        if by_batches and not progress.is_last_batch and not trainer.should_stop:
            if every == float("inf"):
                if not isinstance(trainer.limit_train_batches, int):
                    return False
            elif progress.total.ready % every and progress.current.ready % every:
                return False
        return super()._should_check_val_fx(data_fetcher)

    def _broadcast_sigterm_tensor(self) -> None:
        """Does nothing: ``TrainClock`` shares signals, and with the clock's reading."""

    def _on_before_fetch(self) -> None:
        if self._optimization is None:
            self.trainer.profiler.start("[_TrainingEpochLoop].train_dataloader_next")

    def _on_after_fetch(self) -> None:
        if self._optimization is None:
            self.trainer.profiler.stop("[_TrainingEpochLoop].train_dataloader_next")
