"""Which fits ``StepLoop`` can step through by itself, and which go Lightning's own way."""

import hashlib
import inspect
import logging
from collections.abc import Iterator
from functools import cache
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.core.hooks import DataHooks
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loops.fetchers import _DataFetcher, _DataLoaderIterDataFetcher, _PrefetchDataFetcher
from lightning.pytorch.loops.optimization.automatic import _AutomaticOptimization
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy, Strategy
from lightning.pytorch.trainer import call
from lightning.pytorch.trainer.connectors.logger_connector.logger_connector import _LoggerConnector
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultCollection, _ResultMetric
from lightning.pytorch.utilities.combined_loader import CombinedLoader, _MaxSizeCycle

from plgolf.training.hooks import overridden

REPLACED = (
    *(_TrainingEpochLoop.run, _TrainingEpochLoop.advance, _TrainingEpochLoop.on_advance_end),
    *(vars(_TrainingEpochLoop)["done"].fget, _TrainingEpochLoop._num_ready_batches_reached),
    *(_TrainingEpochLoop._should_accumulate, _TrainingEpochLoop._should_check_val_fx),
    *(_TrainingEpochLoop._build_kwargs, _TrainingEpochLoop.update_lr_schedulers),
    *(_TrainingEpochLoop._update_learning_rates, _AutomaticOptimization),
    *(Precision.pre_backward, Precision.post_backward, Precision._after_closure, Precision._clip_gradients),
    *(Precision.backward, Precision.optimizer_step, LightningOptimizer.step, LightningModule.backward),
    *(LightningModule.optimizer_step, LightningModule.optimizer_zero_grad, Strategy.training_step),
    *(Strategy.post_training_step, Strategy.backward, Strategy.optimizer_step, _DataFetcher.__next__),
    *(_PrefetchDataFetcher.__next__, CombinedLoader.__next__, _MaxSizeCycle.__next__, SingleDeviceStrategy),
    *(call._call_callback_hooks, call._call_lightning_module_hook, call._call_strategy_hook),
    *(_LoggerConnector.on_batch_start, _LoggerConnector.on_batch_end),
    *(_LoggerConnector.update_train_step_metrics, _ResultCollection.log, _ResultMetric),
)
"""What of Lightning's is done otherwise in a step."""

KNOWN = "0bc00508427cbd6809897196e97e430b55474f9a0bf5836e869afd114208b8f4"
"""Of Lightning 2.6.1 to 2.6.6."""


@cache
def digest() -> str:
    """Returns the SHA-256 of the sources of ``REPLACED``; nothing where they are not installed."""
    try:
        text = "".join(inspect.getsource(part) for part in REPLACED)
    except OSError:
        return ""
    return hashlib.sha256(text.encode()).hexdigest()


def is_ordinary(trainer: Trainer, data_fetcher: _DataFetcher) -> bool:
    """Says whether nothing is asked of a fit's steps that ``StepLoop`` does not know.

    Nobody measures hooks or has them logged; the optimization is in 32 bits as far as Lightning knows;
    ``training_step`` takes batches; and Lightning is one whose steps are known.
    """
    return (
        digest() == KNOWN
        and type(trainer.profiler) is PassThroughProfiler  # type: ignore[attr-defined]
        and not logging.getLogger(call.__name__).isEnabledFor(logging.DEBUG)
        and type(trainer.precision_plugin) is Precision
        and not isinstance(data_fetcher, _DataLoaderIterDataFetcher)
    )


def only_iterator(data_fetcher: _DataFetcher) -> Iterator[Any] | None:
    """Returns where all batches come from, as they are; None if from several, or if their end is unknown."""
    loader: CombinedLoader = data_fetcher.combined_loader
    iterator = loader._iterator
    if (
        type(data_fetcher) is _PrefetchDataFetcher
        and data_fetcher.length is not None
        and type(iterator) is _MaxSizeCycle
        and len(loader.flattened) == 1
        and loader.iterables is loader.flattened[0]
    ):
        return iterator.iterators[0]
    return None


def optimizes_plainly(trainer: Trainer) -> bool:
    """Says whether nobody has an own way to go forward, back, through an optimizer's step, or to zero.

    What Lightning then calls one another for comes to ``training_step``, ``loss.backward()``,
    ``optimizer.step(closure)`` and ``optimizer.zero_grad()``.
    """
    module, strategy = trainer.lightning_module, trainer.strategy
    names = ("backward", "optimizer_step", "optimizer_zero_grad")
    return (
        type(strategy) is SingleDeviceStrategy
        and strategy.model is module
        and not any(overridden(module, name, LightningModule) for name in names)
    )


def moves_batches_itself(trainer: Trainer) -> bool:
    """Says whether nobody has a hook around the way of a batch to its device."""
    owners = (trainer.lightning_module, trainer.datamodule)  # type: ignore[attr-defined]
    names = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
    return not (
        any(overridden(owner, name, DataHooks) for owner in owners if owner is not None for name in names)
        or overridden(trainer.strategy, "batch_to_device", Strategy)
    )
