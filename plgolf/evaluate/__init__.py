"""How good a model is, in bits per byte."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from plgolf.evaluate.by_document import ByDocument, tokens_to_learn
from plgolf.evaluate.evaluator import Evaluator, Plain, Scored, evaluate
from plgolf.evaluate.score import Score
from plgolf.evaluate.targets import InOrder, Targets, split_targets
from plgolf.evaluate.windows import Windows

if TYPE_CHECKING:
    from plgolf.evaluate.metric import BitsPerByte, bits_per_byte

__all__ = [
    "BitsPerByte",
    "ByDocument",
    "Evaluator",
    "InOrder",
    "Plain",
    "Score",
    "Scored",
    "Targets",
    "Windows",
    "bits_per_byte",
    "evaluate",
    "split_targets",
    "tokens_to_learn",
]


def __getattr__(name: str) -> Any:
    if name in ("BitsPerByte", "bits_per_byte"):
        # On demand: nothing in a run needs torchmetrics.
        return getattr(import_module("plgolf.evaluate.metric"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
