"""How good a model is, in bits per byte."""

from plgolf.evaluate.by_document import ByDocument, tokens_to_learn
from plgolf.evaluate.evaluator import Evaluator, Plain, Scored, evaluate
from plgolf.evaluate.metric import BitsPerByte, bits_per_byte
from plgolf.evaluate.score import Score
from plgolf.evaluate.targets import InOrder, Targets, split_targets
from plgolf.evaluate.windows import Windows

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
