"""How many UTF-8 bytes a target token stands for."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Table = TypeVar("Table", NDArray[np.generic], "Tensor")


@dataclass(frozen=True)
class ByteCounts(Generic[Table]):
    """Byte counts by token id, as the challenge's rule has them.

    A piece's leading space mark is one byte unless the token before it is a boundary. It is never counted
    in ``base_bytes`` too (that mistake has produced false records). Marks inside a piece are one byte each.
    The tables are numpy arrays, or tensors on whatever device the ids are.

    Args:
        base_bytes: int32 (vocab,); UTF-8 bytes of the piece without its leading space mark.
        has_leading_space: bool (vocab,); the piece starts with the mark.
        is_boundary: bool (vocab,); control, unknown and unused pieces, after which no space is counted.

    >>> pieces = ["<s>", " a", "b"]  # The space is a mark of its own.
    >>> counts = ByteCounts(
    ...     np.array([0, 1, 1]), np.array([False, True, False]), np.array([True, False, False])
    ... )
    >>> counts(input_ids=np.array([0, 1, 2]), target_ids=np.array([1, 1, 2])).tolist()
    [1, 2, 1]
    """

    base_bytes: Table
    has_leading_space: Table
    is_boundary: Table

    def __call__(self, input_ids: Table, target_ids: Table) -> Table:
        """Returns the int32 byte count of each target, given the token before it; all of one shape."""
        space = self.has_leading_space[target_ids] & ~self.is_boundary[input_ids]
        counts: Table = self.base_bytes[target_ids] + space
        return counts

    def of_stream(self, tokens: Table) -> Table:
        """Returns the int32 byte counts of a stream's tokens (n,), the first taken to follow a boundary."""
        counts: Table = self.base_bytes[tokens]
        counts[1:] = self(tokens[:-1], tokens[1:])
        return counts

    def total(self, tokens: NDArray[np.uint16]) -> int:
        """Returns the sum of ``of_stream``; numpy tables only, and 40 % of the time."""
        if not tokens.size:
            return 0
        base = np.asarray(self.base_bytes, dtype=np.int64)
        space = np.asarray(self.has_leading_space, dtype=np.bool_)
        boundary = np.asarray(self.is_boundary, dtype=np.bool_)
        often = np.bincount(tokens, minlength=base.size)
        after = tokens[1:][boundary.take(tokens[:-1])]
        unspaced = int(space[tokens[0]]) + int(np.count_nonzero(space[after]))
        return int(often @ (base + space)) - unspaced
