"""The loop over micro-batches: Lightning's, without the work that nobody asked for."""

from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultCollection, _ResultMetric

from plgolf.data.stream import Batch
from plgolf.training.hooks import Hooks
from plgolf.training.optimization import Optimization, StepPrecision
from plgolf.training.ordinary import is_ordinary, moves_batches_itself


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

    Where more is asked for, a profiler or manual optimization, each micro-batch goes Lightning's own way
    (``is_ordinary``), and so does the first one of a resumed run.
    """

    def __init__(self, trainer: Trainer, replaced: _TrainingEpochLoop) -> None:
        super().__init__(trainer)
        # Its own parts and counters, so that whoever holds them holds these.
        self.__dict__.update(vars(replaced))
        self._results: _Logged = _Logged(training=True)
        self._hooks: Hooks | None = None
        self._optimization: Optimization | None = None
        self._moves_itself = False

    @classmethod
    def put_in_place(cls, trainer: Trainer) -> None:
        """Replaces the trainer's loop, unless it is somebody else's own; before a checkpoint is restored."""
        if type(trainer.fit_loop.epoch_loop) is _TrainingEpochLoop:
            trainer.fit_loop.epoch_loop = cls(trainer, trainer.fit_loop.epoch_loop)

    def run(self, data_fetcher: _DataFetcher) -> None:
        trainer = self.trainer
        if not is_ordinary(trainer, data_fetcher):
            super().run(data_fetcher)
            return
        strategy = trainer.strategy
        hooks = self._hooks = Hooks(trainer)
        self._optimization, self._moves_itself = Optimization(trainer, hooks), moves_batches_itself(trainer)
        self._results.changed = True
        precision, strategy.precision_plugin = strategy.precision_plugin, StepPrecision(trainer, hooks)
        try:
            super().run(data_fetcher)
        finally:
            self._hooks = self._optimization = None
            strategy.precision_plugin = precision

    def advance(self, data_fetcher: _DataFetcher) -> None:
        hooks, optimization, progress = self._hooks, self._optimization, self.batch_progress
        if hooks is None or optimization is None or self.restarting:
            super().advance(data_fetcher)
            return
        if self.val_loop.restarting:
            self.val_loop.restarting = False
        batch, _, _ = next(data_fetcher)
        batch_idx = self.batch_idx + 1
        progress.is_last_batch = data_fetcher.done
        batch = self._to_device(batch, hooks)
        progress.increment_ready()
        self._begin_batch(batch)

        outputs, goes_on = None, True
        if batch is None:
            said = "train_dataloader yielded None. If this was on purpose, ignore this warning..."
            self._warning_cache.warn(said)
        else:
            goes_on = hooks.call("on_train_batch_start", batch, batch_idx) != -1
            hooks.call_one(self.trainer.strategy, "on_train_batch_start", batch, batch_idx)
            if goes_on:
                progress.increment_started()
                outputs = optimization.run(batch, batch_idx)
            else:
                progress.increment_by(0, is_last_batch=True)
        progress.increment_processed()
        self._step_schedulers(hooks)
        if not goes_on:
            raise StopIteration

        hooks.call("on_train_batch_end", outputs, batch, batch_idx)
        self._end_batch()

    def _to_device(self, batch: Any, hooks: Hooks) -> Any:
        trainer = self.trainer
        if self._moves_itself and type(batch) is Batch:
            return batch.to(trainer.strategy.root_device)
        batch = trainer.precision_plugin.convert_input(batch)
        batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
        return hooks.call_one(trainer.strategy, "batch_to_device", batch, dataloader_idx=0)

    def _step_schedulers(self, hooks: Hooks) -> None:
        trainer, progress = self.trainer, self.scheduler_progress
        if not self._should_accumulate():
            for config in trainer.strategy.lr_scheduler_configs:
                is_due = config.interval == "step" and (self.batch_idx + 1) % config.frequency == 0
                if is_due and not config.reduce_on_plateau:
                    progress.increment_ready()
                    hooks.call_one(trainer.lightning_module, "lr_scheduler_step", config.scheduler, None)
                    progress.increment_completed()
        if self._num_ready_batches_reached():
            self.update_lr_schedulers("epoch", update_plateau_schedulers=False)

    def _begin_batch(self, batch: Any) -> None:
        connector, logged = self.trainer._logger_connector, self._results
        connector._first_loop_iter = connector._first_loop_iter is None
        logged.batch, logged.batch_size, logged.dataloader_idx = batch, None, None

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
            or any(config.reduce_on_plateau for config in trainer.strategy.lr_scheduler_configs)
            or self._should_check_val_fx(data_fetcher)
        ):
            super().on_advance_end(data_fetcher)
            self._results.changed = True  # A validation may have logged by the same names.
        elif not self._should_accumulate():
            self._batches_that_stepped += 1

    @property
    def global_step(self) -> int:
        if self._optimization is None:
            return super().global_step
        return self.automatic_optimization.optim_progress.optimizer.step.total.completed

    def _should_accumulate(self) -> bool:
        trainer = self.trainer
        if self.batch_progress.current.ready % trainer.accumulate_grad_batches == 0:
            return False
        return trainer.strategy.handles_gradient_accumulation or not self._num_ready_batches_reached()

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
