"""What counts against the byte budget: the artifact, tensor by tensor, and the packed code of a run."""

import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plgolf.reference.int8_zlib import compressed_size, dequantize_state_dict
from plgolf.reference.rounding import LEVELS

BUDGET_BYTES = 16_000_000
"""The challenge's limit, decimal."""

_NOT_IN_A_RUN = ("corpus", "generation", "report")
"""The rooms that no run on given shards enters."""


@dataclass(frozen=True)
class Ledger:
    """Bytes by part.

    Args:
        artifact_bytes: the model file.
        code_bytes: the packed sources.
        budget_bytes: what both together may take.

    >>> ledger = Ledger(artifact_bytes=15_900_000, code_bytes=100_001)
    >>> ledger.total_bytes, ledger.within_budget
    (16000001, False)
    """

    artifact_bytes: int
    code_bytes: int
    budget_bytes: int = BUDGET_BYTES

    @property
    def total_bytes(self) -> int:
        """Artifact and code together."""
        return self.artifact_bytes + self.code_bytes

    @property
    def within_budget(self) -> bool:
        """Whether the total fits."""
        return self.total_bytes <= self.budget_bytes


def pack_code(extra: Mapping[str, bytes] | None = None) -> bytes:
    """Packs this package's sources as they would be submitted: what trains and scores on given shards.

    Args:
        extra: further files by name, such as the run's configuration.

    Returns:
        A ``.tar.xz``; the same sources give the same bytes on every machine with the same xz.
    """
    package = Path(__file__).resolve().parent
    files = {
        path.relative_to(package.parent).as_posix(): path.read_bytes()
        for path in sorted(package.rglob("*.py"))
        if path.relative_to(package).parts[0] not in _NOT_IN_A_RUN
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz", preset=9) as archive:
        for name, content in sorted({**files, **(extra or {})}.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@dataclass(frozen=True)
class TensorEntry:
    """What one tensor takes in an artifact, and what it lost on the way.

    Args:
        name: of the tensor.
        shape: of the tensor.
        num_params: elements.
        kept: as what: ``int8``, or the dtype of what is passed through.
        payload_bytes: codes and scales, or the values that are passed through.
        compressed_bytes: the payload, compressed by itself.
        relative_error: root mean square of the error, as a share of the tensor's own; 0 for zeros.
        clipped_fraction: share of values that are further from their code than half a step.
    """

    name: str
    shape: list[int]
    num_params: int
    kept: str
    payload_bytes: int
    compressed_bytes: int
    relative_error: float
    clipped_fraction: float


def measure_tensors(obj: Mapping[str, Any], originals: Mapping[str, Tensor]) -> list[TensorEntry]:
    """Weighs every tensor of an artifact and compares it with what it was.

    Args:
        obj: the format's dict, as read from a file.
        originals: the tensors before quantisation, by the file's names.

    Returns:
        One entry a tensor, in the order of ``originals``.
    """
    restored = dequantize_state_dict(obj)
    entries = []
    for name, original in originals.items():
        was, now = original.detach().cpu().float(), restored[name].float()
        codes, scale = obj["quantized"].get(name), obj["scales"].get(name)
        stored = obj["passthrough"][name] if codes is None else codes
        payload = [stored] if scale is None else [stored, scale]
        entries.append(
            TensorEntry(
                name=name,
                shape=list(original.shape),
                num_params=original.numel(),
                kept=str(stored.dtype).removeprefix("torch."),
                payload_bytes=sum(tensor.numel() * tensor.element_size() for tensor in payload),
                compressed_bytes=compressed_bytes(*payload),
                relative_error=_relative_error(was, now),
                clipped_fraction=0.0 if codes is None else _clipped_fraction(was, scale),
            )
        )
    return entries


def compressed_bytes(*tensors: Tensor) -> int:
    """Returns what tensors take when they are compressed by themselves, end to end."""
    raw = (tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() for tensor in tensors)
    return compressed_size(b"".join(raw))


def _relative_error(was: Tensor, now: Tensor) -> float:
    size, lost = (torch.linalg.vector_norm(t, dtype=torch.float64).item() for t in (was, was - now))
    return lost / size if size > 0 else 0.0


def _clipped_fraction(was: Tensor, scale: Tensor) -> float:
    step = scale.float().view(-1, *[1] * (was.ndim - 1)) if scale.ndim else scale.float()
    return int(torch.count_nonzero(was.abs() > (LEVELS + 0.5) * step)) / was.numel()
