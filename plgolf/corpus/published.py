"""The ``manifest.json`` that the challenge's exporter publishes with its datasets: not to be trusted."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from plgolf.data.shards import MAX_VOCAB_SIZE
from plgolf.errors import UserError

MAX_FILES = 100_000
_MAX_COUNT = 2**53
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
"""A part of a path. It starts with no dot, so that it is neither hidden nor ``..``."""


@dataclass(frozen=True)
class Counts:
    """How large a split is.

    Args:
        files: its shards.
        tokens: tokens in all of them.
        documents: documents in all of them.
    """

    files: int
    tokens: int
    documents: int


@dataclass(frozen=True)
class Published:
    """A dataset as its manifest has it.

    Args:
        name: of the dataset; a plain file name.
        vocab_size: ids are below it.
        tokenizer_files: the tokenizer, then what else comes with it; paths that stay below their root.
        splits: ``train`` and ``val``.
    """

    name: str
    vocab_size: int
    tokenizer_files: list[str]
    splits: dict[str, Counts]


def stays_below(path: str, *, depth: int = 8) -> bool:
    """Says whether a path is relative, goes nowhere but down, and holds only letters that no system minds.

    >>> [stays_below(path) for path in ("tokenizers/a.model", "../a", "/a", "a//b", "a/.b", "")]
    [True, False, False, False, False, False]
    """
    parts = path.split("/")
    return len(parts) <= depth and all(_PART.fullmatch(part) for part in parts)


def read_published(content: bytes, variant: str, *, where: str) -> Published:
    """Reads what a published manifest says about one of its datasets.

    Args:
        content: the manifest.
        variant: name of the dataset, or what follows the last underscore in it.
        where: how messages call the manifest.

    Returns:
        The dataset.

    Raises:
        UserError: the manifest has no such dataset, or what it says about it cannot be.
    """
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: is no JSON") from error
    datasets = _named(manifest, "datasets", where)
    name = _chosen(datasets, variant, where)
    dataset, where = datasets[name], f"{where}: {name}"
    stats = dataset.get("stats")
    return Published(
        name=name,
        vocab_size=_count(dataset, "vocab_size", where, low=1, high=MAX_VOCAB_SIZE),
        tokenizer_files=_tokenizer_files(manifest, dataset, where),
        splits={
            split: Counts(
                files=_count(stats, f"files_{split}", where, low=1 if split == "val" else 0, high=MAX_FILES),
                tokens=_count(stats, f"tokens_{split}", where),
                documents=_count(stats, f"docs_{split}", where),
            )
            for split in ("train", "val")
        },
    )


def _chosen(names: Collection[str], variant: str, where: str) -> str:
    fitting = [variant] if variant in names else [name for name in names if name.endswith(f"_{variant}")]
    if len(fitting) != 1:
        has = ", ".join(map(repr, names)) or "none"
        raise UserError(
            f"{where}: {variant!r} must be one of its datasets or how only one ends: it has {has}"
        )
    if not stays_below(fitting[0], depth=1):
        raise UserError(f"{where}: a dataset's name must be a plain file name, got {fitting[0]!r:.100}")
    return fitting[0]


def _named(manifest: Any, key: str, where: str) -> dict[str, dict[str, Any]]:
    entries = manifest.get(key) if isinstance(manifest, Mapping) else None
    if not isinstance(entries, list):
        raise UserError(f"{where}: is no manifest of the challenge (it has no list of {key})")
    named = {}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise UserError(f"{where}: each of its {key} must have a name, got {entry!r:.100}")
        named[entry["name"]] = entry
    return named


def _tokenizer_files(manifest: Any, dataset: Mapping[str, Any], where: str) -> list[str]:
    name = dataset.get("tokenizer_name")
    tokenizer = _named(manifest, "tokenizers", where).get(name) if isinstance(name, str) else None
    if tokenizer is None:
        raise UserError(f"{where}: its tokenizer {name!r:.100} is not in the manifest")
    paths: list[str] = []
    for path in filter(None, map(tokenizer.get, ("model_path", "path", "vocab_path"))):
        if not isinstance(path, str) or not stays_below(path):
            raise UserError(f"{where}: its tokenizer must lie below the manifest, got {path!r:.100}")
        paths.append(path)
    if not paths:
        raise UserError(f"{where}: its tokenizer {name!r:.100} has no file in the manifest")
    return paths


def _count(values: Any, key: str, where: str, *, low: int = 0, high: int = _MAX_COUNT) -> int:
    value = values.get(key) if isinstance(values, Mapping) else None
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UserError(f"{where}: {key} must be a whole number from {low} to {high}, got {value!r:.100}")
    return value
