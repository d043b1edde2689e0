"""The LightningModule: the model, its optimizer and schedule, and its score."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from plgolf.config import config_to_dict
from plgolf.data.byte_counts import ByteCounts
from plgolf.data.stream import Batch
from plgolf.errors import UserError
from plgolf.metrics import BitsPerByte, bits_per_byte
from plgolf.model import GPT, GPTConfig
from plgolf.optim import MuonAdam, Schedule, Warmdown
from plgolf.roles import param_groups
from plgolf.training.clock import TrainClock


@dataclass(frozen=True)
class Score:
    """A validation result.

    Args:
        loss: nats per token.
        bpb: bits per byte.
        num_tokens: targets scored.
        num_bytes: UTF-8 bytes they stand for.
        bpb_raw: bits per byte of the text they were made from; None if that is not known.
        num_raw_bytes: bytes of that text; 0 if that is not known.
    """

    loss: float
    bpb: float
    num_tokens: int
    num_bytes: int
    bpb_raw: float | None
    num_raw_bytes: int

    @classmethod
    def of(cls, metric: BitsPerByte) -> "Score":
        """Reads a metric; every rank must do so."""
        nats, num_tokens, num_bytes, num_raw_bytes = metric.totals()
        return cls(
            loss=(nats / num_tokens).item(),
            bpb=bits_per_byte(nats, num_bytes).item(),
            num_tokens=int(num_tokens),
            num_bytes=int(num_bytes),
            bpb_raw=bits_per_byte(nats, num_raw_bytes).item() if num_raw_bytes else None,
            num_raw_bytes=int(num_raw_bytes),
        )

    def named(self, prefix: str) -> dict[str, float]:
        """Returns what is logged of it, by name."""
        values = {f"{prefix}/loss": self.loss, f"{prefix}/bpb": self.bpb}
        return values if self.bpb_raw is None else {**values, f"{prefix}/bpb_raw": self.bpb_raw}


class GolfModule(LightningModule):
    """Trains and scores a GPT.

    Args:
        gpt: the architecture.
        optimizer: makes the optimizer from groups of parameters by role.
        schedule: what multiplies the base learning rates; null for ``Warmdown`` over 3000 steps.
        compile: compiles the model with ``torch.compile`` (one graph, static shapes).
    """

    def __init__(
        self,
        gpt: GPTConfig = GPTConfig(),  # noqa: B008 (frozen)
        optimizer: Callable[[Iterable[dict[str, Any]]], Optimizer] = MuonAdam,
        schedule: Schedule | None = None,
        compile: bool = False,  # noqa: A002
    ) -> None:
        super().__init__()
        self.gpt = GPT(gpt)
        self.optimizer = optimizer
        self.schedule = schedule or Warmdown()
        self.compiled = compile
        self.bits_per_byte = BitsPerByte()
        self.train_loss = torch.zeros(())
        """Mean loss of the micro-batches of the last step so far, on this rank."""
        self.lr_factor = 1.0
        """What the schedule multiplied the learning rates of the last step by."""
        self.val_score: Score | None = None
        """The last validation's result."""
        self._byte_counts: ByteCounts[Tensor] | None = None
        self._configured = False
        self._factor: Callable[[int], float] = lambda step: 1.0  # noqa: ARG005

    def check(self, trainer: Trainer) -> None:
        """Raises a UserError if the trainer would compute in other types than the model's own."""
        if trainer.precision != "32-true":
            raise UserError(
                "trainer.precision must be left alone, model.gpt.compute_dtype decides what the model "
                f"computes in, got {trainer.precision}"
            )
        if trainer.strategy.root_device.type == "mps":
            raise UserError("trainer.accelerator must be cpu or gpu, got mps, which cannot sum in float64")

    def setup(self, stage: str) -> None:
        self.check(self.trainer)

    def configure_callbacks(self) -> list[Callback]:
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        return [] if any(isinstance(c, TrainClock) for c in callbacks) else [TrainClock()]

    def configure_model(self) -> None:
        if self._configured:  # Lightning comes by for every fit and validate.
            return
        self._configured = True
        if self.trainer.strategy.root_device.type == "cuda":
            _set_up_cuda(self.gpt.config.compute_dtype)
        if self.compiled:
            # In place, so that the names in the state dict stay as they are.
            self.gpt.compile(dynamic=False, fullgraph=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self.optimizer(param_groups(self.gpt))
        clock, trainer, schedule = TrainClock.of(self.trainer), self.trainer, self.schedule

        def factor(step: int) -> float:
            return schedule.factor(clock.progress(step, trainer.max_steps))

        self._factor = factor
        scheduler = LambdaLR(optimizer, factor)
        # LearningRateMonitor appends each group's name: lr/matrix, lr/embedding and so on.
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"},
        }

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        TrainClock.of(self.trainer).tick(self.device)
        group = scheduler.optimizer.param_groups[0]
        self.lr_factor = group["lr"] / group["initial_lr"]
        scheduler.step()

    def on_train_start(self) -> None:
        # A resumed run may have another end than the one its stored learning rates were meant for.
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = group["initial_lr"] * self._factor(self.trainer.global_step)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss: Tensor = self.gpt(batch.input_ids.long(), batch.target_ids.long())
        accumulation = self.trainer.accumulate_grad_batches
        share = loss.detach() / accumulation
        self.train_loss = share if batch_idx % accumulation == 0 else self.train_loss + share
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        step, trainer = self.trainer.global_step, self.trainer
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stepped and step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            loss = self.trainer.strategy.reduce(self.train_loss, reduce_op="mean")
            self._record({"train/loss": loss})

    def on_validation_epoch_start(self) -> None:
        data = getattr(self.trainer, "datamodule", None)
        counts = getattr(data, "byte_counts", None)
        if counts is None:
            raise UserError("bits per byte need a datamodule with byte_counts, such as ShardDataModule")
        tables = (counts.base_bytes, counts.has_leading_space, counts.is_boundary)
        self._byte_counts = ByteCounts(*(torch.as_tensor(table, device=self.device) for table in tables))

    def add_score(self, batch: Batch, metric: BitsPerByte) -> None:
        """Scores a validation batch with the weights as they are and adds it to a metric."""
        assert self._byte_counts is not None
        input_ids, target_ids = batch.input_ids.long(), batch.target_ids.long()
        counted = target_ids.clone()
        counted[batch.num_sequences :] = -100
        num_tokens = batch.num_sequences * target_ids.size(1)
        nats = self.gpt(input_ids, counted).double() * num_tokens
        real = slice(batch.num_sequences)
        num_bytes = self._byte_counts(input_ids[real], target_ids[real])
        raw_bytes = 0 if batch.raw_bytes is None else batch.raw_bytes.long()
        metric.update(nats, num_tokens, num_bytes, raw_bytes)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.add_score(batch, self.bits_per_byte)

    def on_validation_epoch_end(self) -> None:
        self.val_score = Score.of(self.bits_per_byte)
        self.bits_per_byte.reset()
        values = self.val_score.named("val")
        # A sanity check of the whole split is the score of step 0; one of a few batches is no score.
        if not self.trainer.sanity_checking or self.trainer.num_sanity_val_steps == float("inf"):
            self._record(values)

    def _record(self, values: dict[str, Any]) -> None:
        """Tells callbacks through Lightning and loggers directly.

        Lightning counts a logger's steps from 0, and would show a metric named ``step`` to callbacks too.
        """
        self.log_dict(values, logger=False, sync_dist=self.trainer.world_size > 1)
        scalars = {name: float(value) for name, value in values.items()}
        for logger in self.trainer.loggers:
            logger.log_metrics(scalars, step=self.trainer.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["gpt_config"] = config_to_dict(self.gpt.config)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_same_model(checkpoint, self.gpt.config)
        # Lightning counts micro-batches, and a step may have another number of them on these ranks.
        loops = checkpoint.get("loops", {}).get("fit_loop", {})
        for counters in loops.get("epoch_loop.batch_progress", {}).values():
            if isinstance(counters, dict):
                here = checkpoint["global_step"] * self.trainer.accumulate_grad_batches
                shift = here - counters["ready"]
                counters.update({name: count + shift for name, count in counters.items()})


def check_same_model(checkpoint: Mapping[str, Any], config: GPTConfig) -> None:
    """Raises a UserError that names both values if a checkpoint is of another architecture."""
    saved, ours = checkpoint.get("gpt_config"), config_to_dict(config)
    if saved is not None and saved != ours:
        key = next(key for key in ours if saved.get(key) != ours[key])
        raise UserError(f"model.gpt.{key} must be the checkpoint's {saved.get(key)}, got {ours[key]}")


def _set_up_cuda(compute_dtype: str) -> None:
    """Allows TF32 products and, as the reference does, flash attention only (which has no float32)."""
    torch.set_float32_matmul_precision("high")
    if compute_dtype == "bfloat16" and torch.cuda.get_device_capability() >= (8, 0):
        torch.backends.cuda.enable_flash_sdp(True)
        torch.backends.cuda.enable_cudnn_sdp(False)
        torch.backends.cuda.enable_mem_efficient_sdp(False)
        torch.backends.cuda.enable_math_sdp(False)
