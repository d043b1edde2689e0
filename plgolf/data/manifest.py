"""``manifest.json``: the files of a dataset and their sources."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from plgolf.config import config_from_dict, config_to_dict
from plgolf.data.shards import MAX_VOCAB_SIZE
from plgolf.data.tokenizer import ByteTokenizer, SentencePieceTokenizer, Tokenizer, load_tokenizer
from plgolf.errors import UserError
from plgolf.files import open_regular, read_regular, write_atomically
from plgolf.version import __version__

MANIFEST = "manifest.json"
FORMAT = 1
MAX_BYTES = 2**26
"""Largest size of a manifest in bytes, enough for 300,000 files."""


@dataclass(frozen=True)
class FileEntry:
    """A file of the dataset.

    Args:
        file: path relative to the manifest.
        bytes: size of the file.
        sha256: hash of the file.
        tokens: number of tokens or byte counts in it.
    """

    file: str
    bytes: int
    sha256: str
    tokens: int

    @classmethod
    def of(cls, path: Path, tokens: int) -> "FileEntry":
        """Measures and hashes a file in the folder of the dataset."""
        return cls(path.name, path.stat().st_size, hash_file(path), tokens)


@dataclass(frozen=True)
class Split:
    """The training or the validation part. A number that is unknown is None.

    Args:
        documents: number of documents.
        tokens: number of tokens, with the begin-of-sequence of each document.
        raw_bytes: UTF-8 bytes of the original documents.
        scored_bytes: bytes of their tokens by the rule of the challenge.
        shards: token shards in order.
        side_cars: byte side-cars in the same order, or an empty list.
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
    """The tokenizer of the dataset.

    Args:
        file: path relative to the manifest.
        sha256: hash of the file.
        kind: ``sentencepiece`` or ``byte``.
        vocab_size: number of ids.
        lossless: True if decoding returns every text exactly.
    """

    file: str
    sha256: str
    kind: str
    vocab_size: int
    lossless: bool

    @classmethod
    def of(cls, tokenizer: Tokenizer, file: str) -> "TokenizerEntry":
        """Describes a tokenizer and the name of its file."""
        return cls(file, tokenizer.sha256, tokenizer.kind, tokenizer.vocab_size, tokenizer.lossless)


@dataclass(frozen=True)
class Manifest:
    """Description of a dataset.

    Args:
        name: beginning of the file names of its shards.
        tokenizer: its tokenizer.
        splits: ``train`` and ``val``.
        sources: input files in order, each with path, bytes, sha256 and documents.
        options: options that it was made with.
        left_out: number of refused documents by reason.
        byte_note: difference between scored and raw bytes; empty if there is no known difference.
        plgolf: version that made it.
        format: version of the format of this file.
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
        write_atomically(root / MANIFEST, (content + "\n").encode(errors="replace"))


def read_manifest(root: Path) -> Manifest | None:
    """Reads the manifest in a folder.

    Args:
        root: folder of the dataset.

    Returns:
        The manifest; None if the folder has no manifest.

    Raises:
        UserError: the file cannot be read, or is not a manifest of plgolf.
    """
    path = root / MANIFEST
    if not path.exists():
        return None
    data = read_regular(path, max_bytes=MAX_BYTES)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not valid JSON") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path}: is not a dataset manifest of plgolf: format must be {FORMAT}")
    manifest = config_from_dict(Manifest, content, where=str(path))
    if set(manifest.splits) != {"train", "val"}:
        raise UserError(
            f"{path}: splits must be train and val, got {', '.join(manifest.splits) or 'none'}"[:500]
        )
    _check_entries(manifest, path)
    return manifest


def _check_entries(manifest: Manifest, path: Path) -> None:
    """Checks that files are in the folder (only a tokenizer may be shared) and counts are not negative."""
    for entry in manifest.files:
        if Path(entry.file).name != entry.file or entry.file in ("", "..") or "\0" in entry.file:
            raise UserError(f"{path}: file must be a name in its folder, got {entry.file!r:.100}")
        if min(entry.bytes, entry.tokens) < 0:
            raise UserError(f"{path}: bytes and tokens of {entry.file!r:.100} must be at least 0")
    parts = Path(manifest.tokenizer.file).parts
    below = parts[2:] if parts[:2] == ("..", "..") else parts
    if not below or {"..", "/"} & set(below) or "\0" in manifest.tokenizer.file:
        raise UserError(
            f"{path}: tokenizer.file must be in its folder or in one beside the folder of all datasets, "
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


def check_only_own_files(root: Path, manifest: Manifest) -> None:
    """Raises a UserError if a folder that would be replaced has files that the dataset does not list."""
    own = {MANIFEST, manifest.tokenizer.file, *(entry.file for entry in manifest.files)}
    others = sorted(path.name for path in root.iterdir() if path.name not in own)
    if others:
        raise UserError(
            f"{root / others[0]}: does not belong to the dataset that would be replaced: move it away"
        )


def hash_file(path: Path, stop: Event | None = None) -> str:
    """Returns the SHA-256 of a file of any size; stops early, with a wrong hash, if ``stop`` is set."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while (chunk := file.read(1 << 20)) and not (stop and stop.is_set()):
            digest.update(chunk)
    return digest.hexdigest()


def find_tokenizer(root: Path, manifest: Manifest | None, path: Path | None = None) -> Tokenizer:
    """Loads the tokenizer of a dataset.

    Args:
        root: folder of the dataset.
        manifest: its manifest, if it has one.
        path: file of the tokenizer; by default the one in the manifest, or else in ``root``.

    Returns:
        The tokenizer.

    Raises:
        UserError: the file is missing, or is not the tokenizer in the manifest.
    """
    if path is None and manifest is not None:
        path = root / manifest.tokenizer.file
    elif path is None:
        names = (SentencePieceTokenizer.file_name, ByteTokenizer.file_name)
        path = next((root / name for name in names if (root / name).is_file()), None)
        if path is None:
            raise UserError(f"{root}: must hold {' or '.join(names)}, or another tokenizer must be named")
    tokenizer = load_tokenizer(path)
    if manifest is not None and tokenizer.sha256 != manifest.tokenizer.sha256:
        raise UserError(
            f"{path}: is another tokenizer than the one of {root / MANIFEST}: their sha256 differ"
        )
    return tokenizer
