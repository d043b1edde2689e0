"""Shuffling of documents on disk, for more of them than fit into memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from plgolf.data.shards import Tokens

_BUFFER_BYTES = 1 << 16
_LENGTH = np.dtype("<u4")


class ShuffledDocuments:
    """Shuffles documents; all orders are equally likely.

    Each document is written to a random bucket, which is a file; the buckets are then read one by one and
    permuted and removed. Memory holds one bucket.
    """

    def __init__(self, folder: Path, seed: int, *, buckets: int = 256) -> None:
        self.folder = folder
        self._random = np.random.default_rng(seed)
        self._buffers = [bytearray() for _ in range(buckets)]

    def add(self, documents: Sequence[Tokens]) -> None:
        """Adds documents, uint16 (n,) each."""
        drawn = self._random.integers(len(self._buffers), size=len(documents)).tolist()
        for tokens, bucket in zip(documents, drawn, strict=True):
            buffer = self._buffers[bucket]
            buffer += _LENGTH.type(tokens.size).tobytes() + tokens.tobytes()
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
