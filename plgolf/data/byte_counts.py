"""How many UTF-8 bytes a target token stands for."""

from dataclasses import dataclass

import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor

from plgolf.data.tokenizer import SPACE


@dataclass(frozen=True)
class ByteCounts:
    """Byte counts by token id, as the challenge's rule has them.

    A piece's leading space mark is one byte unless the token before it is a boundary. It is never counted
    in ``base_bytes`` too (that mistake has produced false records). Marks inside a piece are one byte each.

    Args:
        base_bytes: int32 (vocab,); UTF-8 bytes of the piece without its leading space mark.
        has_leading_space: bool (vocab,); the piece starts with the mark.
        is_boundary: bool (vocab,); control, unknown and unused pieces, after which no space is counted.
    """

    base_bytes: Tensor
    has_leading_space: Tensor
    is_boundary: Tensor

    def __call__(self, input_ids: Tensor, target_ids: Tensor) -> Tensor:
        """Returns the int32 byte count of each target, given the token before it; all of one shape."""
        space = self.has_leading_space[target_ids] & ~self.is_boundary[input_ids]
        return self.base_bytes[target_ids] + space.int()

    def to(self, device: torch.device) -> "ByteCounts":
        """Returns the same tables on a device."""
        return ByteCounts(
            self.base_bytes.to(device),
            self.has_leading_space.to(device),
            self.is_boundary.to(device),
        )


def byte_counts(tokenizer: SentencePieceProcessor, *, size: int | None = None) -> ByteCounts:
    """Builds the tables of a SentencePiece model.

    Args:
        tokenizer: the loaded model.
        size: entries in the tables, at least the model's pieces; ids past them are boundaries of 0 bytes.

    Returns:
        The tables, on the CPU.
    """
    pieces = tokenizer.get_piece_size()
    size = max(pieces, size or 0)
    base = torch.zeros(size, dtype=torch.int32)
    space = torch.zeros(size, dtype=torch.bool)
    boundary = torch.ones(size, dtype=torch.bool)
    for index in range(pieces):
        if tokenizer.is_control(index) or tokenizer.is_unknown(index) or tokenizer.is_unused(index):
            continue
        boundary[index] = False
        if tokenizer.is_byte(index):
            base[index] = 1
            continue
        piece = tokenizer.id_to_piece(index)
        space[index] = piece.startswith(SPACE)
        base[index] = len(piece.removeprefix(SPACE).replace(SPACE, " ").encode())
    return ByteCounts(base, space, boundary)
