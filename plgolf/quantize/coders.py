"""Coders: lossless compressors that turn the bytes of codes and scales into fewer bytes."""

import lzma
import zlib
from typing import Any, Literal

from plgolf.errors import UserError, extra

CoderName = Literal["zlib", "lzma", "brotli", "zstd"]

_ZLIB_WAYS = (
    (6, 9, zlib.Z_FILTERED),
    (9, 9, zlib.Z_HUFFMAN_ONLY),
    (9, 8, zlib.Z_FILTERED),
    (9, 8, zlib.Z_DEFAULT_STRATEGY),
)
"""Level, memory level and strategy. Codes are nearly noise: the second way looks for no repetitions."""
_SMALLEST_WINDOW, _LARGEST_WINDOW = 2**12, 2**26
_WHO = "this coder"


def compress(coder: CoderName, data: bytes) -> bytes:
    """Compresses as far as the coder can.

    Raises:
        UserError: the coder's package is not installed.
    """
    if coder == "zlib":
        return min((_deflate(data, *way) for way in _ZLIB_WAYS), key=len)
    if coder == "lzma":
        return lzma.compress(data, lzma.FORMAT_RAW, filters=[_lzma_filter(len(data))])
    if coder == "brotli":
        small: bytes = _brotli().compress(data, quality=11, lgwin=24)
        return small
    small = _zstd().ZstdCompressor(level=22).compress(data)
    return small


def decompress(coder: CoderName, data: bytes, size: int) -> bytes:
    """Restores the bytes of ``compress`` in memory that is bounded by ``size``.

    Args:
        coder: coder that compressed.
        data: one compressed stream.
        size: number of bytes that it must restore.

    Raises:
        UserError: the stream is damaged, is not of this size, does not end with the data, or the coder's
            package is not installed.
    """
    decode = {"zlib": _inflate, "lzma": _unlzma, "brotli": _unbrotli, "zstd": _unzstd}[coder]
    try:
        restored = decode(data, size)
    except UserError:
        raise
    except Exception as error:  # Each library has an error of its own.
        raise UserError(f"must be a whole {coder} stream: {str(error).splitlines()[0]:.100}") from error
    if restored is None or len(restored) != size:
        raise UserError(f"must be a whole {coder} stream of {size} bytes")
    return restored


def _deflate(data: bytes, level: int, memory_level: int, strategy: int) -> bytes:
    deflate = zlib.compressobj(level, zlib.DEFLATED, zlib.MAX_WBITS, memory_level, strategy)
    return deflate.compress(data) + deflate.flush()


def _inflate(data: bytes, size: int) -> bytes | None:
    inflate = zlib.decompressobj()
    restored = inflate.decompress(data, size + 1)
    return restored if inflate.eof and not inflate.unused_data else None


def _lzma_filter(size: int) -> dict[str, Any]:
    # The window follows from the size: a stream that chose it could ask for any memory.
    window = min(max(size, _SMALLEST_WINDOW), _LARGEST_WINDOW)
    preset = 9 | lzma.PRESET_EXTREME
    return {"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": window, "lc": 0, "lp": 0, "pb": 0}


def _unlzma(data: bytes, size: int) -> bytes | None:
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[_lzma_filter(size)])
    restored = decoder.decompress(data, size + 1)
    return restored if decoder.eof and not decoder.unused_data else None


def _brotli() -> Any:
    module = extra("brotli", _WHO)
    if not hasattr(module.Decompressor, "can_accept_more_data"):
        raise UserError(f"{_WHO} needs brotli 1.2 or newer, which bounds memory: pip install -U brotli")
    return module


def _unbrotli(data: bytes, size: int) -> bytes | None:
    decoder = _brotli().Decompressor()
    restored: bytes = decoder.process(data, output_buffer_limit=size + 1)
    return restored if decoder.is_finished() else None


def _zstd() -> Any:
    return extra("zstandard", _WHO)


def _unzstd(data: bytes, size: int) -> bytes | None:
    zstd = _zstd()
    if zstd.frame_content_size(data) != size:
        return None
    restored: bytes = zstd.ZstdDecompressor().decompress(data, max_output_size=size, allow_extra_data=False)
    return restored
