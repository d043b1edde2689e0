"""The result of a validation."""

from dataclasses import dataclass

from plgolf.metrics import BitsPerByte, bits_per_byte


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
