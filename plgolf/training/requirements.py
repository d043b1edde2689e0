"""What ``GolfModule`` requires of its trainer, and of subclasses."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import (
    GradientAccumulationScheduler,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.utilities.model_helpers import is_overridden

from plgolf.errors import UserError
from plgolf.hardware import fast_dtype
from plgolf.model import GPTConfig
from plgolf.training.optimizer_settings import check_optimizer
from plgolf.training.unsupported import check_parts

_NEVER_CALLED = ("optimizer_step", "optimizer_zero_grad", "configure_gradient_clipping", "lr_scheduler_step")
"""Hooks of automatic optimization."""


def check_trainer(trainer: Trainer, config: GPTConfig, *, compiled: bool) -> None:
    """Raises a UserError if a trainer asks for something that cannot be done.

    Args:
        trainer: the trainer, before a fit or a validation.
        config: configuration of the model.
        compiled: True if the model is compiled.
    """
    check_parts(trainer)
    if trainer.precision != "32-true":
        raise UserError(
            "trainer.precision must be left alone, model.gpt.compute_dtype decides what the model "
            f"computes in, got {trainer.precision}"
        )
    device = trainer.strategy.root_device.type
    if device == "mps":
        raise UserError("trainer.accelerator must be cpu or gpu, got mps, which cannot sum in float64")
    # Torch's compiler skips the model there, and does not say why.
    if compiled and config.compute_dtype == "bfloat16" and device == "cuda" and fast_dtype() == "float32":
        raise UserError(
            "model.gpt.compute_dtype must be float32 or auto to compile for a GPU that emulates bfloat16, "
            "got bfloat16"
        )
    if trainer.gradient_clip_val:
        raise UserError(
            "trainer.gradient_clip_val must be left alone, model.gradient_clip_norm clips the gradient, "
            f"got {trainer.gradient_clip_val}"
        )
    if trainer.accumulate_grad_batches != 1:
        raise UserError(
            "trainer.accumulate_grad_batches must be left alone, it follows from data.global_batch_tokens, "
            f"got {trainer.accumulate_grad_batches}"
        )
    _check_callbacks(trainer)


def _check_callbacks(trainer: Trainer) -> None:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, StochasticWeightAveraging):
            raise UserError(
                "trainer.callbacks: StochasticWeightAveraging replaces the learning rate schedule, "
                "use EMAWeightAveraging"
            )
        # Until its first update its average is the initial weights, and they are validated and exported.
        if isinstance(callback, WeightAveraging) and not callback.should_update(step_idx=0):
            raise UserError(
                f"trainer.callbacks: {type(callback).__name__} must average from the first step on, until "
                "then it validates and exports the initial weights"
            )
        if isinstance(callback, GradientAccumulationScheduler):
            raise UserError(
                "trainer.callbacks: GradientAccumulationScheduler cannot be used, accumulation follows from "
                "data.global_batch_tokens"
            )
        # Lightning ignores it where a module steps its optimizer itself.
        if isinstance(callback, ModelCheckpoint) and "'train_time_interval': None" not in callback.state_key:
            raise UserError(
                "trainer.callbacks: ModelCheckpoint cannot save by train_time_interval, "
                "use checkpoint.every_seconds"
            )


def check_loops(trainer: Trainer, *, val_every_steps: int) -> None:
    """Raises a UserError if a trainer sets what ``ShardDataModule`` decides.

    Args:
        trainer: the trainer of a fit.
        val_every_steps: steps between validations, which the datamodule may have set already.
    """
    interval = getattr(trainer, "val_check_interval", "a time")  # Lightning has no attribute for a time.
    if interval not in (1.0, val_every_steps):
        raise UserError(
            f"trainer.val_check_interval must be left alone, data.val_every_steps decides, got {interval}"
        )
    overfit = trainer.overfit_batches  # type: ignore[attr-defined]
    if isinstance(overfit, float) and overfit:
        raise UserError(
            f"trainer.overfit_batches must be a number of steps (training data has no end), got {overfit}"
        )


def check_module(module: LightningModule) -> None:
    """Raises a UserError if a subclass relies on automatic optimization, which is off."""
    if module.automatic_optimization:
        raise UserError("automatic_optimization must be False: GolfModule makes the optimizer step itself")
    for name in _NEVER_CALLED:
        if is_overridden(name, module):
            raise UserError(
                f"{type(module).__name__}.{name} is never called: GolfModule makes the optimizer step in "
                "training_step, override that or micro_batch_loss"
            )


def check_optimization(trainer: Trainer) -> None:
    """Raises a UserError unless a fit has one optimizer, and schedulers that step after each of its steps."""
    if len(trainer.optimizers) != 1:
        raise UserError(f"configure_optimizers must return one optimizer, got {len(trainer.optimizers)}")
    for config in trainer.lr_scheduler_configs:
        asked = (config.interval, config.frequency, config.reduce_on_plateau)
        if asked != ("step", 1, False):
            raise UserError(
                "an lr_scheduler must have interval step and frequency 1, and need no metric, got "
                f"{type(config.scheduler).__name__} with {config.interval} and {config.frequency}"
            )
    check_optimizer(trainer.optimizers[0])
