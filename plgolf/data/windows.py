"""Batches of windows in random order: the shuffled loader of the records."""

from collections import deque
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from plgolf.data.shards import ShardReader
from plgolf.data.stream import Batch, BatchPlan, Stream
from plgolf.errors import UserError

_SEED = 0


class WindowStream(Stream):
    """Endless training batches of windows, each cut from a shard that is drawn at random.

    Each pass cuts every shard into windows of seq_len tokens, from a random offset on, and draws all of them,
    without regard to documents. That is the loader of openai/parameter-golf's records (PR #1855), whose
    position is the state of a generator. Here the position is the number of the window: the generator is run
    forward to it, which takes about 10 microseconds for each window and reads no tokens. In the record each
    rank draws from a generator and shards of its own; here one generator draws for all, so that any number of
    ranks trains on the same windows, which are the record's on one rank. A version of numpy that changes the
    methods of its ``PCG64`` generator would change the draws.

    Args:
        reader: the training shards.
        plan: division of a step.
        seq_len: tokens in a window.
        rank: this rank.

    Raises:
        UserError: no shard has a window.
    """

    def __init__(self, reader: ShardReader, plan: BatchPlan, *, seq_len: int, rank: int) -> None:
        super().__init__(reader, plan, seq_len=seq_len, rank=rank)
        if not any(end - start > seq_len for start, end in pairwise(reader.starts)):
            most = max(shard.num_tokens for shard in reader.shards)
            raise UserError(
                f"data.seq_len must be below the {most} tokens of the largest shard, got {seq_len}"
            )
        self._draws = deque([_Draws(reader.starts, seq_len)], maxlen=1)

    def starts_of(self, index: int, rank: int) -> list[int]:
        """Returns the positions of the first tokens of the windows in micro-batch ``index`` of a rank."""
        first = (index * self.plan.world_size + rank) * self.plan.sequences
        # Taken out while in use, so that another thread starts with draws of its own.
        try:
            draws = self._draws.pop()
        except IndexError:
            draws = _Draws(self.reader.starts, self.seq_len)
        if draws.number > first:
            draws = _Draws(self.reader.starts, self.seq_len)
        while draws.number < first:
            draws.next()
        starts = [draws.next() for _ in range(self.plan.sequences)]
        self._draws.append(draws)
        return starts

    def batch(self, index: int) -> Batch:
        rows = np.stack([self.reader.read(s, self.seq_len + 1) for s in self.starts_of(index, self.rank)])
        inputs, targets = (torch.from_numpy(x.copy()) for x in (rows[:, :-1], rows[:, 1:]))
        return Batch(inputs, targets, len(rows))

    def place_of(self, first: int, last: int, of_ranks: Sequence[int]) -> str:
        numbers = range(first, last + 1)
        starts = [start for k in numbers for rank in of_ranks for start in self.starts_of(k, rank)]
        shown = ", ".join(f"{start:,}" for start in starts[:4]) + (" and others" if len(starts) > 4 else "")
        return f"windows of {self.seq_len:,} training tokens from {shown} on"


class _Draws:
    """Draws windows one after another; ``number`` of them have been drawn."""

    def __init__(self, starts: Sequence[int], seq_len: int) -> None:
        self.shards, self.seq_len, self.number = list(pairwise(starts)), seq_len, 0
        self.generator = np.random.Generator(np.random.PCG64(_SEED))
        self.left = np.zeros(len(self.shards), dtype=np.int64)

    def next(self) -> int:
        """Returns the first token of the next window."""
        if not self.left.any():
            self.windows = [self._shuffled(start, end - start) for start, end in self.shards]
            self.left[:] = [windows.size for windows in self.windows]
        self.number += 1
        # Generator.choice(p=left / sum) in half its time.
        sums = (self.left / self.left.sum()).cumsum()
        shard = (sums / sums[-1]).searchsorted(self.generator.random(), side="right")
        self.left[shard] -= 1
        return int(self.windows[shard][self.left[shard]])

    def _shuffled(self, start: int, size: int) -> np.ndarray:
        most = min(self.seq_len - 1, max(0, size - self.seq_len - 1))
        offset = int(self.generator.integers(most + 1)) if most else 0
        count = max(0, size - 1 - offset) // self.seq_len
        return start + offset + self.generator.permutation(count) * self.seq_len
