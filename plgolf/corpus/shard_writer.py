"""Writing of shards of a fixed size from a stream of tokens."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plgolf.data.manifest import FileEntry, file_entry
from plgolf.data.shards import shard_header


class ShardWriter:
    """Writes ``{name}_000000{suffix}`` and so on; all shards but the last have ``shard_tokens`` tokens."""

    def __init__(self, folder: Path, name: str, suffix: str, shard_tokens: int) -> None:
        self.folder, self.name, self.suffix, self.shard_tokens = folder, name, suffix, shard_tokens
        self._filled = 0
        self._entries: list[FileEntry] = []

    @property
    def _path(self) -> Path:
        return self.folder / f"{self.name}_{len(self._entries):06d}{self.suffix}"

    def write(self, tokens: NDArray[np.uint16]) -> None:
        """Appends tokens (n,)."""
        while tokens.size:
            part = tokens[: self.shard_tokens - self._filled]
            with self._path.open("ab") as file:
                if not self._filled:
                    file.write(shard_header(0))
                file.write(part.astype("<u2", copy=False).data)
            self._filled += part.size
            tokens = tokens[part.size :]
            if self._filled == self.shard_tokens:
                self._finish()

    def close(self) -> list[FileEntry]:
        """Finishes the last shard and returns the entries of all shards in order."""
        if self._filled:
            self._finish()
        return self._entries

    def _finish(self) -> None:
        with self._path.open("r+b") as file:
            file.write(shard_header(self._filled))
            file.flush()
            os.fsync(file.fileno())
        self._entries.append(file_entry(self._path, self._filled))
        self._filled = 0
