"""``result.json`` as a dataclass, that of an older run too."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from plgolf.config import config_from_dict
from plgolf.errors import UserError
from plgolf.report.json_files import known_fields, located, read_json

_NOT_NEGATIVE = (
    *("artifact_bytes", "code_bytes", "tokenizer_bytes", "steps", "train_seconds"),
    *("val_loss", "val_bpb", "roundtrip_val_loss", "roundtrip_val_bpb"),
)


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
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise UserError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.budget_bytes <= 0:
            raise UserError(f"budget_bytes must be positive, got {self.budget_bytes}")
        if self.total_bytes != self.artifact_bytes + self.code_bytes:
            raise UserError(f"total_bytes must be artifact and code together, got {self.total_bytes}")


def result_of(values: Mapping[str, Any]) -> Result:
    """Reads a result.

    Args:
        values: as in ``result.json``; what a report does not show is passed over.

    Raises:
        UserError: something is missing, of a wrong type or out of range.
    """
    values = known_fields(Result, values, "result")
    if isinstance(values.get("tensors"), list):
        values["tensors"] = [known_fields(TensorRecord, tensor, "tensors") for tensor in values["tensors"]]
    if isinstance(values.get("step_ms_histogram"), Mapping):
        values["step_ms_histogram"] = known_fields(
            Histogram, values["step_ms_histogram"], "step_ms_histogram"
        )
    return config_from_dict(Result, values, where="result")


def read_result(path: Path) -> Result:
    """Reads ``result.json``.

    Raises:
        UserError: it cannot be read or is none; the message starts with the path.
    """
    try:
        return result_of(read_json(path))
    except UserError as error:
        raise located(path, error) from error
