"""Bytes of every tensor in an artifact, and how far quantisation moved its values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plgolf.reference.int8_zlib import compressed_bytes
from plgolf.reference.rounding import LEVELS


@dataclass(frozen=True)
class TensorEntry:
    """Bytes and errors of one tensor.

    Args:
        name: the reference's name of the tensor.
        shape: shape of the tensor.
        num_params: number of elements.
        kept: ``int8`` if it is quantised, else the dtype in which it is stored.
        payload_bytes: bytes of codes and scales, or of the values that are stored as they are.
        compressed_bytes: bytes of the payload when it is compressed alone.
        relative_error: root mean square of the error, divided by that of the original; 0 for zeros.
        clipped_fraction: fraction of values that are more than half a step away from their code.
    """

    name: str
    shape: list[int]
    num_params: int
    kept: str
    payload_bytes: int
    compressed_bytes: int
    relative_error: float
    clipped_fraction: float


def measure_tensors(
    stored: Mapping[str, Any], restored: Mapping[str, Tensor], originals: Mapping[str, Tensor]
) -> list[TensorEntry]:
    """Measures every tensor of an artifact and compares it with the original, in the order of ``originals``.

    Args:
        stored: the format's dict, as read from a file.
        restored: the dequantised tensors of that dict, by the file's names.
        originals: the tensors before quantisation, by the file's names.
    """
    entries = []
    for name, original in originals.items():
        was, now = original.detach().cpu().float(), restored[name].float()
        codes, scale = stored["quantized"].get(name), stored["scales"].get(name)
        values = stored["passthrough"][name] if codes is None else codes
        payload = [values] if scale is None else [values, scale]
        entries.append(
            TensorEntry(
                name=name,
                shape=list(original.shape),
                num_params=original.numel(),
                kept=str(values.dtype).removeprefix("torch."),
                payload_bytes=sum(tensor.numel() * tensor.element_size() for tensor in payload),
                compressed_bytes=compressed_bytes(*payload),
                relative_error=_relative_error(was, now),
                clipped_fraction=0.0 if codes is None else _clipped_fraction(was, scale),
            )
        )
    return entries


def _relative_error(was: Tensor, now: Tensor) -> float:
    size, lost = (torch.linalg.vector_norm(t, dtype=torch.float64).item() for t in (was, was - now))
    return lost / size if size > 0 else 0.0


def _clipped_fraction(was: Tensor, scale: Tensor) -> float:
    step = scale.float().view(-1, *[1] * (was.ndim - 1)) if scale.ndim else scale.float()
    return int(torch.count_nonzero(was.abs() > (LEVELS + 0.5) * step)) / was.numel()
