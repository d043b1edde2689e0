"""``analysis.json`` as a dataclass: losses by position, and the hardest documents."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from plgolf.config import config_from_dict
from plgolf.errors import UserError
from plgolf.report.json_files import known_fields, located, read_json

_FORMAT = 1
_MOST_NATS = 1e6


@dataclass(frozen=True)
class Position:
    """The loss at a range of positions in a sequence.

    Args:
        first: position, from 0.
        last: included.
        loss: mean nats a token.
        bpb: bits per byte.
    """

    first: int
    last: int
    loss: float
    bpb: float


@dataclass(frozen=True)
class ScoredDocument:
    """A document of the validation split, token by token.

    Args:
        start_token: where it begins in the split.
        num_tokens: its length.
        num_bytes: bytes it counts for.
        bpb: of the whole document.
        shown_from: which of its tokens is the first that is shown, from 0.
        tokens: text and nats of those that are shown.
    """

    start_token: int
    num_tokens: int
    num_bytes: int
    bpb: float
    shown_from: int
    tokens: list[tuple[str, float]]


@dataclass(frozen=True)
class Analysis:
    """What ``analysis.json`` says.

    Args:
        seq_len: of the sequences that were scored.
        positions: loss by position.
        documents: the hardest of the validation split, hardest first.
    """

    seq_len: int
    positions: list[Position]
    documents: list[ScoredDocument]


def read_analysis(path: Path) -> Analysis:
    """Reads ``analysis.json``.

    Raises:
        UserError: it cannot be read or is none; the message starts with the path.
    """
    try:
        values = read_json(path)
        if not isinstance(values, Mapping) or values.get("format") != _FORMAT:
            raise UserError(f"format must be {_FORMAT}")
        known = known_fields(Analysis, values, "analysis")
        scored = [
            _document(document, f"documents.{i}") for i, document in enumerate(_list(known, "documents"))
        ]
        known["positions"] = [known_fields(Position, p, "positions") for p in _list(known, "positions")]
        analysis = config_from_dict(Analysis, {**known, "documents": []}, where="analysis")
        return Analysis(analysis.seq_len, analysis.positions, scored)
    except UserError as error:
        raise located(path, error) from error


def _list(values: Mapping[str, Any], name: str) -> list[Any]:
    found = values.get(name)
    if not isinstance(found, list):
        raise UserError(f"{name} must be a list, got {type(found).__name__}")
    return found


def _document(values: Any, where: str) -> ScoredDocument:
    known = known_fields(ScoredDocument, values, where)
    tokens = []
    for pair in _list(known, "tokens"):
        if not (isinstance(pair, list) and len(pair) == 2 and _is_text_and_nats(*pair)):
            raise UserError(f"{where}.tokens must be pairs of a text and its nats")
        tokens.append((pair[0], float(pair[1])))
    head = config_from_dict(ScoredDocument, {**known, "tokens": []}, where=where)
    return replace(head, tokens=tokens)


def _is_text_and_nats(text: Any, nats: Any) -> bool:
    is_number = isinstance(nats, (int, float)) and not isinstance(nats, bool)
    return isinstance(text, str) and is_number and 0 <= nats <= _MOST_NATS
