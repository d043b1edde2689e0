"""The bytes around the streams: magic, sizes, the compressed JSON header, the checksum."""

import json
import math
import re
import reprlib
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from plgolf.errors import UserError
from plgolf.header import MAGIC, MAX_TOKENIZER_BYTES
from plgolf.quantize.coders import CoderName, compress, decompress
from plgolf.quantize.plan import CodecConfig
from plgolf.quantize.streams import TensorSpec

VERSION = 1
MAX_VALUES = 2**30
"""Largest number of values of a tensor, and of inflated bytes of a file."""
NAME = re.compile(r"[A-Za-z0-9_.]{1,200}")
"""Names of tensors."""
RULE = re.compile(r"[A-Za-z0-9_., -]{1,200}")
"""Names of rules."""
_SIZES = struct.Struct("<II")
"""Bytes of the JSON header, compressed and inflated."""
_CHECKSUM = struct.Struct("<I")
_MAX_HEADER_BYTES = 2**20
_MAX_DIMS = 8


@dataclass(frozen=True)
class TensorEntry:
    """A tensor in the JSON header; ``rule`` names its codec."""

    name: str
    dtype: Literal["float32", "bfloat16", "float16"]
    shape: list[int]
    rule: str

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise UserError(f"name must have only letters, digits, _ and dots, got {self.name!r:.100}")
        sizes = self.shape
        bounded = len(sizes) <= _MAX_DIMS and all(0 <= size <= MAX_VALUES for size in sizes)
        if not bounded or math.prod(sizes) > MAX_VALUES:
            raise UserError(f"shape must have at most {MAX_VALUES} values, got {reprlib.repr(sizes)}")

    @property
    def spec(self) -> TensorSpec:
        """The entry with PyTorch's types."""
        return TensorSpec(self.name, getattr(torch, self.dtype), tuple(self.shape), self.rule)


@dataclass(frozen=True)
class StreamEntry:
    """A stream in the JSON header: arrays of one rule, name and dtype, and its bytes in the file."""

    rule: str
    plane: str
    dtype: str
    bytes: int

    def __post_init__(self) -> None:
        if self.bytes < 0:
            raise UserError(f"bytes must be at least 0, got {self.bytes}")


@dataclass(frozen=True)
class CarriedEntry:
    """The tokenizer in the JSON header: bytes of its file, and of its stream."""

    size: int
    bytes: int

    def __post_init__(self) -> None:
        if not 1 <= self.size <= MAX_TOKENIZER_BYTES:
            raise UserError(f"size must be from 1 to {MAX_TOKENIZER_BYTES}, got {self.size}")
        if self.bytes < 0:
            raise UserError(f"bytes must be at least 0, got {self.bytes}")


@dataclass(frozen=True)
class Listing:
    """What the JSON header says besides the description of the model."""

    coder: CoderName
    codecs: dict[str, CodecConfig]
    tensors: list[TensorEntry]
    streams: list[StreamEntry]
    tokenizer: CarriedEntry | None

    def __post_init__(self) -> None:
        names = {tensor.name for tensor in self.tensors}
        if len(names) != len(self.tensors):
            raise UserError("tensors must have different names")
        unknown = [tensor.name for tensor in self.tensors if tensor.rule not in self.codecs]
        if unknown:
            raise UserError(f"codecs must have the rule of {unknown[0]}")


def dtype_name(dtype: torch.dtype) -> str:
    """Returns the name of a dtype, such as ``float32``."""
    return str(dtype).removeprefix("torch.")


def assemble(header: Mapping[str, Any], streams: Sequence[bytes]) -> bytes:
    """Returns the contents of a file with this JSON header and these compressed streams."""
    text = json.dumps(header, separators=(",", ":")).encode()
    small = compress("zlib", text)
    body = b"".join((MAGIC, _SIZES.pack(len(small), len(text)), small, *streams))
    return body + _CHECKSUM.pack(zlib.crc32(body))


def disassemble(data: bytes) -> tuple[dict[str, Any], memoryview]:
    """Returns the JSON header of a file and the bytes of its streams.

    Raises:
        UserError: the file is damaged, or its header is not one of this version.
    """
    start = len(MAGIC) + _SIZES.size
    body, checksum = memoryview(data)[: -_CHECKSUM.size], data[-_CHECKSUM.size :]
    if len(body) < start or checksum != _CHECKSUM.pack(zlib.crc32(body)):
        raise UserError("is damaged or cut short: its checksum is wrong")
    length, size = _SIZES.unpack_from(body, len(MAGIC))
    if size > _MAX_HEADER_BYTES or start + length > len(body):
        raise UserError(f"its header must have at most {_MAX_HEADER_BYTES} bytes and fit into the file")
    try:
        header = json.loads(decompress("zlib", bytes(body[start : start + length]), size))
    except UserError as error:
        raise UserError(f"its header {error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"its header is malformed: {error}") from error
    version = header.get("version") if isinstance(header, dict) else None
    if type(version) is not int or version != VERSION:
        raise UserError(f"its header version must be {VERSION}, got {reprlib.repr(version)}")
    return header, body[start + length :]
