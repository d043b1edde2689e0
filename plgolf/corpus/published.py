"""The ``manifest.json`` that the challenge's exporter publishes with its datasets. It is not trusted."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from plgolf.data.shards import MAX_VOCAB_SIZE
from plgolf.errors import UserError

_MAX_FILES = 100_000
_MAX_COUNT = 2**53
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
"""A part of a path. It does not start with a dot, so it is neither hidden nor ``..``, and has no wildcard."""


@dataclass(frozen=True)
class Counts:
    """Numbers of shards, tokens and documents of a split."""

    files: int
    tokens: int
    documents: int


@dataclass(frozen=True)
class Published:
    """A dataset as its manifest describes it.

    ``name`` is a plain file name; ``tokenizer_files`` are relative paths, the tokenizer first.
    """

    name: str
    vocab_size: int
    tokenizer_files: list[str]
    splits: dict[str, Counts]


def is_safe_path(path: str, *, depth: int = 8) -> bool:
    """Returns True if a path is relative, stays below its root and has only harmless characters.

    >>> [is_safe_path(path) for path in ("tokenizers/a.model", "../a", "/a", "a//b", "a/.b", "")]
    [True, False, False, False, False, False]
    """
    parts = path.split("/")
    return len(parts) <= depth and all(_PART.fullmatch(part) for part in parts)


def read_published(content: bytes, variant: str, *, where: str) -> Published:
    """Reads one dataset's entry of a manifest; ``variant`` may be the end of its name, such as ``sp1024``.

    Raises:
        UserError: the manifest has no such dataset, or its entry has an invalid value.
    """
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: must be JSON") from error
    datasets = _by_name(manifest, "datasets", where)
    name = _choose(datasets, variant, where)
    dataset, where = datasets[name], f"{where}: {name}"
    stats = dataset.get("stats")
    return Published(
        name=name,
        vocab_size=_count(dataset, "vocab_size", where, low=1, high=MAX_VOCAB_SIZE),
        tokenizer_files=_tokenizer_files(manifest, dataset, where),
        splits={
            split: Counts(
                files=_count(stats, f"files_{split}", where, low=int(split == "val"), high=_MAX_FILES),
                tokens=_count(stats, f"tokens_{split}", where),
                documents=_count(stats, f"docs_{split}", where),
            )
            for split in ("train", "val")
        },
    )


def _choose(names: Collection[str], variant: str, where: str) -> str:
    found = [variant] if variant in names else [name for name in names if name.endswith(f"_{variant}")]
    if len(found) != 1:
        has = ", ".join(map(repr, names)) or "none"
        rule = f"must be one of {has}, or the end of only one name"
        raise UserError(f"{where}: dataset {rule}, got {variant!r}")
    if not is_safe_path(found[0], depth=1):
        raise UserError(f"{where}: a dataset's name must be a plain file name, got {found[0]!r:.100}")
    return found[0]


def _by_name(manifest: Any, key: str, where: str) -> dict[str, dict[str, Any]]:
    entries = manifest.get(key) if isinstance(manifest, dict) else None
    if not isinstance(entries, list):
        raise UserError(f"{where}: must be a manifest of the challenge, with a list of {key}")
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise UserError(f"{where}: each of its {key} must have a name, got {entry!r:.100}")
    return {entry["name"]: entry for entry in entries}


def _tokenizer_files(manifest: Any, dataset: Mapping[str, Any], where: str) -> list[str]:
    name = dataset.get("tokenizer_name")
    tokenizer = _by_name(manifest, "tokenizers", where).get(name) if isinstance(name, str) else None
    if tokenizer is None:
        raise UserError(f"{where}: tokenizer_name must be a tokenizer of the manifest, got {name!r:.100}")
    paths = [tokenizer[key] for key in ("model_path", "path", "vocab_path") if tokenizer.get(key)]
    for path in paths:
        if not isinstance(path, str) or not is_safe_path(path):
            raise UserError(f"{where}: its tokenizer must lie below the manifest, got {path!r:.100}")
    if not paths:
        raise UserError(f"{where}: its tokenizer {name!r:.100} must have a file in the manifest")
    return paths


def _count(values: Any, key: str, where: str, *, low: int = 0, high: int = _MAX_COUNT) -> int:
    value = values.get(key) if isinstance(values, Mapping) else None
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UserError(f"{where}: {key} must be a whole number from {low} to {high}, got {value!r:.100}")
    return value
