"""Writing of shards of a fixed size from a stream of tokens."""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from plgolf.data.manifest import FileEntry
from plgolf.data.shards import TOKEN_BYTES, shard_header


class ShardWriter:
    """Writes ``{name}_000000{suffix}`` and so on; all shards but the last are full.

    Args:
        folder: the folder, which must not be read before ``close``.
        name: beginning of the file names.
        suffix: end of the file names.
        shard_tokens: number of tokens in a full shard.
    """

    def __init__(self, folder: Path, name: str, suffix: str, shard_tokens: int) -> None:
        self.folder, self.name, self.suffix, self.shard_tokens = folder, name, suffix, shard_tokens
        self._file: IO[bytes] | None = None
        self._filled = 0
        # Hashing releases the GIL, so that the writer does not wait for it.
        self._finisher = ThreadPoolExecutor(1, thread_name_prefix="shards")
        self._entries: list[Future[FileEntry]] = []

    def write(self, tokens: NDArray[np.uint16]) -> None:
        """Appends tokens (n,)."""
        while tokens.size:
            if self._file is None:
                path = self.folder / f"{self.name}_{len(self._entries):06d}{self.suffix}"
                self._file, self._filled = path.open("wb"), 0
                self._file.write(shard_header(0))
            part = tokens[: self.shard_tokens - self._filled]
            self._file.write(part.astype("<u2", copy=False).data)
            self._filled += part.size
            tokens = tokens[part.size :]
            if self._filled == self.shard_tokens:
                self._finish()

    def close(self) -> list[FileEntry]:
        """Finishes the last shard and returns the entries of all shards in order."""
        try:
            if self._file is not None:
                self._finish()
            return [entry.result() for entry in self._entries]
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Closes the file and the thread; an unfinished shard stays incomplete."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._finisher.shutdown(cancel_futures=True)

    def _finish(self) -> None:
        file = self._file
        assert file is not None
        if self._entries:
            self._entries[-1].result()  # Waits, because the disk may be slower than the encoding.
        self._file = None
        self._entries.append(self._finisher.submit(_finish_shard, file, self._filled))


def _finish_shard(file: IO[bytes], num_tokens: int) -> FileEntry:
    with file:
        file.seek(0)
        file.write(shard_header(num_tokens))
        file.flush()
        os.fsync(file.fileno())
    path = Path(file.name)
    assert path.stat().st_size == len(shard_header(0)) + TOKEN_BYTES * num_tokens
    return FileEntry.of(path, num_tokens)
