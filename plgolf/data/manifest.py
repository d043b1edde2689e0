"""``manifest.json``: what a dataset is made of and what it is made from."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from plgolf.config import config_from_dict, config_to_dict
from plgolf.data.shards import MAX_VOCAB_SIZE
from plgolf.data.tokenizer import ByteTokenizer, SentencePieceTokenizer, Tokenizer, load_tokenizer
from plgolf.errors import UserError
from plgolf.files import write_whole
from plgolf.regular_files import open_regular, read_regular
from plgolf.version import __version__

MANIFEST = "manifest.json"
FORMAT = 1
MAX_BYTES = 2**26
"""Bound on the size of a manifest: entries of some 300,000 files."""


@dataclass(frozen=True)
class FileEntry:
    """A file that the dataset consists of.

    Args:
        file: its path relative to the manifest.
        bytes: its size.
        sha256: its hash.
        tokens: tokens or byte counts in it.
    """

    file: str
    bytes: int
    sha256: str
    tokens: int

    @classmethod
    def of(cls, path: Path, tokens: int) -> "FileEntry":
        """Weighs and hashes a file of a dataset's own folder."""
        return cls(path.name, path.stat().st_size, hash_file(path), tokens)


@dataclass(frozen=True)
class Split:
    """The training or the validation part.

    Args:
        documents: documents in it; None where unknown, as are the others.
        tokens: tokens in it, the begin-of-sequence of each document included.
        raw_bytes: UTF-8 bytes of the documents as they were given.
        scored_bytes: bytes that their tokens count for by the challenge's rule.
        shards: token shards in order.
        side_cars: byte side-cars in the same order, or none.
    """

    documents: int | None
    tokens: int
    raw_bytes: int | None
    scored_bytes: int | None
    shards: list[FileEntry] = field(default_factory=list)
    side_cars: list[FileEntry] = field(default_factory=list)

    @property
    def files(self) -> list[FileEntry]:
        """Shards and side-cars."""
        return [*self.shards, *self.side_cars]


@dataclass(frozen=True)
class TokenizerEntry:
    """The dataset's tokenizer.

    Args:
        file: its path relative to the manifest.
        sha256: hash of the file.
        kind: ``sentencepiece`` or ``byte``.
        vocab_size: its ids are below it.
        lossless: decoding gives back every text exactly.
    """

    file: str
    sha256: str
    kind: str
    vocab_size: int
    lossless: bool

    @classmethod
    def of(cls, tokenizer: Tokenizer, file: str) -> "TokenizerEntry":
        """Describes a tokenizer that is kept in a file of this name."""
        return cls(file, tokenizer.sha256, tokenizer.kind, tokenizer.vocab_size, tokenizer.lossless)


@dataclass(frozen=True)
class Manifest:
    """A dataset.

    Args:
        name: what its shards' names begin with.
        tokenizer: its tokenizer.
        splits: ``train`` and ``val``.
        sources: files it was made from, in order: path, bytes, sha256, documents.
        options: how it was made.
        left_out: documents that were not taken, by reason.
        byte_note: how scored and raw bytes differ; empty if they do not, or if that is not known.
        plgolf: version that made it.
        format: version of this file's format.
    """

    name: str
    tokenizer: TokenizerEntry
    splits: dict[str, Split]
    sources: list[dict[str, Any]]
    options: dict[str, Any]
    left_out: dict[str, int] = field(default_factory=dict)
    byte_note: str = ""
    plgolf: str = __version__
    format: int = FORMAT

    @property
    def files(self) -> list[FileEntry]:
        """Shards and side-cars of both splits."""
        return [entry for split in self.splits.values() for entry in split.files]

    def save(self, root: Path) -> None:
        """Writes ``manifest.json`` into a folder."""
        content = json.dumps(config_to_dict(self), indent=2, ensure_ascii=False)
        write_whole(root / MANIFEST, (content + "\n").encode(errors="replace"))


def read_manifest(root: Path) -> Manifest | None:
    """Reads the manifest in a folder.

    Args:
        root: a dataset's folder.

    Returns:
        The manifest; None if there is none.

    Raises:
        UserError: it cannot be read or is not one of plgolf's.
    """
    path = root / MANIFEST
    if not path.exists():
        return None
    data = read_regular(path, max_bytes=MAX_BYTES)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is no JSON") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path}: is no dataset manifest of plgolf (it has no format: {FORMAT})")
    manifest = config_from_dict(Manifest, content, where=str(path))
    if set(manifest.splits) != {"train", "val"}:
        raise UserError(
            f"{path}: splits must be train and val, got {', '.join(manifest.splits) or 'none'}"[:500]
        )
    _check_entries(manifest, path)
    return manifest


def _check_entries(manifest: Manifest, path: Path) -> None:
    """Checks names and numbers: a dataset lies in its own folder, but for a tokenizer that several share."""
    for entry in manifest.files:
        if Path(entry.file).name != entry.file or entry.file in ("", "..") or "\0" in entry.file:
            raise UserError(f"{path}: file must be a name in its folder, got {entry.file!r:.100}")
        if min(entry.bytes, entry.tokens) < 0:
            raise UserError(f"{path}: bytes and tokens of {entry.file!r:.100} must be at least 0")
    parts = Path(manifest.tokenizer.file).parts
    below = parts[2:] if parts[:2] == ("..", "..") else parts
    if not below or {"..", "/"} & set(below) or "\0" in manifest.tokenizer.file:
        raise UserError(
            f"{path}: tokenizer.file must be in its folder, or below the one above that of all datasets, "
            f"got {manifest.tokenizer.file!r:.100}"
        )
    if not 1 <= manifest.tokenizer.vocab_size <= MAX_VOCAB_SIZE:
        raise UserError(
            f"{path}: tokenizer.vocab_size must be from 1 to {MAX_VOCAB_SIZE}, "
            f"got {manifest.tokenizer.vocab_size}"
        )
    for name, split in manifest.splits.items():
        counts = (split.documents, split.tokens, split.raw_bytes, split.scored_bytes)
        if any(count is not None and count < 0 for count in counts):
            raise UserError(f"{path}: splits.{name} must have counts of at least 0")


def check_no_strangers(root: Path, manifest: Manifest) -> None:
    """Raises a UserError if a dataset that is to be replaced holds a file that is not its own."""
    own = {MANIFEST, manifest.tokenizer.file, *(entry.file for entry in manifest.files)}
    strangers = sorted(path.name for path in root.iterdir() if path.name not in own)
    if strangers:
        raise UserError(
            f"{root / strangers[0]}: is no part of the dataset that would be replaced: move it away"
        )


def hash_file(path: Path, stop: Event | None = None) -> str:
    """Returns the SHA-256 of a file, which may be larger than memory; of a part, once ``stop`` is set."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while (chunk := file.read(1 << 20)) and not (stop and stop.is_set()):
            digest.update(chunk)
    return digest.hexdigest()


def byte_note(splits: Mapping[str, Split]) -> str:
    """Says in a sentence whether the bytes that are scored are the documents' own.

    >>> byte_note({"val": Split(1, 9, raw_bytes=200, scored_bytes=190)})
    'val: 190 scored bytes for 200 raw ones (-5.00 %): val/bpb is per scored byte, val/bpb_raw per raw byte'
    """
    for name, split in sorted(splits.items(), reverse=True):  # Validation first: it is what is scored.
        raw, scored = split.raw_bytes, split.scored_bytes
        if raw and scored is not None and scored != raw:
            return (
                f"{name}: {scored} scored bytes for {raw} raw ones ({100 * (scored / raw - 1):+.2f} %): "
                "val/bpb is per scored byte, val/bpb_raw per raw byte"
            )
    return ""


def find_tokenizer(root: Path, manifest: Manifest | None, path: Path | None = None) -> Tokenizer:
    """Loads a dataset's tokenizer.

    Args:
        root: the dataset's folder.
        manifest: what it holds, if it has one.
        path: the tokenizer's file; by default the one that the manifest names, or that lies in ``root``.

    Returns:
        The tokenizer.

    Raises:
        UserError: there is none, or it is another one than the manifest names.
    """
    if path is None and manifest is not None:
        path = root / manifest.tokenizer.file
    elif path is None:
        names = (SentencePieceTokenizer.file_name, ByteTokenizer.file_name)
        path = next((root / name for name in names if (root / name).is_file()), None)
        if path is None:
            raise UserError(f"{root}: holds no {' or '.join(names)}, and no other tokenizer is named")
    tokenizer = load_tokenizer(path)
    if manifest is not None and tokenizer.sha256 != manifest.tokenizer.sha256:
        raise UserError(f"{path}: is another tokenizer than the one of {root / MANIFEST} (by its sha256)")
    return tokenizer
