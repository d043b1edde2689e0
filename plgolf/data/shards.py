"""Token shards: a header of 256 little-endian int32, then token ids as little-endian uint16.

Header: [0] = 20240520, [1] = version 1, [2] = number of tokens, the rest 0 (https://github.com/karpathy/llm.c).
"""

import hashlib
import os
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plgolf.errors import UserError
from plgolf.files import open_regular, write_atomically

MAGIC = 20240520
VERSION = 1
HEADER_BYTES = 1024
TOKEN_BYTES = 2
MAX_VOCAB_SIZE = 2**16
_MAX_OPEN_FILES = 64

Tokens = NDArray[np.uint16]


@dataclass(frozen=True)
class Shard:
    """A file of tokens; ``modified_ns`` is the time of its last change, in nanoseconds since 1970."""

    path: Path
    num_tokens: int
    modified_ns: int


def open_shard(path: Path) -> Shard:
    """Reads and checks a shard's header.

    Raises:
        UserError: the file cannot be read, is not a shard, or has another size than its header says.
    """
    try:
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            header = np.frombuffer(file.read(HEADER_BYTES)[: status.st_size // 4 * 4], dtype="<i4")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if header.size and header[0] == 20240801:  # llm.c's shards of Llama 3.
        raise UserError(f"{path}: has uint32 tokens: ids must be below {MAX_VOCAB_SIZE}, in uint16")
    if header.size < HEADER_BYTES // 4 or header[0] != MAGIC or header[1] != VERSION:
        raise UserError(
            f"{path}: is not a token shard: its header must start with {MAGIC}, {VERSION}, "
            f"got {', '.join(map(str, header[:2]))} in {status.st_size} bytes"
        )
    num_tokens = int(header[2])
    expected = HEADER_BYTES + TOKEN_BYTES * num_tokens
    if num_tokens < 0 or status.st_size != expected:
        rule = f"size must be {expected} bytes for the {num_tokens} tokens in its header"
        raise UserError(f"{path}: {rule}, got {status.st_size}")
    return Shard(path, num_tokens, status.st_mtime_ns)


@cache
def fingerprint(shard: Shard) -> str:
    """Returns the number of tokens and a hash of the first and the last 4096, read once."""
    reader = ShardReader([shard])
    count = min(shard.num_tokens, 4096)
    ends = [reader.read(start, count) for start in (0, shard.num_tokens - count)]
    digest = hashlib.sha256(b"".join(tokens.astype("<u2").tobytes() for tokens in ends))
    return f"{shard.num_tokens} tokens, {digest.hexdigest()[:16]}"


def shard_header(num_tokens: int) -> bytes:
    """Returns the 1024 header bytes of a shard with this number of tokens."""
    header = np.zeros(HEADER_BYTES // 4, dtype="<i4")
    header[:3] = MAGIC, VERSION, num_tokens
    return header.tobytes()


def write_shard(path: Path, tokens: Tokens) -> None:
    """Writes a shard with tokens, uint16 (n,), completely or not at all."""
    write_atomically(path, shard_header(tokens.size) + tokens.astype("<u2", copy=False).tobytes())


def find_shards(root: Path, split: str) -> list[Shard]:
    """Opens all token shards ``*_{split}_<number>.bin`` in sorted order; ``split`` is ``train`` or ``val``.

    Raises:
        UserError: the folder or its shards are missing, or a shard is damaged.

    """
    paths = _matching(root, rf"{split}(?:_\d+)?\.bin")
    if not paths:
        raise UserError(f"no token shard matches {root}/*_{split}_<number>.bin")
    return [open_shard(path) for path in paths]


def has_shards(root: Path, split: str) -> bool:
    """Returns True if a folder holds token shards of a split."""
    return bool(_matching(root, rf"{split}(?:_\d+)?\.bin"))


def find_side_cars(root: Path, split: str, shards: Sequence[Shard]) -> list[Shard]:
    """Opens the byte side-cars of a split: the number of raw UTF-8 bytes of each token, in the same format.

    Their files are ``*_{split}_<number>.bytes``, or, from earlier versions, ``*_{split}_bytes_<number>.bin``.

    Returns:
        One side-car for each shard, in the same order, or an empty list.

    Raises:
        UserError: a side-car is missing, or its number of counts is not the number of tokens in its shard.
    """
    paths = _matching(root, rf"{split}_\d+\.bytes") or _matching(root, rf"{split}_bytes_\d+\.bin")
    side_cars = [open_shard(path) for path in paths]
    counts, tokens = ([shard.num_tokens for shard in files] for files in (side_cars, shards))
    if side_cars and counts != tokens:
        rule = "byte side-cars must have a count for each token"
        raise UserError(f"{side_cars[0].path}: {rule}, got {counts} counts for {tokens} tokens")
    return side_cars


def _matching(root: Path, ending: str) -> list[Path]:
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    # The beginning of a name may be anything, "my_val_texts" for example.
    return sorted(path for path in root.iterdir() if re.fullmatch(f".*_{ending}", path.name))


class ShardReader:
    """Reads the concatenated tokens of several shards by position, only the bytes that are asked for.

    Args:
        shards: the files, in order.
        vocab_size: upper bound of the ids that are read; the default allows any uint16, as in byte side-cars.

    Attributes:
        starts: position of the first token of each shard, and the number of tokens in all.
    """

    def __init__(self, shards: Sequence[Shard], *, vocab_size: int = MAX_VOCAB_SIZE) -> None:
        self.shards = tuple(shards)
        self.vocab_size = vocab_size
        self.starts = [0, *accumulate(shard.num_tokens for shard in self.shards)]
        self._files: dict[int, int] = {}

    @property
    def num_tokens(self) -> int:
        """Number of tokens in all shards."""
        return self.starts[-1]

    def read(self, start: int, count: int) -> Tokens:
        """Reads tokens, uint16 (count,), from a position on; after the last shard the first one follows.

        Raises:
            UserError: a file has changed or cannot be read, or holds an id outside the vocabulary.
        """
        if self.num_tokens == 0 and count > 0:
            raise UserError(f"{self.shards[0].path}: has no tokens")
        tokens = np.empty(count, dtype="<u2")
        filled = 0
        while filled < count:
            position = (start + filled) % self.num_tokens
            index = bisect_right(self.starts, position) - 1
            end = min(filled + self.starts[index + 1] - position, count)
            self._fill(index, position - self.starts[index], tokens[filled:end])
            filled = end
        return tokens.astype(np.uint16, copy=False)

    def fingerprints(self) -> dict[str, str]:
        """Returns what tells the shards from others, by file name."""
        return {shard.path.name: fingerprint(shard) for shard in self.shards}

    def path_at(self, position: int) -> Path:
        """Returns the file that holds the token at a position of ``read``."""
        return self.shards[bisect_right(self.starts, position % self.num_tokens) - 1].path

    def _fill(self, index: int, offset: int, into: Tokens) -> None:
        path = self.shards[index].path
        try:
            if index not in self._files:
                if len(self._files) >= _MAX_OPEN_FILES:
                    self.close()
                self._files[index] = os.open(path, os.O_RDONLY)
            data = os.pread(self._files[index], TOKEN_BYTES * into.size, HEADER_BYTES + TOKEN_BYTES * offset)
            modified_ns = os.fstat(self._files[index]).st_mtime_ns
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from error
        if modified_ns != self.shards[index].modified_ns or len(data) != TOKEN_BYTES * into.size:
            raise UserError(f"{path}: has changed since it was opened")
        into[:] = np.frombuffer(data, dtype="<u2")
        if into.size and int(into.max()) >= self.vocab_size:
            rule, near = f"must be below vocab_size {self.vocab_size}", offset + int(into.argmax())
            raise UserError(f"{path}: token ids {rule}, got {into.max()} near token {near}")

    def close(self) -> None:
        """Closes the files; the next read opens them again."""
        for file in self._files.values():
            os.close(file)
        self._files.clear()

    def __getstate__(self) -> dict[str, Any]:
        # A copy that shared these descriptors would close them for the original.
        return {**self.__dict__, "_files": {}}

    def __del__(self) -> None:
        self.close()
