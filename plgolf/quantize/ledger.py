"""What counts against the byte budget: the artifact, and the packed code that a run needs."""

import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

BUDGET_BYTES = 16_000_000
"""The challenge's limit, decimal."""

_MAKES_SHARDS = "corpus"
"""The room that no run on given shards enters."""


@dataclass(frozen=True)
class Ledger:
    """Bytes by part.

    Args:
        artifact_bytes: the model file.
        code_bytes: the packed sources.
        budget_bytes: what both together may take.
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
    package = Path(__file__).resolve().parents[1]
    files = {
        path.relative_to(package.parent).as_posix(): path.read_bytes()
        for path in sorted(package.rglob("*.py"))
        if path.relative_to(package).parts[0] != _MAKES_SHARDS
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz", preset=9) as archive:
        for name, content in sorted({**files, **(extra or {})}.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
