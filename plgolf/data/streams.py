"""The kinds of training streams, by name."""

from dataclasses import dataclass
from typing import Literal

from plgolf.data.shards import ShardReader
from plgolf.data.stream import BatchPlan, Stream, TrainStream


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """Settings of the training stream.

    Args:
        kind: ``spans`` cuts the tokens one after another, as the reference program does; ``windows`` draws
            sequences in random order.
    """

    kind: Literal["spans", "windows"] = "spans"


def make_stream(
    config: StreamConfig, reader: ShardReader, plan: BatchPlan, *, seq_len: int, rank: int
) -> Stream:
    """Returns the training stream of a rank.

    Args:
        config: kind of the stream.
        reader: the training shards.
        plan: division of a step.
        seq_len: tokens in a sequence.
        rank: this rank.

    Raises:
        UserError: the shards or the plan do not fit the stream.
    """
    if config.kind == "windows":
        from plgolf.data.windows import WindowStream  # noqa: PLC0415 (packed code has what a run uses)

        return WindowStream(reader, plan, seq_len=seq_len, rank=rank)
    return TrainStream(reader, plan, seq_len=seq_len, rank=rank)
