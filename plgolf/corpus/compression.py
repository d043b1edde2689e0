"""Decompression of .gz, .bz2, .xz and .zst files as streams."""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from typing import IO, Any

from plgolf.errors import extra

_CHUNK_BYTES = 1 << 12
"""Bytes that are decompressed at once: few, because they may become many thousand times as many."""
_ZSTD_WINDOW_BYTES = 1 << 31
"""Largest window of zstd (``--long=31``); decompression takes as much memory as the window of the file."""


def _zstd() -> Any:
    return extra("zstandard").ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES).decompressobj()


_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    ".gz": lambda: zlib.decompressobj(wbits=zlib.MAX_WBITS | 16),
    ".bz2": bz2.BZ2Decompressor,
    ".xz": lzma.LZMADecompressor,
    ".zst": _zstd,
}
COMPRESSED = tuple(_DECOMPRESSORS)
"""Endings of the names of compressed files."""


def decompressed(raw: IO[bytes], name: str) -> IO[bytes]:
    """Returns the decompressed contents of a file; reading raises OSError if they are damaged or cut short.

    The ending of the name tells the format; other files are returned as they are.

    Raises:
        UserError: a package is missing.
    """
    start = next((_DECOMPRESSORS[ending] for ending in COMPRESSED if name.lower().endswith(ending)), None)
    if start is None:
        return raw
    if start is _zstd:
        extra("zstandard", f"{name}:")
    return io.BufferedReader(_Frames(raw, start), 1 << 16)


class _Frames(io.RawIOBase):
    """Decompresses the frames of a file one after the other.

    Damage after a complete frame, or a missing end, is an error here; the readers of Python's modules and of
    zstandard take some of it for the end of the file.
    """

    def __init__(self, raw: IO[bytes], start: Callable[[], Any]) -> None:
        self._raw, self._start = raw, start
        self._frame: Any = None
        self._complete = 0
        self._rest, self._out = b"", memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._out:
            if data := self._rest or self._raw.read(_CHUNK_BYTES):
                self._decompress(data)
            elif self._frame is None and self._complete:
                return 0
            else:
                raise OSError("it is cut short")
        count = min(len(buffer), len(self._out))
        buffer[:count], self._out = self._out[:count], self._out[count:]
        return count

    def _decompress(self, data: bytes) -> None:
        self._rest = b""
        if self._frame is None:
            if self._complete:
                data = data.lstrip(b"\0")  # Some writers pad with zeros.
                if not data:
                    return
            self._frame = self._start()
        try:
            self._out = memoryview(self._frame.decompress(data))
        except Exception as error:  # Each library has its own.
            raise OSError(f"it is damaged: {error}") from error
        if self._frame.eof:
            self._rest, self._frame = self._frame.unused_data, None
            self._complete += 1
