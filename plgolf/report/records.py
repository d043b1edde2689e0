"""``result.json`` and ``analysis.json`` as dataclasses, those of older runs too."""

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from plgolf.config import config_from_dict
from plgolf.errors import UserError
from plgolf.regular_files import read_regular

T = TypeVar("T")
_MAX_JSON_BYTES = 2**25
_ANALYSIS_FORMAT = 1


@dataclass(frozen=True)
class Histogram:
    """How often values fell between edges.

    Args:
        edges: ascending, one more than counts.
        counts: values from an edge to the next.
    """

    edges: list[float]
    counts: list[int]

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.counts) + 1 or not self.counts:
            raise UserError(
                f"step_ms_histogram.edges must be one more than its counts, got {len(self.edges)}"
            )
        if any(a >= b for a, b in itertools.pairwise(self.edges)):
            raise UserError("step_ms_histogram.edges must rise")
        if min(self.counts) < 0:
            raise UserError(f"step_ms_histogram.counts must not be negative, got {min(self.counts)}")


@dataclass(frozen=True)
class TensorRecord:
    """A tensor of the artifact.

    Args:
        name: of the parameter.
        role: what it is for.
        shape: its sizes.
        num_params: their product.
        kept: how the artifact holds it.
        payload_bytes: codes and scales, or the values, before compression.
        compressed_bytes: the same, compressed alone.
        relative_error: rms(w - w_file) / rms(w).
        clipped_fraction: of the weights.
    """

    name: str
    role: Literal["matrix", "embedding", "head", "scalar"]
    shape: list[int]
    num_params: int
    kept: str
    payload_bytes: int
    compressed_bytes: int
    relative_error: float = 0.0
    clipped_fraction: float = 0.0

    def __post_init__(self) -> None:
        smallest = min(self.payload_bytes, self.compressed_bytes, self.num_params)
        if smallest < 0 or self.relative_error < 0:
            raise UserError(f"tensors: the bytes and the error of {self.name:.100} must not be negative")


@dataclass(frozen=True)
class Result:
    """What ``result.json`` says, as far as a report shows it. What older runs do not say is None or empty."""

    steps: int
    train_seconds: float
    val_loss: float
    val_bpb: float
    roundtrip_val_loss: float
    roundtrip_val_bpb: float
    artifact_bytes: int
    code_bytes: int
    total_bytes: int
    budget_bytes: int
    within_budget: bool
    run_name: str | None = None
    recipe: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    seed: int | None = None
    num_params: int | None = None
    step_ms: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    world_size: int = 1
    global_batch_tokens: int | None = None
    roundtrip_val_bpb_raw: float | None = None
    val_tokens: int | None = None
    val_bytes: int | None = None
    val_raw_bytes: int | None = None
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
        sizes = {
            name: getattr(self, name) for name in ("artifact_bytes", "code_bytes", "tokenizer_bytes", "steps")
        }
        for name, value in sizes.items():
            if value < 0:
                raise UserError(f"{name} must not be negative, got {value}")
        if self.budget_bytes <= 0:
            raise UserError(f"budget_bytes must be positive, got {self.budget_bytes}")
        if self.total_bytes != self.artifact_bytes + self.code_bytes:
            raise UserError(f"total_bytes must be artifact and code together, got {self.total_bytes}")


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
        index: of the document in the split.
        start_token: where it begins in the split.
        num_tokens: its length.
        num_bytes: bytes it counts for.
        bpb: of the whole document.
        tokens: text and nats of its first tokens.
    """

    index: int
    start_token: int
    num_tokens: int
    num_bytes: int
    bpb: float
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


def result_of(values: Mapping[str, Any]) -> Result:
    """Reads a result.

    Args:
        values: as in ``result.json``; what a report does not show is passed over.

    Raises:
        UserError: something is missing, of a wrong type or out of range.
    """
    values = _known(Result, values, "result")
    if isinstance(values.get("tensors"), list):
        values["tensors"] = [_known(TensorRecord, tensor, "tensors") for tensor in values["tensors"]]
    if isinstance(values.get("step_ms_histogram"), Mapping):
        values["step_ms_histogram"] = _known(Histogram, values["step_ms_histogram"], "step_ms_histogram")
    return config_from_dict(Result, values, where="result")


def _known(cls: type[Any], values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise UserError(f"{where} must be a mapping, got {type(values).__name__}")
    names = {entry.name for entry in fields(cls)}
    return {key: value for key, value in values.items() if key in names}


def read_result(path: Path) -> Result:
    """Reads ``result.json``.

    Raises:
        UserError: it cannot be read or is none; the message starts with the path.
    """
    try:
        return result_of(_read_json(path))
    except UserError as error:
        raise _located(path, error) from error


def read_analysis(path: Path) -> Analysis:
    """Reads ``analysis.json``.

    Raises:
        UserError: it cannot be read or is none; the message starts with the path.
    """
    try:
        values = _read_json(path)
        if not isinstance(values, Mapping) or values.get("format") != _ANALYSIS_FORMAT:
            raise UserError(f"format must be {_ANALYSIS_FORMAT}")
        known = _known(Analysis, values, "analysis")
        documents = known.pop("documents", [])
        if not isinstance(documents, list):
            raise UserError("documents must be a list")
        scored = [_document(document, f"documents.{i}") for i, document in enumerate(documents)]
        known["positions"] = [_known(Position, p, "positions") for p in _list(known, "positions")]
        analysis = config_from_dict(Analysis, {**known, "documents": []}, where="analysis")
        return Analysis(analysis.seq_len, analysis.positions, scored)
    except UserError as error:
        raise _located(path, error) from error


def _list(values: Mapping[str, Any], name: str) -> list[Any]:
    found = values.get(name)
    if not isinstance(found, list):
        raise UserError(f"{name} must be a list, got {type(found).__name__}")
    return found


def _document(values: Any, where: str) -> ScoredDocument:
    known = _known(ScoredDocument, values, where)
    tokens = []
    for pair in _list(known, "tokens"):
        text, nats = pair if isinstance(pair, list) and len(pair) == 2 else (None, None)
        if not isinstance(text, str) or isinstance(nats, bool) or not isinstance(nats, (int, float)):
            raise UserError(f"{where}.tokens must be pairs of a text and its nats")
        tokens.append((text, float(nats)))
    head = config_from_dict(ScoredDocument, {**known, "tokens": []}, where=where)
    return ScoredDocument(head.index, head.start_token, head.num_tokens, head.num_bytes, head.bpb, tokens)


def _read_json(path: Path) -> Any:
    data = read_regular(path, max_bytes=_MAX_JSON_BYTES)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is no JSON: {error}") from error


def _located(path: Path, error: UserError) -> UserError:
    message = str(error)
    return error if message.startswith(str(path)) else UserError(f"{path}: {message}")
