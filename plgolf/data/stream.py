"""Batches of tokens for each rank: pure functions of the batch number, without state to save."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from plgolf.data.shards import ShardReader, Tokens
from plgolf.errors import UserError

if TYPE_CHECKING:
    from plgolf.data.borders import Borders


class Batch(NamedTuple):
    """Sequences and the token that follows each position.

    Ids are transferred as uint16, a quarter of the bytes of int64, and widened on the device.

    Args:
        input_ids: uint16 (sequences, seq_len).
        target_ids: uint16 (sequences, seq_len).
        num_sequences: number of sequences that count; the others pad the batch to a fixed shape.
        cu_seqlens: int32 (borders,); the first token of each document, counted through all rows, each of
            which starts one, then the number of tokens, repeated to a fixed number of borders; None if
            attention does not stop at documents.
        max_document_tokens: most tokens that a document of any such batch has; None for those of the row.
        first: place of the first target among those of its split; for validation only.
    """

    input_ids: Tensor
    target_ids: Tensor
    num_sequences: int
    cu_seqlens: Tensor | None = None
    max_document_tokens: int | None = None
    first: int = 0

    def to(self, device: torch.device) -> "Batch":
        """Returns a copy on a device without waiting for the transfer; Lightning calls this."""
        if self.input_ids.device == device:
            return self
        return self._with_each(lambda part: part.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """Returns a copy in page-locked memory, which a GPU can read asynchronously."""
        return self._with_each(Tensor.pin_memory)

    def _with_each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        parts: list[Any] = [change(part) if isinstance(part, Tensor) else part for part in self]
        return Batch(*parts)


@dataclass(frozen=True)
class BatchPlan:
    """Division of a global batch into micro-batches.

    The spans depend on the recipe alone, so that any number of ranks trains on the same tokens.

    Args:
        span_sequences: sequences in a span; ``sequences``, or a multiple that several ranks share.
        sequences: sequences in a micro-batch of one rank.
        accumulation: micro-batches of each rank in an optimizer step.
        world_size: number of ranks.
    """

    span_sequences: int
    sequences: int
    accumulation: int
    world_size: int


def plan_batches(
    *, global_batch_tokens: int, seq_len: int, micro_batch_sequences: int, world_size: int
) -> BatchPlan:
    """Derives accumulation from the global batch, so that a recipe means the same on any number of ranks.

    Args:
        global_batch_tokens: tokens in an optimizer step, over all ranks.
        seq_len: tokens in a sequence.
        micro_batch_sequences: most sequences that a rank processes at once.
        world_size: number of ranks.

    Raises:
        UserError: one number does not divide another; the message has both.

    >>> settings = {"global_batch_tokens": 393_216, "seq_len": 4096, "micro_batch_sequences": 12}
    >>> [plan_batches(**settings, world_size=ranks).accumulation for ranks in (1, 2, 8)]
    [8, 4, 1]
    """
    sequences, rest = divmod(global_batch_tokens, seq_len)
    if rest:
        rule = f"must be a multiple of data.seq_len ({seq_len})"
        raise UserError(f"data.global_batch_tokens {rule}, got {global_batch_tokens}")
    if sequences % world_size:
        raise UserError(
            f"data.global_batch_tokens must be a whole number of sequences for each of {world_size} "
            f"ranks, got {sequences} sequences of {seq_len} ({global_batch_tokens} tokens)"
        )
    share = sequences // world_size
    span = min(micro_batch_sequences, sequences)
    micro = min(span, share)
    if sequences % span or share % micro or span % micro:
        raise UserError(
            f"data.micro_batch_sequences must divide the {sequences} sequences of a step, and divide or be "
            f"divided by the {share} of each of {world_size} ranks, got {micro_batch_sequences}"
        )
    return BatchPlan(span, micro, share // micro, world_size)


class Stream(ABC):
    """Endless training batches of one rank, each a pure function of its number."""

    def __init__(self, reader: ShardReader, plan: BatchPlan, *, seq_len: int, rank: int) -> None:
        self.reader, self.plan, self.seq_len, self.rank = reader, plan, seq_len, rank

    @abstractmethod
    def batch(self, index: int) -> Batch:
        """Returns micro-batch ``index`` of this rank."""

    @abstractmethod
    def place_of(self, first: int, last: int, of_ranks: Sequence[int]) -> str:
        """Describes where in the shards the micro-batches ``first`` to ``last`` of some ranks are."""

    def batch_of(self, tokens: Tokens) -> Batch:
        """Returns a micro-batch of consecutive tokens, uint16 (sequences * seq_len + 1,)."""
        return _cut(tokens, self.seq_len, self.plan.sequences)

    def step(self, index: int) -> tuple[Batch, ...]:
        """Returns the micro-batches of this rank in optimizer step ``index``, counted from 0."""
        count = self.plan.accumulation
        return tuple(self.batch(k) for k in range(index * count, (index + 1) * count))


class TrainStream(Stream):
    """Endless training batches, cut from the token stream as the reference program does.

    The tokens are cut into consecutive spans of (span_sequences * seq_len + 1); inputs are all but the last
    token of a span, targets all but the first. Micro-batch k takes world_size spans, and rank r owns span r;
    if there are more ranks than spans, several ranks share the sequences of a span.
    """

    def range_of(self, index: int, rank: int) -> tuple[int, int]:
        """Returns start and end of micro-batch ``index`` of a rank, in tokens of the endless stream."""
        first = (index * self.plan.world_size + rank) * self.plan.sequences
        span, within = divmod(first, self.plan.span_sequences)
        start = span * (self.plan.span_sequences * self.seq_len + 1) + within * self.seq_len
        return start, start + self.plan.sequences * self.seq_len + 1

    def batch(self, index: int) -> Batch:
        start, end = self.range_of(index, self.rank)
        return self.batch_of(self.reader.read(start, end - start))

    def place_of(self, first: int, last: int, of_ranks: Sequence[int]) -> str:
        start, end = self.range_of(first, of_ranks[0])[0], self.range_of(last, of_ranks[-1])[1]
        return f"training tokens {start:,} to {end:,}, from {self.reader.path_at(start)} on"


class ValidationSplit:
    """Validation batches, in which each token is scored exactly once over all ranks.

    The concatenated shards are cut to a multiple of seq_len plus one token; rank r of w scores sequences
    [total * r / w, total * (r + 1) / w).

    Args:
        reader: the validation shards.
        seq_len: tokens in a sequence.
        batch_sequences: most sequences in a batch; the last batch is padded to the shape of the others.
        rank: this rank.
        world_size: number of ranks.
        max_tokens: scores whole sequences up to this number of tokens; None for the whole split.
        raw_bytes: byte side-cars of the same shards.
        borders: where attention stops; None for nowhere in a sequence.

    Raises:
        UserError: a sequence is longer than the split, or there are more ranks than sequences.
    """

    def __init__(
        self,
        reader: ShardReader,
        *,
        seq_len: int,
        batch_sequences: int,
        rank: int = 0,
        world_size: int = 1,
        max_tokens: int | None = None,
        raw_bytes: ShardReader | None = None,
        borders: "Borders | None" = None,
    ) -> None:
        available = reader.num_tokens - 1
        if available < seq_len:
            rule = f"must be at most the validation split's tokens less one ({available})"
            raise UserError(f"data.seq_len {rule}, got {seq_len}")
        if max_tokens is not None:
            if max_tokens < seq_len:
                rule = f"must be at least data.seq_len ({seq_len})"
                raise UserError(f"data.val_max_tokens {rule}, got {max_tokens}")
            available = min(available, max_tokens)
        self.reader, self.raw_bytes, self.seq_len, self.borders = reader, raw_bytes, seq_len, borders
        self.num_sequences = available // seq_len
        if self.num_sequences < world_size:
            raise UserError(
                f"the validation split must have a sequence for each of {world_size} ranks, "
                f"got {self.num_sequences} sequences of {seq_len} tokens"
            )
        self.first = self.num_sequences * rank // world_size
        self.last = self.num_sequences * (rank + 1) // world_size
        share = self.last - self.first
        # The smallest size for this number of batches, so that the last one has little padding.
        self.batch_sequences = math.ceil(share / math.ceil(share / batch_sequences))

    @property
    def num_tokens(self) -> int:
        """Number of targets scored over all ranks."""
        return self.num_sequences * self.seq_len

    @property
    def all_tokens(self) -> int:
        """Number of targets in the whole split, also where ``max_tokens`` leaves some out."""
        return (self.reader.num_tokens - 1) // self.seq_len * self.seq_len

    def __len__(self) -> int:
        """Number of batches of this rank."""
        return math.ceil((self.last - self.first) / self.batch_sequences)

    def batch(self, index: int) -> Batch:
        """Returns batch ``index`` of this rank."""
        first = self.first + index * self.batch_sequences
        count = min(self.batch_sequences, self.last - first)
        start, tokens = first * self.seq_len, count * self.seq_len
        batch = _cut(self.reader.read(start, tokens + 1), self.seq_len, self.batch_sequences)
        batch = batch._replace(first=start)
        return self.borders.mark(batch) if self.borders else batch

    def tokens(self) -> Tokens:
        """Returns all tokens of the split in order, from the one before the first target."""
        return self.reader.read(0, self.num_tokens + 1)


def _cut(span: Tokens, seq_len: int, sequences: int) -> Batch:
    count = (span.size - 1) // seq_len
    rows = np.zeros((2, sequences, seq_len), dtype=np.uint16)
    rows[0, :count] = span[:-1].reshape(count, seq_len)
    rows[1, :count] = span[1:].reshape(count, seq_len)
    return Batch(torch.from_numpy(rows[0]), torch.from_numpy(rows[1]), count)
