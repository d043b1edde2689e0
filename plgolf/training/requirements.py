"""What a ``GolfModule`` wants of its trainer, and of whoever overrides its methods."""

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging

from plgolf.errors import UserError
from plgolf.hardware import fast_dtype
from plgolf.model import GPTConfig


def check_trainer(trainer: Trainer, config: GPTConfig, *, compiled: bool) -> None:
    """Raises a UserError if a trainer asks for what cannot be done.

    Args:
        trainer: the trainer, before a fit or a validation.
        config: of the model.
        compiled: whether it is compiled.
    """
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
    if any(isinstance(c, StochasticWeightAveraging) for c in trainer.callbacks):  # type: ignore[attr-defined]
        raise UserError(
            "trainer.callbacks must have EMAWeightAveraging in the place of StochasticWeightAveraging, "
            "which puts a scheduler of its own where the run's is"
        )


def check_optimization(trainer: Trainer) -> None:
    """Raises a UserError unless Lightning makes a fit's steps, with one scheduler that steps after each.

    ``GolfModule`` shares clock, signals and losses as it steps: else nothing would end the run.
    """
    if not trainer.lightning_module.automatic_optimization:
        raise UserError("automatic_optimization must be True, for the clock counts Lightning's steps")
    configs = trainer.lr_scheduler_configs
    if [(c.interval, c.frequency, c.reduce_on_plateau) for c in configs] != [("step", 1, False)]:
        raise UserError(
            "a fit must have one lr_scheduler, of interval step and frequency 1, "
            "for clock and losses are shared as it steps"
        )
