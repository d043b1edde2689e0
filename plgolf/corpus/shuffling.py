"""Shuffling more documents than fit into memory, by way of the disk."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plgolf.data.shards import Tokens

_BUFFER_BYTES = 1 << 16
_LENGTH = np.dtype("<u4")


class ShuffledDocuments:
    """Takes documents in any order and gives them back in one that depends on the seed alone.

    Each goes to a bucket drawn at random, a file; a bucket at a time is then read and permuted. All orders
    are equally likely, and memory holds a 256th of the tokens.

    Args:
        folder: for the buckets; they are removed as they are read.
        seed: of the order.
        buckets: files.
    """

    def __init__(self, folder: Path, seed: int, *, buckets: int = 256) -> None:
        self.folder = folder
        self._random = np.random.default_rng(seed)
        self._buffers = [bytearray() for _ in range(buckets)]

    def add(self, tokens: Tokens, starts: NDArray[np.int64]) -> None:
        """Takes documents.

        Args:
            tokens: uint16 (n,).
            starts: int64 (documents,); where each begins, the first at 0.
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
        """Yields the tokens of one bucket after the other, its documents permuted."""
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
