"""Bits per byte of general compressors on the same text, as a familiar yardstick."""

import lzma
import zlib
from collections.abc import Iterable


def compressor_bits_per_byte(text: bytes, names: Iterable[str]) -> dict[str, float]:
    """Compresses a whole text.

    Args:
        text: UTF-8 bytes, at least one.
        names: ``zlib`` (level 9) and ``xz`` (preset 9).

    Returns:
        Bits per byte by name.

    Raises:
        KeyError: a name is unknown.
    """
    compress = {
        "zlib": lambda data: zlib.compress(data, 9),
        "xz": lambda data: lzma.compress(data, preset=9),
    }
    return {name: 8 * len(compress[name](text)) / len(text) for name in names}
