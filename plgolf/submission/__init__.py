"""What is submitted besides the artifact: the packed code of a run, and the bytes of both."""

from plgolf.submission.ledger import BUDGET_BYTES, Ledger

__all__ = ["BUDGET_BYTES", "Ledger"]
