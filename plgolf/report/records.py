"""``result.json`` and ``analysis.json`` as dataclasses, whatever version of plgolf wrote them."""

import itertools
import json
import math
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from plgolf.config import config_from_dict
from plgolf.errors import UserError
from plgolf.files import read_regular

_MAX_JSON_BYTES = 2**25
_ANALYSIS_FORMAT = 1
LARGEST = 1e30
"""Largest number that a figure can have on an axis; larger ones are read as NaN."""

Kind = Literal["matrix", "embedding", "head", "scalar"]
R = TypeVar("R", bound="Record")


class Record:
    """A part of a JSON file whose numbers must not be negative."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, (int, float)) and value < 0:
                raise UserError(f"{name} must not be negative, got {value}")


@dataclass(frozen=True)
class Histogram(Record):
    """Counts of values between ascending edges, which are one more than counts."""

    edges: list[float]
    counts: list[int]

    def __post_init__(self) -> None:
        if not self.counts or len(self.edges) != len(self.counts) + 1 or min(self.counts) < 0:
            raise UserError("a histogram must have counts from 0 up, and one edge more than counts")
        if any(a >= b for a, b in itertools.pairwise(self.edges)):
            raise UserError("the edges of a histogram must rise")


@dataclass(frozen=True)
class TensorRecord(Record):
    """A tensor of the artifact: ``kept`` is its kind of numbers there, the error rms(w - w_file) / rms(w)."""

    name: str
    role: Kind
    shape: list[int]
    num_params: int
    kept: str
    payload_bytes: int
    compressed_bytes: int
    codec: str = ""
    relative_error: float = 0.0
    clipped_fraction: float = 0.0


@dataclass(frozen=True)
class ScoreRecord(Record):
    """One of several scores of the file; it computes ``computed_per_token`` times the tokens."""

    val_bpb: float = math.nan
    seconds: float = math.nan
    computed_per_token: float = 1.0


@dataclass(frozen=True)
class AveragesRecord(Record):
    """What averages of the weights replaced: the score of the weights themselves."""

    raw_val_bpb: float = math.nan


@dataclass(frozen=True)
class Result(Record):
    """The part of ``result.json`` that a report shows; what a run left out is NaN, None or empty."""

    steps: int
    train_seconds: float
    artifact_bytes: int
    code_bytes: int
    total_bytes: int
    budget_bytes: int
    val_bpb: float = math.nan
    roundtrip_val_loss: float = math.nan
    roundtrip_val_bpb: float = math.nan
    roundtrip_val_bpb_raw: float | None = None
    recipe: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    seed: int | None = None
    num_params: int | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    world_size: int = 1
    global_batch_tokens: int | None = None
    val_tokens: int | None = None
    val_bytes: int | None = None
    val_raw_bytes: int | None = None
    val_share: float = 1.0
    scores: dict[str, ScoreRecord] = field(default_factory=dict)
    averages: AveragesRecord | None = None
    tokenizer_bytes: int = 0
    compressors_bpb: dict[str, float] = field(default_factory=dict)
    hardware: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    git_commit: str | None = None
    metrics: list[str] = field(default_factory=list)
    step_ms_quantiles: dict[str, float] = field(default_factory=dict)
    step_ms_histogram: Histogram | None = None
    tensors: list[TensorRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget_bytes == 0:
            raise UserError("budget_bytes must be positive, got 0")
        if self.total_bytes != self.artifact_bytes + self.code_bytes:
            raise UserError(f"total_bytes must be artifact_bytes + code_bytes, got {self.total_bytes}")

    @property
    def parts(self) -> dict[str, int]:
        """Bytes of model, tokenizer and code; they add up to ``total_bytes``."""
        tokenizer = min(self.tokenizer_bytes, self.artifact_bytes)
        parts = {"model": self.artifact_bytes - tokenizer, "tokenizer": tokenizer, "code": self.code_bytes}
        return {name: size for name, size in parts.items() if size}

    @property
    def within_budget(self) -> bool:
        """True if artifact and code together fit the budget."""
        return self.total_bytes <= self.budget_bytes

    @property
    def step_ms(self) -> float:
        """Mean training time of a step in milliseconds."""
        return 1000 * self.train_seconds / max(self.steps, 1)


@dataclass(frozen=True)
class Position(Record):
    """Bits per byte of the targets at positions ``first`` to ``last`` of a sequence, counted from 0."""

    first: int
    last: int
    bpb: float = math.nan


@dataclass(frozen=True)
class ScoredDocument(Record):
    """A document; ``tokens`` are pairs of text and nats, None for NaN, from its token ``shown_from`` on."""

    start_token: int
    num_tokens: int
    num_bytes: int
    shown_from: int
    tokens: list[list[Any]]
    bpb: float = math.nan

    def __post_init__(self) -> None:
        super().__post_init__()
        for pair in self.tokens:
            if [type(item) for item in pair] not in ([str, float], [str, int], [str, NoneType]):
                raise UserError("tokens must be pairs of a text and its nats")


@dataclass(frozen=True)
class Analysis(Record):
    """Contents of ``analysis.json``: scores by position in a sequence, and the hardest documents first."""

    format: int
    seq_len: int
    positions: list[Position]
    documents: list[ScoredDocument]

    def __post_init__(self) -> None:
        if self.format != _ANALYSIS_FORMAT:
            raise UserError(f"format must be {_ANALYSIS_FORMAT}, got {self.format}")


def read_record(cls: type[R], path: Path) -> R:
    """Reads ``result.json`` as a Result, or ``analysis.json`` as an Analysis.

    Raises:
        UserError: the file cannot be read or is not such a record; the message starts with the path.
    """
    data = read_regular(path, max_bytes=_MAX_JSON_BYTES)
    try:
        return record_from(cls, json.loads(data))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: must be JSON: {error}") from error


def record_from(cls: type[R], values: Any) -> R:
    """Builds a record from JSON.

    Skips keys that the record has no field for. Null, false, NaN and infinity count as missing: a run writes
    them for what it does not know, such as the seed of an unseeded run or the score of a diverged one.

    Raises:
        UserError: a value is missing, has the wrong type or is out of range.
    """
    return config_from_dict(cls, _known(cls, values), where=cls.__name__.lower())


def _known(hint: Any, value: Any) -> Any:
    """Returns the part of ``value`` that the type ``hint`` has fields for, without what counts as missing."""
    if value is False or (isinstance(value, (int, float)) and not abs(value) <= LARGEST):
        return None
    if get_origin(hint) is UnionType:
        hint = get_args(hint)[0]
    if isinstance(value, dict) and (is_dataclass(hint) or get_origin(hint) is dict):
        hints = get_type_hints(hint) if is_dataclass(hint) else dict.fromkeys(value, get_args(hint)[1])
        known = {name: _known(hints[name], item) for name, item in value.items() if name in hints}
        return {name: item for name, item in known.items() if item is not None}
    if get_origin(hint) is list and isinstance(value, list):
        return [_known(get_args(hint)[0], item) for item in value]
    return value
