"""The borders of documents, at which attention stops."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from plgolf.data.stream import Batch
from plgolf.errors import whole_number

NUM_BORDERS = 64
"""Number of borders in a batch, or twice as many, or four times: each number needs another compiled graph."""


@dataclass(frozen=True)
class Borders:
    """Finds the documents in rows of tokens.

    Args:
        bos_id: id of the first token of each document.
        most: longer documents are cut into pieces of this length, from their first token in a row; None for
            the length of a row.

    Raises:
        UserError: ``most`` is not a whole number from 1.
    """

    bos_id: int
    most: int | None = None

    def __post_init__(self) -> None:
        if self.most is not None:
            whole_number("data.stream.max_document_tokens", self.most, least=1)

    def of(self, rows: NDArray[np.uint16], count: int | None = None) -> NDArray[np.int64]:
        """Returns the first token of each document or piece of one, and the number of tokens (n,).

        Args:
            rows: token ids (rows, tokens); places count through all rows.
            count: number of rows that count; the others are padding, without documents. None for all.
        """
        starts = rows == self.bos_id
        if count is not None:
            starts[count:] = False
        starts[:, 0] = True
        ends = [*np.flatnonzero(starts), rows.size]
        pieces = [np.arange(start, end, self.most or rows.shape[1]) for start, end in pairwise(ends)]
        return np.concatenate([*pieces, [rows.size]])

    def mark(self, batch: Batch, number: int = NUM_BORDERS) -> Batch:
        """Returns a batch with its borders, of which there are ``number``, or twice as many and so on."""
        rows = batch.input_ids.numpy()
        borders = self.of(rows, batch.num_sequences)
        while number < borders.size:
            number *= 2
        padded = np.full(number, rows.size, dtype=np.int32)
        padded[: borders.size] = borders
        most = self.most or rows.shape[1]
        return batch._replace(cu_seqlens=torch.from_numpy(padded), max_document_tokens=most)
