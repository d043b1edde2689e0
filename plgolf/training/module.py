"""The LightningModule: trains a GPT, one optimizer step in each ``training_step``, and scores it."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.types import LRSchedulerConfigType, OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer

from plgolf.data.stream import Batch
from plgolf.distributed import all_gather_floats
from plgolf.errors import UserError
from plgolf.model import GPTConfig
from plgolf.optim import MuonAdam, Schedule, Warmdown
from plgolf.training.checkpoints import resume
from plgolf.training.checkpoints.counters import reset_loop_counters, reset_scheduler_state
from plgolf.training.health.nonfinite import StepStatistics, check_finite
from plgolf.training.health.peers import PeerWatch
from plgolf.training.logs.metrics_row import has_row, record, training_row
from plgolf.training.optimizer_settings import (
    apply_changed_settings,
    factor_of,
    group_settings,
    make_optimizer,
    make_scheduler,
    set_learning_rates,
    set_mode,
)
from plgolf.training.randomness import seed_generators
from plgolf.training.run import Run
from plgolf.training.scoring import ScoringModule
from plgolf.training.warmup import CompileWarmup


class GolfModule(ScoringModule):
    """Trains and scores a GPT.

    A batch of the training loader is one optimizer step: a sequence of micro-batches, whose gradients ranks
    average with the last of them. Lightning's counters therefore count optimizer steps.

    Args:
        gpt: architecture of the model.
        optimizer: makes the optimizer from groups of parameters by role.
        schedule: factor on all learning rates over the run; null for ``Warmdown`` over 3000 steps.
        other_schedules: factors on other numbers: ``weight_decay``, besides the learning rate's, ``momentum``
            of the matrices, besides its warm-up, or a role's number, ``matrix/weight_decay``; null for none.
        compile: compile the model with ``torch.compile`` (one graph, static shapes).
        gradient_clip_norm: scale gradients with a larger norm down to this norm; null for no clipping.
        nonfinite: for a loss or gradient that is NaN or infinite: ``stop`` ends the run with an error that
            names step, rank and batch, before any checkpoint of that step; ``skip`` waits for the device
            before each step, and skips at most 10 steps in a row.
    """

    def __init__(
        self,
        gpt: GPTConfig = GPTConfig(),  # noqa: B008 (frozen)
        optimizer: Callable[[Iterable[dict[str, Any]]], Optimizer] = MuonAdam,
        schedule: Schedule | None = None,
        other_schedules: dict[str, Schedule] | None = None,
        compile: bool = False,  # noqa: A002
        gradient_clip_norm: float | None = None,
        nonfinite: Literal["stop", "skip"] = "stop",
    ) -> None:
        super().__init__(gpt, compile=compile)
        if gradient_clip_norm is not None and not gradient_clip_norm > 0:
            raise UserError(f"gradient_clip_norm must be positive, got {gradient_clip_norm}")
        self.automatic_optimization = False
        self.optimizer = optimizer
        self.schedule, self.other_schedules = schedule or Warmdown(), other_schedules
        self.gradient_clip_norm = gradient_clip_norm
        self.nonfinite = nonfinite
        self._group_settings: list[dict[str, Any]] = []
        self._resumed = False
        self._seed: int | None = None

    def check(self, trainer: Trainer) -> None:
        """Raises a UserError if the trainer asks for something that this module cannot do."""
        with suppress(ImportError):  # Packed code leaves these checks out.
            from plgolf.training.requirements import check_module, check_trainer  # noqa: PLC0415

            check_trainer(trainer, self.gpt.config, compiled=self.compiled)
            check_module(self)

    def configure_callbacks(self) -> list[Callback]:
        self.check(self.trainer)  # Before Lightning looks, which would name no setting of plgolf.
        present = self.trainer.callbacks  # type: ignore[attr-defined]
        self.run = Run(present)
        missing = [k() for k in (PeerWatch, CompileWarmup) if not any(isinstance(c, k) for c in present)]
        clock = [] if self.run.clock in present else [self.run.clock]
        return [*clock, *missing, *super().configure_callbacks()]

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = make_optimizer(self.optimizer, self.gpt)
        self._group_settings = group_settings(optimizer)
        progress = partial(self.run.clock.progress, max_steps=self.trainer.max_steps)
        scheduler = make_scheduler(optimizer, progress, self.schedule, self.other_schedules)
        # LearningRateMonitor appends each group's name: lr/matrix, lr/embedding and so on.
        rates: LRSchedulerConfigType = {"scheduler": scheduler, "interval": "step", "name": "lr"}
        return {"optimizer": optimizer, "lr_scheduler": rates}

    def setup(self, stage: str) -> None:
        if stage == "fit":
            with suppress(ImportError):  # Packed code leaves this check out.
                from plgolf.training.health.monitors import check_monitors  # noqa: PLC0415

                check_monitors(self.trainer, self, self.trainer.datamodule)  # type: ignore[attr-defined]
        # Stepping the optimizer before ModelCheckpoint saves is what is wanted here.
        warnings.filterwarnings("ignore", "Using ModelCheckpoint with manual optimization")
        self._seed, self._resumed = None, False  # Until a checkpoint sets them.
        self._validated_step = -1

    def on_fit_start(self) -> None:
        seed = torch.initial_seed() % 2**63 if self._seed is None else self._seed
        self._seed = self.trainer.strategy.broadcast(seed)
        self.run.statistics = StepStatistics(dict(self.gpt.named_parameters()), stop=self.nonfinite == "stop")

    def on_train_start(self) -> None:
        resume.check_same_start(self.trainer)
        if self._resumed:  # The checkpoint holds those of its own schedule.
            factor = self.trainer.lr_scheduler_configs[0].scheduler.lr_lambdas[0]  # type: ignore[union-attr]
            set_learning_rates(self.trainer.optimizers[0], factor(self.trainer.global_step))

    def on_train_epoch_start(self) -> None:
        with suppress(ImportError):
            from plgolf.training.requirements import check_optimization  # noqa: PLC0415

            check_optimization(self.trainer)  # Callbacks may have changed what configure_optimizers made.
        set_mode(self.trainer.optimizers, training=True)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        assert self._seed is not None
        seed_generators(self._seed, self.trainer.global_step, self.trainer.global_rank)
        self.run.statistics.begin()

    def training_step(self, batch: Sequence[Batch], batch_idx: int) -> Tensor:
        """Makes one optimizer step on the micro-batches of this rank; returns their mean loss ()."""
        if isinstance(batch, Batch):
            raise UserError("train_dataloader must yield a sequence of Batch for each step, got one Batch")
        if self.run.warming_up:
            return self._backward(batch)
        optimizer: Any = self.optimizers()
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            callback.on_before_zero_grad(self.trainer, self, optimizer)
        optimizer.zero_grad()
        loss = self._backward(batch)
        optimizer.step()
        self._end_step()
        if has_row(self.trainer):  # Before callbacks, which may save what a metric says.
            record(self, training_row(self.trainer, self))
        return loss

    def micro_batch_loss(self, batch: Batch) -> Tensor:
        """Returns the mean loss () of a micro-batch, in nats per token. Override it to change the loss."""
        ids = batch.input_ids.long(), batch.target_ids.long(), "mean", batch.cu_seqlens
        loss: Tensor = self.gpt(*ids, batch.max_document_tokens, self.run.further(batch))
        return loss

    def _backward(self, batch: Sequence[Batch]) -> Tensor:
        count, losses = len(batch), []
        block_sync = getattr(self.trainer.strategy, "block_backward_sync", nullcontext)
        for index, micro_batch in enumerate(batch, start=1):
            # Ranks exchange gradients once a step, during the last backward pass.
            with nullcontext() if index == count else block_sync():
                loss = self.micro_batch_loss(micro_batch)
                self.run.statistics.add_loss(loss)
                self.manual_backward(loss / count if count > 1 else loss)
                losses.append(loss.detach())
        return losses[0] if count == 1 else torch.stack(losses).mean()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self.run.val_score = None
        self.run.statistics.add_gradients()
        if self.nonfinite == "skip":
            self.run.statistics.drop_if_nonfinite(self.trainer, optimizer)
        if self.gradient_clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.gpt.parameters(), self.gradient_clip_norm)

    def _end_step(self) -> None:
        """Exchanges clock, signals and losses between ranks where that is due, and sets learning rates."""
        trainer, run = self.trainer, self.run
        run.statistics.end()
        if run.clock.is_due(trainer) or has_row(trainer):
            unread = run.statistics.take()
            by_rank = all_gather_floats(run.statistics.stacked(unread), run.clock.reading())
            run.clock.agree(by_rank)
            values = [row[2:] for row in by_rank]
            run.train_loss, run.gradient_norm = run.statistics.read(trainer, unread, values)
        else:
            run.clock.advance()
        run.lr_factor = factor_of(trainer.optimizers[0])
        for config in trainer.lr_scheduler_configs:
            config.scheduler.step()  # type: ignore[call-arg]

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not self.run.statistics.has_ended:
            raise UserError(
                "training_step must call GolfModule.training_step, which makes the optimizer step "
                "(override micro_batch_loss to change the loss)"
            )
        # After all callbacks, RunCheckpoint among them.
        self.run.clock.end_if_stopped(self.trainer)

    def on_validation_start(self) -> None:
        set_mode(self.trainer.optimizers, training=False)

    def on_validation_end(self) -> None:
        if self.trainer.state.fn == "fit":
            self.run.clock.end_if_stopped(self.trainer)
            set_mode(self.trainer.optimizers, training=True)

    def on_train_epoch_end(self) -> None:
        self.run.statistics.read_all(self.trainer)  # The run may end between two readings.
        set_mode(self.trainer.optimizers, training=False)

    def on_train_end(self) -> None:
        # The export is complete. A signal that came during it ends the run now.
        self.run.clock.agree_to_stop(self.device)
        self.run.clock.end_if_stopped(self.trainer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.trainer.state.fn == "fit" and self.trainer.state.status == "running":
            self.run.statistics.read_all(self.trainer)
            check_finite(self.trainer)
        super().on_save_checkpoint(checkpoint)
        checkpoint["group_settings"] = self._group_settings
        checkpoint["seed"] = self._seed
        checkpoint["validated_step"] = self._validated_step

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if self.trainer.state.fn != "fit":
            return
        resume.check_callback_states(checkpoint, self.trainer.callbacks)  # type: ignore[attr-defined]
        if type(self).configure_optimizers is GolfModule.configure_optimizers:
            optimizer = make_optimizer(self.optimizer, self.gpt)
            before = resume.saved_group_settings(checkpoint, optimizer)
            resume.check_optimizer_state(checkpoint, make_optimizer(self.optimizer, self.gpt))
            [saved] = checkpoint["optimizer_states"]
            apply_changed_settings(saved["param_groups"], optimizer, before)
            reset_scheduler_state(checkpoint, num_groups=len(optimizer.param_groups))
            self._resumed = True
        self._seed = resume.count_of(checkpoint, "seed", most=2**63)
        self._validated_step = resume.count_of(checkpoint, "validated_step", least=-1)
        reset_loop_counters(checkpoint, self.trainer, validated_step=self._validated_step)
        self.run.clock.start_at(checkpoint["global_step"], self.trainer)
