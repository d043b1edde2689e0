"""Number of UTF-8 bytes that each target token stands for."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Table = TypeVar("Table", NDArray[np.generic], "Tensor")


@dataclass(frozen=True)
class ByteCounts(Generic[Table]):
    """Counts bytes by token id, with the rule of the challenge.

    The leading space mark of a piece counts one byte, unless the token before it is a boundary.
    ``base_bytes`` must not contain that byte: counting it twice has produced false records. Marks inside a
    piece count one byte each. The tables are numpy arrays, or tensors on the device of the ids.

    Args:
        base_bytes: int32 (vocab,); UTF-8 bytes of the piece without its leading space mark.
        has_leading_space: bool (vocab,); True if the piece starts with the mark.
        is_boundary: bool (vocab,); True for control, unknown and unused pieces.

    """

    base_bytes: Table
    has_leading_space: Table
    is_boundary: Table

    def __call__(self, input_ids: Table, target_ids: Table) -> Table:
        """Returns the int32 byte count of each target, given the token before it; all have one shape."""
        space = self.has_leading_space[target_ids] & ~self.is_boundary[input_ids]
        counts: Table = self.base_bytes[target_ids] + space
        return counts

    def of_stream(self, tokens: Table) -> Table:
        """Returns the int32 byte counts of tokens (n,), as if a boundary came before the first."""
        counts: Table = self.base_bytes[tokens]
        counts[1:] = self(tokens[:-1], tokens[1:])
        return counts

    def total(self, tokens: NDArray[np.uint16]) -> int:
        """Returns the sum of ``of_stream``; for numpy tables only."""
        return int(np.sum(self.of_stream(tokens), dtype=np.int64))  # type: ignore[arg-type]
