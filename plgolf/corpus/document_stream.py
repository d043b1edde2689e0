"""Documents in a stream of tokens: their positions, and which are equal."""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from plgolf.data.shards import ShardReader, Tokens


def digests(documents: Iterable[Tokens]) -> list[bytes]:
    """Returns a hash of each document's tokens, uint16 (n,)."""
    return [hashlib.blake2b(tokens.astype("<u2").tobytes(), digest_size=16).digest() for tokens in documents]


def count_unknown(tokens: NDArray[np.generic], unknown_id: int | None) -> int:
    """Returns the number of tokens (n,) that stand for text outside the vocabulary."""
    return 0 if unknown_id is None else int(np.count_nonzero(tokens == unknown_id))


def whole_documents(
    reader: ShardReader, bos_id: int, *, chunk_tokens: int = 1 << 22
) -> Iterator[tuple[Tokens, NDArray[np.int64]]]:
    """Reads shards once, ``chunk_tokens`` at a time, in pieces that end with a document.

    A document of more than four times as many is cut, so that shards without begin-of-sequence do not fill
    the memory.

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
