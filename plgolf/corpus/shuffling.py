"""Shuffling of documents on disk, for more of them than fit into memory."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plgolf.data.shards import Tokens

_BUFFER_BYTES = 1 << 16
_LENGTH = np.dtype("<u4")


class ShuffledDocuments:
    """Shuffles documents; all orders are equally likely.

    Each document is written to a random bucket, which is a file; the buckets are then read one by one and
    permuted. Memory holds one bucket.

    Args:
        folder: folder of the buckets, each of which is removed after it is read.
        seed: seed of the order.
        buckets: number of buckets.
    """

    def __init__(self, folder: Path, seed: int, *, buckets: int = 256) -> None:
        self.folder = folder
        self._random = np.random.default_rng(seed)
        self._buffers = [bytearray() for _ in range(buckets)]

    def add(self, tokens: Tokens, starts: NDArray[np.int64]) -> None:
        """Adds documents.

        Args:
            tokens: uint16 (n,).
            starts: int64 (documents,); position of the first token of each, beginning with 0.
        """
        ends = [*starts[1:].tolist(), tokens.size]
        drawn = self._random.integers(len(self._buffers), size=starts.size).tolist()
        for start, end, bucket in zip(starts.tolist(), ends, drawn, strict=True):
            buffer = self._buffers[bucket]
            buffer += _LENGTH.type(end - start).tobytes()
            buffer += tokens[start:end].tobytes()
            if len(buffer) >= _BUFFER_BYTES:
                self._spill(bucket)

    def _path(self, bucket: int) -> Path:
        return self.folder / f"bucket_{bucket:03d}"

    def _spill(self, bucket: int) -> None:
        with self._path(bucket).open("ab") as file:
            file.write(self._buffers[bucket])
        self._buffers[bucket].clear()

    def __iter__(self) -> Iterator[Tokens]:
        """Yields the tokens of one bucket after the other, with its documents permuted."""
        for bucket in range(len(self._buffers)):
            self._spill(bucket)
            path = self._path(bucket)
            data = path.read_bytes()
            path.unlink()
            documents, position = [], 0
            while position < len(data):
                length = int(np.frombuffer(data, _LENGTH, 1, position)[0])
                position += _LENGTH.itemsize
                documents.append(np.frombuffer(data, np.uint16, length, position))
                position += 2 * length
            if documents:
                yield np.concatenate([documents[i] for i in self._random.permutation(len(documents))])
