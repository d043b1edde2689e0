"""The bytes that count against the challenge's budget: the artifact and the packed code."""

from dataclasses import dataclass

BUDGET_BYTES = 16_000_000
"""The challenge's limit on artifact and code together, in decimal bytes."""


@dataclass(frozen=True)
class Ledger:
    """Bytes by part.

    Args:
        artifact_bytes: bytes of the model file.
        code_bytes: bytes of the packed code.
        budget_bytes: limit on the sum of both.

    >>> ledger = Ledger(artifact_bytes=15_900_000, code_bytes=100_001)
    >>> ledger.total_bytes, ledger.within_budget
    (16000001, False)
    """

    artifact_bytes: int
    code_bytes: int
    budget_bytes: int = BUDGET_BYTES

    @property
    def total_bytes(self) -> int:
        """Bytes of artifact and code together."""
        return self.artifact_bytes + self.code_bytes

    @property
    def within_budget(self) -> bool:
        """True if the total is at most the budget."""
        return self.total_bytes <= self.budget_bytes
