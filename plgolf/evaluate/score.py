"""Scores a validation split batch by batch, and holds the result."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from plgolf.data.byte_counts import ByteCounts
from plgolf.data.stream import Batch
from plgolf.evaluate import BitsPerByte, bits_per_byte
from plgolf.model import GPT


@dataclass(frozen=True)
class Score:
    """The result of a validation.

    Args:
        loss: nats per token.
        bpb: bits per byte.
        num_tokens: number of scored targets.
        num_bytes: UTF-8 bytes that they stand for.
        bpb_raw: bits per byte of the text that they were made from; None if unknown.
        num_raw_bytes: UTF-8 bytes of that text; 0 if unknown.
    """

    loss: float
    bpb: float
    num_tokens: int
    num_bytes: int
    bpb_raw: float | None
    num_raw_bytes: int

    @classmethod
    def of(cls, metric: BitsPerByte) -> "Score":
        """Reads a metric. All ranks must call this together: it adds up over them."""
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
        """Returns the numbers to log, such as ``val/bpb`` for the prefix ``val``."""
        values = {f"{prefix}/loss": self.loss, f"{prefix}/bpb": self.bpb}
        return values if self.bpb_raw is None else {**values, f"{prefix}/bpb_raw": self.bpb_raw}


class ScoredBatch(NamedTuple):
    """Loss in nats, float32, and bytes, int32, of each target (sequences, seq_len), without padding."""

    nats: Tensor
    num_bytes: Tensor


def score_batch(gpt: GPT, byte_counts: ByteCounts[Tensor], batch: Batch, metric: BitsPerByte) -> ScoredBatch:
    """Scores a validation batch and adds it to a metric.

    Everything is on the model's device. Sequences beyond ``num_sequences`` are padding and not scored.
    """
    input_ids, target_ids = batch.input_ids.long(), batch.target_ids.long()
    counted = target_ids.clone()
    counted[batch.num_sequences :] = -100
    # Token by token, so that the sum does not depend on how ranks and batches cut the split.
    nats: Tensor = gpt(input_ids, counted, reduction="none")
    real = slice(batch.num_sequences)
    scored = ScoredBatch(nats[real], byte_counts(input_ids[real], target_ids[real]))
    raw_bytes = 0 if batch.raw_bytes is None else batch.raw_bytes.long()
    metric.update(nats, scored.nats.numel(), scored.num_bytes, raw_bytes)
    return scored
