"""Decompression of .gz, .bz2, .xz and .zst files as streams."""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from typing import IO, Any, NamedTuple

from plgolf.errors import UserError

_CHUNK_BYTES = 1 << 12
"""Bytes that are decompressed at once: few, because they may become many thousand times as many."""
_ZSTD_WINDOW_BYTES = 1 << 31
"""Largest window of zstd (``--long=31``); decompression takes as much memory as the window of the file."""


class _Codec(NamedTuple):
    """A compressed format: a function that returns the decompressor of a frame, and what that raises."""

    start: Callable[[], Any]
    error: type[Exception]


def _zstd() -> _Codec:
    import zstandard  # noqa: PLC0415 (an extra)

    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
    return _Codec(decompressor.decompressobj, zstandard.ZstdError)


_CODECS: dict[str, Callable[[], _Codec]] = {
    ".gz": lambda: _Codec(lambda: zlib.decompressobj(wbits=zlib.MAX_WBITS | 16), zlib.error),
    ".bz2": lambda: _Codec(bz2.BZ2Decompressor, OSError),
    ".xz": lambda: _Codec(lzma.LZMADecompressor, lzma.LZMAError),
    ".zst": _zstd,
}
COMPRESSED = tuple(_CODECS)
"""Endings of the names of compressed files."""


def decompressed(raw: IO[bytes], name: str) -> IO[bytes]:
    """Returns the decompressed contents of a file; reading raises OSError if they are damaged or cut short.

    Args:
        raw: the open file.
        name: its name, whose ending tells the format; other files are returned as they are.

    Raises:
        UserError: a package is missing.
    """
    codec = next((_CODECS[ending] for ending in COMPRESSED if name.lower().endswith(ending)), None)
    if codec is None:
        return raw
    try:
        return io.BufferedReader(_Frames(raw, codec()), 1 << 16)
    except ImportError as error:
        raise UserError(f"{name}: needs the zstandard package: pip install zstandard") from error


class _Frames(io.RawIOBase):
    """Decompresses the frames of a file one after the other.

    Damage after a complete frame, or a missing end, is an error here; the readers of Python's modules and of
    zstandard take some of it for the end of the file.
    """

    def __init__(self, raw: IO[bytes], codec: _Codec) -> None:
        self._raw, self._codec = raw, codec
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
            self._frame = self._codec.start()
        try:
            self._out = memoryview(self._frame.decompress(data))
        except self._codec.error as error:
            raise OSError(f"it is damaged: {error}") from error
        if self._frame.eof:
            self._rest, self._frame = self._frame.unused_data, None
            self._complete += 1
