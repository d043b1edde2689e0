"""Validation: batch by batch, and its result."""

from dataclasses import dataclass

from torch import Tensor

from plgolf.data.byte_counts import ByteCounts
from plgolf.data.stream import Batch
from plgolf.evaluate import BitsPerByte, bits_per_byte
from plgolf.model import GPT


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


def score_batch(gpt: GPT, byte_counts: ByteCounts[Tensor], batch: Batch, metric: BitsPerByte) -> Tensor:
    """Scores a validation batch and adds it to a metric.

    Args:
        gpt: the model.
        byte_counts: of the tokenizer, on the model's device.
        batch: on that device; sequences that only pad it count for nothing.
        metric: what to add to.

    Returns:
        Loss in nats of each target (sequences, seq_len); 0 of those that pad.
    """
    input_ids, target_ids = batch.input_ids.long(), batch.target_ids.long()
    counted = target_ids.clone()
    counted[batch.num_sequences :] = -100
    # Token by token, so that the sum is the same however ranks and batches cut the split.
    nats: Tensor = gpt(input_ids, counted, reduction="none")
    num_tokens = batch.num_sequences * target_ids.size(1)
    real = slice(batch.num_sequences)
    num_bytes = byte_counts(input_ids[real], target_ids[real])
    raw_bytes = 0 if batch.raw_bytes is None else batch.raw_bytes.long()
    metric.update(nats, num_tokens, num_bytes, raw_bytes)
    return nats
