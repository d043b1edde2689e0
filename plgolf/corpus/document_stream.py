"""Documents inside a stream of tokens: where each begins, and which are equal."""

import hashlib
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from plgolf.data.shards import ShardReader, Tokens

_HEAD_BYTES = 32


class KnownDocuments:
    """A set of documents, by their tokens, that others are looked up in.

    A document whose first tokens are those of none in the set is not even hashed, which is most of them.
    """

    def __init__(self) -> None:
        self._heads: set[bytes] = set()
        self._digests: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._digests)

    def add(self, tokens: Tokens, starts: NDArray[np.int64]) -> None:
        """Adds documents.

        Args:
            tokens: uint16 (n,).
            starts: int64 (documents,); where each begins, the first at 0.
        """
        for document in _views(tokens, starts):
            self._heads.add(bytes(document[:_HEAD_BYTES]))
            self._digests.add(_digest(document))

    def find(self, tokens: Tokens, starts: NDArray[np.int64]) -> set[int]:
        """Returns the indices of documents that are in the set; arguments as for ``add``."""
        return {
            index
            for index, document in enumerate(_views(tokens, starts))
            if bytes(document[:_HEAD_BYTES]) in self._heads and _digest(document) in self._digests
        }


def _views(tokens: Tokens, starts: NDArray[np.int64]) -> Iterator[memoryview]:
    data = memoryview(tokens.astype("<u2", copy=False).tobytes())
    bounds = [*(2 * starts).tolist(), len(data)]
    return (data[start:end] for start, end in pairwise(bounds))


def _digest(document: memoryview) -> bytes:
    return hashlib.blake2b(document, digest_size=16).digest()


def whole_documents(
    reader: ShardReader, bos_id: int, *, chunk_tokens: int = 1 << 22
) -> Iterator[tuple[Tokens, NDArray[np.int64]]]:
    """Reads shards once, cut between documents.

    Args:
        reader: the shards.
        bos_id: what each document begins with.
        chunk_tokens: read at once; memory holds the longest document and so many more. A document of more
            than four times as many is cut: what has no begin-of-sequence at all must not fill memory.

    Yields:
        Tokens, uint16 (n,), and where each of their documents begins, int64, the first at 0.
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
            # What comes before the first begin-of-sequence of all is a document too.
            yield tokens, starts if starts.size and starts[0] == 0 else np.insert(starts, 0, 0)
