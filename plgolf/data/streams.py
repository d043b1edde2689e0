"""The kinds of training streams, by name."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from plgolf.data.shards import ShardReader
from plgolf.data.stream import BatchPlan, Stream, TrainStream
from plgolf.errors import UserError

if TYPE_CHECKING:
    from plgolf.data.borders import Borders


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """Settings of the training stream.

    Args:
        kind: ``spans`` cuts the tokens one after another, as the reference program does; ``packed`` cuts a
            row for each micro-batch, in which attention stays inside a document; ``windows`` draws sequences
            in random order.
        max_document_tokens: packed documents that are longer are cut into pieces of this length; null for
            ``data.seq_len``.

    Raises:
        UserError: ``max_document_tokens`` is not a setting of this kind.
    """

    kind: Literal["spans", "packed", "windows"] = "spans"
    max_document_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.max_document_tokens is not None and self.kind != "packed":
            rule = f"must be null for {self.kind}"
            raise UserError(f"stream.max_document_tokens {rule}, got {self.max_document_tokens}")

    def borders(self, bos_id: int) -> "Borders | None":
        """Returns where attention stops, in training and validation; None for nowhere in a sequence."""
        if self.kind != "packed":
            return None
        from plgolf.data.borders import Borders  # noqa: PLC0415 (packed code has what a run uses)

        return Borders(bos_id, self.max_document_tokens)


def make_stream(
    config: StreamConfig, reader: ShardReader, plan: BatchPlan, *, seq_len: int, rank: int, bos_id: int
) -> Stream:
    """Returns the training stream of a rank.

    Args:
        config: kind of the stream.
        reader: the training shards.
        plan: division of a step.
        seq_len: tokens in a sequence.
        rank: this rank.
        bos_id: id before each document.

    Raises:
        UserError: the shards or the plan do not fit the stream.
    """
    if config.kind == "packed":
        from plgolf.data.packed import PackedStream  # noqa: PLC0415 (packed code has what a run uses)

        most = config.max_document_tokens
        return PackedStream(reader, plan, seq_len=seq_len, rank=rank, bos_id=bos_id, max_document_tokens=most)
    if config.kind == "windows":
        from plgolf.data.windows import WindowStream  # noqa: PLC0415

        return WindowStream(reader, plan, seq_len=seq_len, rank=rank)
    return TrainStream(reader, plan, seq_len=seq_len, rank=rank)
