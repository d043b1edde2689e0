"""Streams: the arrays of many tensors, joined by codec so that a coder finds what they have in common."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from plgolf.quantize.codec import Plane
from plgolf.quantize.coders import CoderName, compress
from plgolf.quantize.plan import CodecConfig


class TensorSpec(NamedTuple):
    """A tensor before its data are known; ``rule`` names its codec."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    rule: str


class Stream(NamedTuple):
    """Arrays that are stored together.

    Args:
        rule: rule of the tensors.
        plane: name of the arrays.
        dtype: dtype of the arrays.
    """

    rule: str
    plane: str
    dtype: torch.dtype


def plan_streams(
    specs: Sequence[TensorSpec], codecs: Mapping[str, CodecConfig]
) -> dict[Stream, list[tuple[str, Plane]]]:
    """Returns what each stream holds: names of tensors with their arrays, in the order of the file.

    One stream has the arrays of one rule, name and dtype; rules are in the order of ``codecs``, tensors in
    that of ``specs``.
    """
    streams: dict[Stream, list[tuple[str, Plane]]] = {}
    for rule, config in codecs.items():
        for spec in specs:
            if spec.rule == rule:
                for name, plane in config.codec.planes(spec.shape, spec.dtype).items():
                    streams.setdefault(Stream(rule, name, plane.dtype), []).append((spec.name, plane))
    return streams


def stream_bytes(planes: Sequence[tuple[str, Plane]]) -> int:
    """Returns the bytes of a stream before it is compressed."""
    return sum(math.prod(plane.shape) * plane.dtype.itemsize for _, plane in planes)


def join_arrays(arrays: Sequence[Tensor]) -> bytes:
    """Joins arrays of one dtype: the first byte of every value, then the second of every value, and so on."""
    size = arrays[0].element_size()
    data = b"".join(array.reshape(-1).view(torch.uint8).numpy().tobytes() for array in arrays)
    return np.frombuffer(data, np.uint8).reshape(-1, size).T.tobytes()


def count_bytes(coder: CoderName, *arrays: Tensor) -> int:
    """Returns the bytes of arrays of any dtypes that are compressed alone."""
    return len(compress(coder, b"".join(join_arrays([array]) for array in arrays)))


def split_arrays(data: bytes, planes: Sequence[tuple[str, Plane]]) -> Iterator[tuple[str, Tensor]]:
    """Yields the arrays of ``join_arrays`` by the names of their tensors."""
    dtype = planes[0][1].dtype
    values = np.frombuffer(data, np.uint8).reshape(dtype.itemsize, -1).T.tobytes()
    whole = torch.frombuffer(bytearray(values), dtype=dtype) if values else torch.empty(0, dtype=dtype)
    start = 0
    for name, plane in planes:
        end = start + math.prod(plane.shape)
        yield name, whole[start:end].view(plane.shape)
        start = end
