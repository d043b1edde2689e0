"""The half of the LightningModule that scores a GPT: forward, validation, test and prediction."""

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from plgolf.data.byte_counts import ByteCounts
from plgolf.data.stream import Batch
from plgolf.errors import UserError
from plgolf.evaluate import BitsPerByte
from plgolf.evaluate.score import Score, ScoredBatch, score_batch
from plgolf.model import GPT, GPTConfig
from plgolf.training.logs.metrics_row import record
from plgolf.training.run import Run


class ScoringModule(LightningModule):
    """Scores a GPT in bits per byte on the batches of a datamodule that has ``byte_counts``.

    Args:
        gpt: architecture of the model.
    """

    def __init__(self, gpt: GPTConfig) -> None:
        super().__init__()
        self.gpt = GPT(gpt)
        self.bits_per_byte = BitsPerByte()
        self.run = Run([])
        self._byte_counts: ByteCounts[Tensor] | None = None
        self._validated_step = -1

    def forward(self, input_ids: Tensor) -> Tensor:
        """Returns logits (batch, time, vocab), float32 after the soft cap, for token ids (batch, time)."""
        logits: Tensor = self.gpt(input_ids.long())
        return logits

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
