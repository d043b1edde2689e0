"""Lightning's counters in a checkpoint, computed from the step alone.

A checkpoint is data: its own counters are never read. It may have been written before or after the
validation that is due at its step, by a version that counted micro-batches, or by a hostile program.
"""

from typing import Any

from lightning.pytorch import Trainer

from plgolf.errors import UserError
from plgolf.training.checkpoints.resume import step_of


def reset_scheduler_state(checkpoint: dict[str, Any], *, num_groups: int) -> None:
    """Replaces the state of the LambdaLR in a checkpoint; base learning rates stay those of this run."""
    step = step_of(checkpoint)
    checkpoint["lr_schedulers"] = [
        {"last_epoch": step, "_step_count": step + 1, "lr_lambdas": [None] * num_groups}
    ]


def reset_loop_counters(checkpoint: dict[str, Any], trainer: Trainer, *, validated_step: int) -> None:
    """Replaces Lightning's loop counters in a checkpoint: the run continues with the step after it.

    Args:
        checkpoint: read by Lightning afterwards; changed in place.
        trainer: the trainer, whose validation interval is set.
        validated_step: last step whose weights were validated when the checkpoint was written. If a
            validation is due at the checkpoint's step and did not take place, it takes place first.

    Raises:
        UserError: the trainer limits the batches of an epoch.
    """
    if trainer.limit_train_batches not in (None, 1.0):
        raise UserError(
            "trainer.limit_train_batches must be left alone to resume from a checkpoint, "
            f"got {trainer.limit_train_batches}"
        )
    step = step_of(checkpoint)
    loops = _zeroed(trainer.fit_loop.state_dict())
    checkpoint["loops"] = {"fit_loop": loops}
    batches, epochs = loops["epoch_loop.batch_progress"], loops["epoch_progress"]
    steps = loops["epoch_loop.manual_optimization.optim_step_progress"]
    for kind in ("total", "current"):
        batches[kind] = dict.fromkeys(batches[kind], step)
        epochs[kind].update(ready=1, started=1)  # One endless epoch, which is under way.
        steps[kind].update(ready=step, completed=step)
    interval = trainer.val_check_interval
    due = isinstance(interval, int) and step % interval == 0
    # Lightning counts the round in which it makes up for that validation, or skips it, as a step.
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] = step - due
    if step and validated_step != step:  # As if interrupted during the validation.
        loops["epoch_loop.val_loop.batch_progress"]["total"].update(ready=1, started=1)


def _zeroed(counters: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _zeroed(value) if isinstance(value, dict) else type(value)(0) for key, value in counters.items()
    }
