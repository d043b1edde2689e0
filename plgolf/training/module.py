"""The LightningModule: the model, its optimizer and schedule, and its score."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer

from plgolf.config import config_to_dict
from plgolf.data.byte_counts import ByteCounts
from plgolf.data.stream import Batch
from plgolf.distributed import all_gather_floats
from plgolf.errors import UserError
from plgolf.evaluate import BitsPerByte
from plgolf.evaluate.score import Score, ScoredBatch, score_batch
from plgolf.model import GPT, GPTConfig, flash
from plgolf.optim import MuonAdam, Schedule, Warmdown
from plgolf.roles import param_groups
from plgolf.training.checkpoints import resume
from plgolf.training.checkpoints.run_checkpoint import RunCheckpoint
from plgolf.training.health.nonfinite import StepNumbers, check_finite
from plgolf.training.health.peers import PeerWatch
from plgolf.training.learning_rates import LearningRates, factor_of, group_settings, restore_settings
from plgolf.training.logs.metrics_row import has_row, record, training_row
from plgolf.training.randomness import seed_generators
from plgolf.training.requirements import check_optimization, check_trainer
from plgolf.training.step_loop import StepLoop
from plgolf.training.timing.clock import TrainClock
from plgolf.training.warmup import CompileWarmup


class GolfModule(LightningModule):
    """Trains and scores a GPT.

    Args:
        gpt: the architecture.
        optimizer: makes the optimizer from groups of parameters by role.
        schedule: what multiplies all learning rates over the run; null for ``Warmdown`` over 3000 steps.
        compile: compiles the model with ``torch.compile`` (one graph, static shapes).
        nonfinite: what becomes of a step whose loss or gradient is not finite. ``stop`` ends the run with a
            RunError that names step, rank and batch, after the step and before any checkpoint of it;
            ``skip`` leaves weights and optimizer as they are and goes on with the next batch, at most 10
            times in a row, and waits for the device before each step to know.
    """

    def __init__(
        self,
        gpt: GPTConfig = GPTConfig(),  # noqa: B008 (frozen)
        optimizer: Callable[[Iterable[dict[str, Any]]], Optimizer] = MuonAdam,
        schedule: Schedule | None = None,
        compile: bool = False,  # noqa: A002
        nonfinite: Literal["stop", "skip"] = "stop",
    ) -> None:
        super().__init__()
        self.gpt = GPT(gpt)
        self.optimizer = optimizer
        self.schedule = schedule or Warmdown()
        self.compiled = compile
        self.bits_per_byte = BitsPerByte()
        self.nonfinite = nonfinite
        self.train_loss = math.nan
        """Mean loss of a step's micro-batches over all ranks: the last step that the ranks agreed after."""
        self.gradient_norm = math.nan
        """Norm of that step's gradient, before clipping."""
        self.lr_factor = 1.0
        """What the schedule multiplied the learning rates of the last step by."""
        self.val_score: Score | None = None
        """The last validation's result; None once a step has been made since."""
        self._byte_counts: ByteCounts[Tensor] | None = None
        self._configured = False
        self._factor: Callable[[int], float] = lambda step: 1.0  # noqa: ARG005
        self._group_settings: list[dict[str, Any]] = []
        self._numbers = StepNumbers({})
        self._seed: int | None = None
        self._validated_step = -1

    def __setattr__(self, name: str, value: Any) -> None:
        # Set in each step: no parameters, for nn.Module to look for.
        if name in ("train_loss", "gradient_norm", "lr_factor", "val_score"):
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def check(self, trainer: Trainer) -> None:
        """Raises a UserError if the trainer asks for what this module cannot do."""
        check_trainer(trainer, self.gpt.config, compiled=self.compiled)

    def configure_callbacks(self) -> list[Callback]:
        there = {type(callback) for callback in self.trainer.callbacks}  # type: ignore[attr-defined]
        needed = (TrainClock, PeerWatch, CompileWarmup)
        return [kind() for kind in needed if not any(issubclass(t, kind) for t in there)]

    def configure_model(self) -> None:
        if self._configured:  # Lightning comes by for every fit and validate.
            return
        self._configured = True
        device = self.trainer.strategy.root_device
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32 products, as the reference has them.
            flash.activate_flash_attention(device)
        if self.compiled:
            # In place, so that the names in the state dict stay as they are.
            self.gpt.compile(dynamic=False, fullgraph=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self.optimizer(param_groups(self.gpt))
        clock, trainer, schedule = TrainClock.of(self.trainer), self.trainer, self.schedule

        def factor(step: int) -> float:
            return schedule.factor(clock.progress(step, trainer.max_steps))

        self._factor, self._group_settings = factor, group_settings(optimizer)
        scheduler = LearningRates(optimizer, factor)
        # LearningRateMonitor appends each group's name: lr/matrix, lr/embedding and so on.
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"},
        }

    def setup(self, stage: str) -> None:
        self.check(self.trainer)
        if stage == "fit":
            StepLoop.put_in_place(self.trainer)
        self._seed = None  # Until a checkpoint says otherwise.
        self.val_score, self._validated_step = None, -1

    def on_fit_start(self) -> None:
        check_optimization(self.trainer)
        seed = torch.initial_seed() % 2**63 if self._seed is None else self._seed
        self._seed = self.trainer.strategy.broadcast(seed)
        params = dict(self.gpt.named_parameters())
        self._numbers = StepNumbers(params, stop=self.nonfinite == "stop")

    def on_train_start(self) -> None:
        resume.check_same_start(self.trainer)
        # What a checkpoint has of settings gives way to this run's, whose end may be another one too.
        if self._group_settings:  # Else a subclass has made the optimizer, and knows them.
            factor = self._factor(self.trainer.global_step)
            restore_settings(self.trainer.optimizers[0], self._group_settings, factor)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        trainer = self.trainer
        if batch_idx % trainer.accumulate_grad_batches:
            return
        assert self._seed is not None
        seed_generators(self._seed, trainer.global_step, trainer.global_rank)
        self._numbers.begin()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss: Tensor = self.gpt(batch.input_ids.long(), batch.target_ids.long())
        self._numbers.see_loss(loss)
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self.val_score = None
        self._numbers.see_gradients()
        if self.nonfinite == "skip":
            self._numbers.skip_if_nonfinite(self.trainer, optimizer)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        trainer = self.trainer
        clock = TrainClock.of(trainer)
        self._numbers.end()
        if clock.is_due(trainer) or has_row(trainer):
            unread = self._numbers.take()
            everyones = all_gather_floats(self._numbers.facts(unread), clock.facts())
            clock.agree(everyones)
            rows = [row[2:] for row in everyones]
            self.train_loss, self.gradient_norm = self._numbers.read(trainer, unread, rows)
        else:
            clock.go_on()
        self.lr_factor = factor_of(scheduler.optimizer)
        scheduler.step()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        trainer = self.trainer
        if not self._numbers.has_ended:
            if self._numbers.has_gradients:
                raise UserError("lr_scheduler_step must call GolfModule's, which shares clock and losses")
            return
        if has_row(trainer):
            record(self, training_row(trainer, self))
        # After all callbacks had their turn, RunCheckpoint among them.
        TrainClock.of(trainer).end_if_stopped(trainer)

    def on_validation_epoch_start(self) -> None:
        data = getattr(self.trainer, "datamodule", None)
        counts = getattr(data, "byte_counts", None)
        if counts is None:
            raise UserError("bits per byte need a datamodule with byte_counts, such as ShardDataModule")
        tables = (counts.base_bytes, counts.has_leading_space, counts.is_boundary)
        self._byte_counts = ByteCounts(*(torch.as_tensor(table, device=self.device) for table in tables))

    def add_score(self, batch: Batch, metric: BitsPerByte) -> ScoredBatch:
        """Scores a validation batch with the weights as they are, as ``score_batch`` does."""
        assert self._byte_counts is not None
        return score_batch(self.gpt, self._byte_counts, batch, metric)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.add_score(batch, self.bits_per_byte)

    def on_validation_epoch_end(self) -> None:
        score, checking = Score.of(self.bits_per_byte), self.trainer.sanity_checking
        self.bits_per_byte.reset()
        # A sanity check of the whole split is the score of step 0; one of a few batches is no score.
        if checking and self.trainer.num_sanity_val_steps != float("inf"):
            return
        self.val_score = score
        if not checking:
            self._validated_step = self.trainer.global_step
        record(self, score.named("val"))

    def on_validation_end(self) -> None:
        if self.trainer.state.fn == "fit":
            TrainClock.of(self.trainer).end_if_stopped(self.trainer)

    def on_train_epoch_end(self) -> None:
        self._numbers.read_the_rest(self.trainer)  # Of an end between two readings.

    def on_train_end(self) -> None:
        # The export is whole; a signal that came meanwhile is answered nevertheless.
        clock = TrainClock.of(self.trainer)
        clock.agree_to_stop(self.device)
        clock.end_if_stopped(self.trainer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.trainer.state.fn == "fit" and self.trainer.state.status == "running":
            self._numbers.read_the_rest(self.trainer)
            check_finite(self.trainer)
        checkpoint["gpt_config"] = config_to_dict(self.gpt.config)
        checkpoint["seed"] = self._seed
        checkpoint["validated_step"] = self._validated_step

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        fit = self.trainer.state.fn == "fit"
        allowed = RunCheckpoint.allowed_changes(self.trainer) if fit else []
        if fit or "gpt_config" in checkpoint:  # The reference's artifacts do not say.
            resume.check_same_model(checkpoint, self.gpt.config, allowed=allowed)
        resume.check_weights(checkpoint, self.state_dict())
        if not fit:
            checkpoint.pop("loops", None)
            return
        groups = param_groups(self.gpt)
        resume.check_optimizer_state(checkpoint, self.optimizer(groups))
        self._seed = resume.count_of(checkpoint, "seed", most=2**63)
        self._validated_step = resume.count_of(checkpoint, "validated_step", least=-1)
        resume.place_loops(checkpoint, self.trainer, validated_step=self._validated_step)
        resume.place_schedule(checkpoint, num_groups=len(groups))
        TrainClock.of(self.trainer).start_at(checkpoint["global_step"], self.trainer)
