"""The targets of a text: what an evaluator may read, which of them this rank scores, and their bytes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plgolf.data.byte_counts import ByteCounts
from plgolf.data.stream import ValidationSplit
from plgolf.data.tokenizer import Tokenizer
from plgolf.errors import UserError

if TYPE_CHECKING:
    from plgolf.data.borders import Borders

Read = Callable[[int, int], NDArray[Any]]
"""Returns a number of tokens of a text, or of counts, (count,), from (start, count)."""


@dataclass
class Targets:
    """The targets of a text, and the range of them that this rank scores.

    Target ``p`` is token ``p + 1`` of the text; every token before it may be used to predict it.

    Args:
        read: reads the text's token ids.
        num_tokens: number of targets in the text, those of other ranks included.
        first: first target of this rank.
        last: end of this rank's targets.
        seq_len: tokens in a sequence of training.
        batch_sequences: sequences of that length that the model computes at once.
        byte_counts: tables of the tokenizer; None if it has a transform, or bytes are counted elsewhere.
        read_raw_bytes: reads the bytes that each token has in the original text; None if they are unknown.
        bos_id: token that starts a document; None if the text is one document.
        borders: where attention stops; None for nowhere in a sequence.
    """

    read: Read
    num_tokens: int
    first: int
    last: int
    seq_len: int
    batch_sequences: int
    byte_counts: ByteCounts[NDArray[np.generic]] | None = None
    read_raw_bytes: Read | None = None
    bos_id: int | None = None
    borders: "Borders | None" = None

    def __post_init__(self) -> None:
        self.scored = InOrder(self)
        """Targets that have been scored."""

    def num_bytes(self, first: int, count: int) -> NDArray[Any]:
        """Returns the UTF-8 bytes of targets, int32 (count,).

        Without ``byte_counts``, these are the bytes in the original text, or zeros if they are unknown.
        """
        if self.byte_counts:
            tokens = self.read(first, count + 1)
            return self.byte_counts(tokens[:-1], tokens[1:])
        raw = self.read_raw_bytes
        return raw(first + 1, count).astype(np.int32) if raw else np.zeros(count, np.int32)


class InOrder:
    """Targets that are scored one after the other.

    Args:
        targets: the text, and the range of targets to score.
    """

    def __init__(self, targets: Targets) -> None:
        self.targets = targets
        self.next = targets.first

    def is_complete(self) -> bool:
        """Returns True if all targets of this rank have been scored."""
        return self.next == self.targets.last

    def mark(self, first: int, last: int) -> None:
        """Notes that targets ``first`` to ``last`` - 1 are scored; raises a UserError if others are due."""
        if not self.next == first < last <= self.targets.last:
            got = f"got {first} to {last - 1} where {self.next} is next"
            raise UserError(f"targets must be scored once and in order, {got}")
        self.next = last


def split_targets(split: ValidationSplit, tokenizer: Tokenizer) -> Targets:
    """Returns the targets of a rank's part of a validation split."""
    return Targets(
        split.reader.read,
        split.num_tokens,
        split.first * split.seq_len,
        split.last * split.seq_len,
        split.seq_len,
        split.batch_sequences,
        None if tokenizer.transform else tokenizer.byte_counts,
        split.raw_bytes.read if split.raw_bytes else None,
        tokenizer.bos_id,
        split.borders,
    )
