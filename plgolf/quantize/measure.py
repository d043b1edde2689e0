"""Bytes of every tensor in an artifact, and how far quantisation moved its values."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class StoredTensor(NamedTuple):
    """A tensor as a file has it.

    Args:
        codec: name of its codec.
        kept: name of the numbers that are stored, such as ``int6`` or ``float16``.
        payload: codes and scales, or the values.
        largest: magnitudes above which values are clipped, which broadcast to the tensor as (rows, columns);
            None if none are.
    """

    codec: str
    kept: str
    payload: tuple[Tensor, ...]
    largest: Tensor | None


@dataclass(frozen=True)
class TensorEntry:
    """Bytes and errors of one tensor.

    Args:
        name: name of the tensor.
        shape: shape of the tensor.
        num_params: number of elements.
        codec: name of the codec.
        kept: name of the numbers that are stored, such as ``int8`` or ``float16``.
        payload_bytes: bytes of codes and scales, or of the values that are stored as they are.
        compressed_bytes: bytes of the payload when it is compressed alone.
        relative_error: root mean square of the error, divided by that of the original; 0 for zeros.
        clipped_fraction: fraction of values that are more than half a step away from their code.
    """

    name: str
    shape: list[int]
    num_params: int
    codec: str
    kept: str
    payload_bytes: int
    compressed_bytes: int
    relative_error: float
    clipped_fraction: float


def measure_tensors(
    stored: Mapping[str, StoredTensor],
    restored: Mapping[str, Tensor],
    originals: Mapping[str, Tensor],
    compressed_bytes: Callable[..., int],
) -> list[TensorEntry]:
    """Measures every tensor of an artifact and compares it with the original, in the order of ``originals``.

    Args:
        stored: what the file has, by name.
        restored: the dequantised tensors.
        originals: the tensors before quantisation.
        compressed_bytes: returns the bytes of tensors that are compressed together.
    """
    entries = []
    for name, original in originals.items():
        was, now, (codec, kept, payload, largest) = (
            original.detach().cpu().float(),
            restored[name],
            stored[name],
        )
        entries.append(
            TensorEntry(
                name=name,
                shape=list(original.shape),
                num_params=original.numel(),
                codec=codec,
                kept=kept,
                payload_bytes=sum(tensor.numel() * tensor.element_size() for tensor in payload),
                compressed_bytes=compressed_bytes(*payload),
                relative_error=_relative_error(was, now.float()),
                clipped_fraction=_clipped_fraction(was, largest),
            )
        )
    return entries


def _relative_error(was: Tensor, now: Tensor) -> float:
    size, lost = (torch.linalg.vector_norm(t, dtype=torch.float64).item() for t in (was, was - now))
    return lost / size if size > 0 else 0.0


def _clipped_fraction(was: Tensor, largest: Tensor | None) -> float:
    if largest is None or not was.numel():
        return 0.0
    rows = was.reshape(len(largest), -1)
    return int(torch.count_nonzero(rows.abs() > largest)) / was.numel()
