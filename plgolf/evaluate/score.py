"""The result of an evaluation."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """The score of a text.

    Args:
        nats: sum of the losses.
        num_tokens: number of scored targets.
        num_bytes: UTF-8 bytes that they stand for; 0 if unknown.
        num_raw_bytes: UTF-8 bytes of the text that they were made from; 0 if unknown.
    """

    nats: float
    num_tokens: int
    num_bytes: int
    num_raw_bytes: int

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.num_tokens

    @property
    def bpb(self) -> float:
        """Bits per byte; NaN if the bytes are unknown."""
        return self.nats / (math.log(2) * (self.num_bytes or math.nan))

    @property
    def bpb_raw(self) -> float | None:
        """Bits per byte of the original text; None if its bytes are unknown."""
        return self.nats / (math.log(2) * self.num_raw_bytes) if self.num_raw_bytes else None

    def named(self, prefix: str) -> dict[str, float]:
        """Returns the numbers to log, such as ``val/bpb`` for the prefix ``val``."""
        values = {"loss": self.loss, "bpb": self.bpb, "bpb_raw": self.bpb_raw}
        return {f"{prefix}/{name}": value for name, value in values.items() if value is not None}
