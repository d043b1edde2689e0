"""Batches of one row that documents fill, with their borders: the packing loader of the records."""

from bisect import bisect_right
from itertools import accumulate, pairwise

import numpy as np

from plgolf.data.borders import NUM_BORDERS, Borders
from plgolf.data.shards import ShardReader, Tokens
from plgolf.data.stream import Batch, BatchPlan, TrainStream
from plgolf.errors import UserError

_SAMPLED_ROWS = 64
_SPARE = 1.5
"""Number of borders of a batch, over the most that a sampled row has."""


class PackedStream(TrainStream):
    """Endless training batches of one row, cut from each shard from its first document on.

    A row is a span of sequences * seq_len + 1 tokens; inputs are all but the last token, targets all but the
    first. The rows of a step are consecutive spans of one shard: what lies before its first document, and a
    tail too short for a step, is left out, and after the last shard the first one follows. That is the loader
    of openai/parameter-golf's records (PR #1855) on their eight GPUs, where each rank has one row of a step;
    here the rows of a step follow from the recipe alone, and any number of ranks trains on the same ones.

    Of the shards only the headers, the tokens before the first document and a sample of rows are read in
    advance. The sample gives the number of borders of a batch. A row with more documents gets twice as many
    borders, or four times, for which a compiled model needs another graph.

    Args:
        reader: the training shards.
        plan: division of a step; a rank's micro-batch must be a whole span.
        seq_len: tokens in a sequence.
        rank: this rank.
        bos_id: id of the first token of each document.
        max_document_tokens: longer documents are cut into pieces of this length; None for ``seq_len``.

    Raises:
        UserError: ``max_document_tokens`` is not positive, there are more ranks than rows in a step, or no
            shard has the tokens of a step.
    """

    def __init__(
        self,
        reader: ShardReader,
        plan: BatchPlan,
        *,
        seq_len: int,
        rank: int,
        bos_id: int,
        max_document_tokens: int | None = None,
    ) -> None:
        super().__init__(reader, plan, seq_len=seq_len, rank=rank)
        self.borders = Borders(bos_id, seq_len if max_document_tokens is None else max_document_tokens)
        if plan.sequences != plan.span_sequences:
            rule = f"must be at most {plan.sequences}, the share of each of {plan.world_size} ranks in a step"
            raise UserError(f"data.micro_batch_sequences {rule}, got {plan.span_sequences}")
        self.span = plan.sequences * seq_len + 1
        self.rows_per_step = plan.accumulation * plan.world_size
        self._first = [_find(reader, bos_id, *shard) for shard in pairwise(reader.starts)]
        sizes = [end - first for first, end in zip(self._first, reader.starts[1:], strict=True)]
        self._steps = [0, *accumulate(size // (self.rows_per_step * self.span) for size in sizes)]
        if self._steps[-1] == 0:
            rule = (
                f"must fit a shard with {max(sizes)} tokens from its first document on, with one more per row"
            )
            found = self.rows_per_step * (self.span - 1)
            raise UserError(f"data.global_batch_tokens {rule}, got {found} in {self.rows_per_step} rows")
        self.num_borders = self._estimate()

    def range_of(self, index: int, rank: int) -> tuple[int, int]:
        """Returns start and end of micro-batch ``index`` of a rank, in tokens of all shards."""
        step, within = divmod(index, self.plan.accumulation)
        step %= self._steps[-1]
        shard = bisect_right(self._steps, step) - 1
        row = (step - self._steps[shard]) * self.rows_per_step + within * self.plan.world_size + rank
        start = self._first[shard] + row * self.span
        return start, start + self.span

    def batch_of(self, tokens: Tokens) -> Batch:
        """Returns a micro-batch of tokens: ids (1, tokens), and the borders of its documents."""
        cut = super().batch_of(tokens)
        inputs, targets = cut.input_ids.view(1, -1), cut.target_ids.view(1, -1)
        return self.borders.mark(Batch(inputs, targets, 1), self.num_borders)

    def _estimate(self) -> int:
        steps, most = self._steps[-1], 0
        for step in sorted({steps * i // _SAMPLED_ROWS for i in range(_SAMPLED_ROWS)}):
            start, _ = self.range_of(step * self.plan.accumulation, 0)
            most = max(most, self.borders.of(self.reader.read(start, self.span - 1)[None]).size)
        return -(-int(_SPARE * most) // NUM_BORDERS) * NUM_BORDERS


def _find(reader: ShardReader, token: int, start: int, end: int) -> int:
    """Returns the position of the first such token in [start, end); ``end`` if there is none."""
    for first in range(start, end, 2**16):
        found = np.flatnonzero(reader.read(first, min(2**16, end - first)) == token)
        if found.size:
            return first + int(found[0])
    return end
