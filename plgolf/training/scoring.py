"""The half of the LightningModule that scores a GPT: forward, validation, test and prediction."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from plgolf.config import config_to_dict
from plgolf.data.byte_counts import ByteCounts
from plgolf.data.stream import Batch
from plgolf.errors import UserError
from plgolf.evaluate import BitsPerByte
from plgolf.evaluate.score import Score, ScoredBatch, score_batch
from plgolf.model import GPT, GPTConfig, flash
from plgolf.model.depth import visits
from plgolf.training.checkpoints import compare, resume
from plgolf.training.checkpoints.files import CheckpointFiles
from plgolf.training.logs.metrics_row import record
from plgolf.training.run import Run


class ScoringModule(LightningModule):
    """Scores a GPT in bits per byte on the batches of a datamodule that has ``byte_counts``.

    Args:
        gpt: architecture of the model.
        compile: compile the model with ``torch.compile`` (one graph, static shapes).
    """

    def __init__(self, gpt: GPTConfig, *, compile: bool = False) -> None:  # noqa: A002
        super().__init__()
        self.gpt = GPT(gpt)
        self.compiled = compile
        self._configured = False
        self.bits_per_byte = BitsPerByte()
        self.run = Run([])
        self._byte_counts: ByteCounts[Tensor] | None = None
        self._validated_step = -1

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> "ScoringModule":
        """Loads the weights of a checkpoint or an artifact into a module of the file's architecture.

        Args:
            checkpoint_path: a checkpoint of a fit, or an artifact. Reading it runs no code from the file.
            args: not taken.
            kwargs: further arguments of the module, such as ``optimizer`` to train it on; ``map_location``
                is the device of the module (default: CPU).

        Raises:
            UserError: the file cannot be read or is malformed, or arguments are given that do not apply.
        """
        device = kwargs.pop("map_location", None)
        if args or "gpt" in kwargs:
            raise UserError(
                "load_from_checkpoint takes the architecture from the file, and keyword arguments"
            )
        files, path = CheckpointFiles(), str(Path(checkpoint_path))
        module = cls(gpt=files.read_saved(path, GPTConfig()).config, **kwargs)
        weights = files.load_checkpoint(path)
        resume.check_weights(weights, module.state_dict())
        module.load_state_dict(weights["state_dict"])
        return module if device is None else module.to(device)

    def configure_model(self) -> None:
        if self._configured:  # Lightning calls this at every fit and validate.
            return
        self._configured = True
        device = self.trainer.strategy.root_device
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32 products, as the reference has them.
            flash.activate_flash_attention(device)
        if self.compiled:
            # In place, so that the names in the state dict stay as they are.
            self.gpt.compile(dynamic=False, fullgraph=True)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Returns logits (batch, time, vocab), float32 after the soft cap, for token ids (batch, time)."""
        logits: Tensor = self.gpt(input_ids.long())
        return logits

    def zero_grad(self, set_to_none: bool = True) -> None:
        # Lightning calls this after it has installed its signal handlers, before any hook of a fit.
        self.run.clock.signals.install_if_expected()
        super().zero_grad(set_to_none)

    def on_validation_epoch_start(self) -> None:
        data = getattr(self.trainer, "datamodule", None)
        counts = getattr(data, "byte_counts", None)
        if counts is None:
            raise UserError("bits per byte need a datamodule with byte_counts, such as ShardDataModule")
        tables = (counts.base_bytes, counts.has_leading_space, counts.is_boundary)
        self._byte_counts = ByteCounts(*(torch.as_tensor(table, device=self.device) for table in tables))

    def add_score(self, batch: Batch, metric: BitsPerByte) -> ScoredBatch:
        """Scores a validation batch with the current weights, as ``score_batch`` does."""
        assert self._byte_counts is not None
        return score_batch(self.gpt, self._byte_counts, batch, metric)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.add_score(batch, self.bits_per_byte)

    def on_validation_epoch_end(self) -> None:
        score, checking = Score.of(self.bits_per_byte), self.trainer.sanity_checking
        self.bits_per_byte.reset()
        # A sanity check of the whole split is the score of step 0; that of a few batches is not a score.
        if checking and self.trainer.num_sanity_val_steps != float("inf"):
            return
        self.run.val_score = score
        if not checking:
            self._validated_step = self.trainer.global_step
        record(self, score.named("val"))

    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.add_score(batch, self.bits_per_byte)

    def on_test_epoch_end(self) -> None:
        score = Score.of(self.bits_per_byte)
        self.bits_per_byte.reset()
        record(self, score.named("test"))

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the loss of each target in nats, float32 (sequences, seq_len)."""
        real = slice(batch.num_sequences)
        inputs, targets = batch.input_ids[real].long(), batch.target_ids[real].long()
        nats: Tensor = self.gpt(inputs, targets, reduction="none")
        return nats

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["gpt_config"] = config_to_dict(self.gpt.config)
        if self.gpt.visits != visits(self.gpt.config):
            checkpoint["before_recurrence"] = True

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        fit = self.trainer.state.fn == "fit"
        if fit or "gpt_config" in checkpoint:  # The reference's artifacts have none.
            allowed = self.run.allowed_changes if fit else []
            compare.check_same_model(checkpoint, self.gpt.config, allowed=allowed)
        resume.check_weights(checkpoint, self.state_dict())
        if not fit:
            self.gpt.at(0.0 if checkpoint.get("before_recurrence") is True else 1.0)
            checkpoint.pop("loops", None)
