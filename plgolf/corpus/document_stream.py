"""Documents in a stream of tokens: their positions, and which are equal."""

import hashlib
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from plgolf.data.shards import ShardReader, Tokens


class KnownDocuments:
    """A set of documents, by a hash of their tokens."""

    def __init__(self) -> None:
        self._digests: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._digests)

    def add(self, tokens: Tokens, starts: NDArray[np.int64]) -> None:
        """Adds documents.

        Args:
            tokens: uint16 (n,).
            starts: int64 (documents,); position of the first token of each, beginning with 0.
        """
        self._digests.update(_digests(tokens, starts))

    def find(self, tokens: Tokens, starts: NDArray[np.int64]) -> set[int]:
        """Returns the indices of the documents that are in the set; arguments as for ``add``."""
        return {i for i, digest in enumerate(_digests(tokens, starts)) if digest in self._digests}


def _digests(tokens: Tokens, starts: NDArray[np.int64]) -> Iterator[bytes]:
    data = memoryview(tokens.astype("<u2", copy=False).tobytes())
    bounds = [*(2 * starts).tolist(), len(data)]
    return (hashlib.blake2b(data[start:end], digest_size=16).digest() for start, end in pairwise(bounds))


def whole_documents(
    reader: ShardReader, bos_id: int, *, chunk_tokens: int = 1 << 22
) -> Iterator[tuple[Tokens, NDArray[np.int64]]]:
    """Reads shards once, in pieces that end with a document.

    Args:
        reader: the shards.
        bos_id: begin-of-sequence id of the documents.
        chunk_tokens: number of tokens that are read at once. A document of more than four times as many is
            cut, so that shards without begin-of-sequence do not fill the memory.

    Yields:
        Tokens, uint16 (n,), and the position of the first token of each document, int64, beginning with 0.
    """
    rest = np.empty(0, dtype=np.uint16)
    for position in range(0, reader.num_tokens, chunk_tokens):
        count = min(chunk_tokens, reader.num_tokens - position)
        tokens = np.concatenate([rest, reader.read(position, count)])
        starts = np.flatnonzero(tokens == bos_id)
        if position + count < reader.num_tokens:
            end = int(starts[-1]) if starts.size else 0
            if tokens.size - end > 4 * chunk_tokens:
                end = tokens.size
            tokens, rest, starts = tokens[:end], tokens[end:], starts[starts < end]
        if tokens.size:
            # Tokens before the first begin-of-sequence are a document too.
            yield tokens, starts if starts.size and starts[0] == 0 else np.insert(starts, 0, 0)
