"""Which fits ``StepLoop`` can step through by itself, and which go Lightning's own way."""

import hashlib
import inspect
import logging
from functools import cache

from lightning.pytorch import Trainer
from lightning.pytorch.core.hooks import DataHooks
from lightning.pytorch.loops.fetchers import _DataFetcher, _DataLoaderIterDataFetcher
from lightning.pytorch.loops.optimization.automatic import _AutomaticOptimization
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.trainer import call
from lightning.pytorch.trainer.connectors.logger_connector.logger_connector import _LoggerConnector
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultCollection, _ResultMetric

REPLACED = (
    *(_TrainingEpochLoop.run, _TrainingEpochLoop.advance, _TrainingEpochLoop.on_advance_end),
    *(_TrainingEpochLoop._should_accumulate, _TrainingEpochLoop._should_check_val_fx),
    *(_TrainingEpochLoop._build_kwargs, _TrainingEpochLoop.update_lr_schedulers),
    *(_TrainingEpochLoop._update_learning_rates, _AutomaticOptimization),
    *(Precision.pre_backward, Precision.post_backward, Precision._after_closure, Precision._clip_gradients),
    *(call._call_callback_hooks, call._call_lightning_module_hook, call._call_strategy_hook),
    *(_LoggerConnector.on_batch_start, _LoggerConnector.on_batch_end),
    *(_LoggerConnector.update_train_step_metrics, _ResultCollection.log, _ResultMetric),
)
"""What of Lightning's is done otherwise in a step."""

KNOWN = "2d47cd44dd51be878efdc57af14cbf2db86a245df62700fc3cfa16d5855c9f57"
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

    Nobody measures hooks or has them logged; the optimization is automatic, in 32 bits as far as Lightning
    knows; ``training_step`` takes batches; and Lightning is one whose steps are known.
    """
    return (
        digest() == KNOWN
        and type(trainer.profiler) is PassThroughProfiler  # type: ignore[attr-defined]
        and not logging.getLogger(call.__name__).isEnabledFor(logging.DEBUG)
        and trainer.lightning_module.automatic_optimization
        and type(trainer.precision_plugin) is Precision
        and not isinstance(data_fetcher, _DataLoaderIterDataFetcher)
    )


def moves_batches_itself(trainer: Trainer) -> bool:
    """Says whether nobody has a hook around the way of a batch to its device."""
    owners = (trainer.lightning_module, trainer.datamodule)  # type: ignore[attr-defined]
    names = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
    hooks = [getattr(owner, name) for owner in owners if owner is not None for name in names]
    theirs = [getattr(DataHooks, name) for name in names]
    return (
        all(getattr(hook, "__func__", None) in theirs for hook in hooks)
        and type(trainer.strategy).batch_to_device is Strategy.batch_to_device
    )
