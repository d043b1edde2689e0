"""``manifest.json``: the files of a dataset and their sources."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plgolf.config import config_from_dict, config_to_dict, newer
from plgolf.data.shards import MAX_VOCAB_SIZE, ShardReader, find_shards
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
    """A file in the folder of the dataset: name, size, hash, and number of tokens or byte counts."""

    file: str
    bytes: int
    sha256: str
    tokens: int


@dataclass(frozen=True)
class Split:
    """The training or the validation part. A number that is unknown is None.

    Args:
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
    """The tokenizer of the dataset; its file is a path relative to the manifest.

    ``transform`` is the name of the change of text before it, which follows from the file; None without one.
    """

    file: str
    sha256: str
    kind: str
    vocab_size: int
    lossless: bool
    transform: str | None = newer(None)


@dataclass(frozen=True)
class Manifest:
    """Description of a dataset.

    Args:
        name: beginning of the file names of its shards.
        splits: ``train`` and ``val``.
        sources: input files in order, each with path, bytes, sha256 and documents.
        options: options that it was made with.
        left_out: number of refused documents by reason.
        byte_note: difference between scored and raw bytes, if one is known.
        plgolf: version that made it.
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


def file_entry(path: Path, tokens: int) -> FileEntry:
    """Measures and hashes a file in the folder of a dataset."""
    return FileEntry(path.name, path.stat().st_size, hash_file(path), tokens)


def tokenizer_entry(tokenizer: Tokenizer, file: str) -> TokenizerEntry:
    """Describes a tokenizer in a file."""
    size, lossless = tokenizer.vocab_size, tokenizer.lossless
    return TokenizerEntry(file, tokenizer.sha256, tokenizer.kind, size, lossless, tokenizer.transform)


def write_manifest(manifest: Manifest, root: Path) -> None:
    """Writes ``manifest.json`` into a folder."""
    content = json.dumps(config_to_dict(manifest), indent=2, ensure_ascii=False)
    write_atomically(root / MANIFEST, (content + "\n").encode(errors="replace"))


def read_manifest(root: Path) -> Manifest | None:
    """Reads the manifest in a folder; returns None if it has no manifest.

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
        names = ", ".join(manifest.splits) or "none"
        raise UserError(f"{path}: splits must be train and val, got {names:.200}")
    _check_entries(manifest, path)
    return manifest


def _check_entries(manifest: Manifest, path: Path) -> None:
    """Checks that files are in the folder (only a tokenizer may be shared) and counts are not negative."""
    for entry in manifest.files:
        if Path(entry.file).name != entry.file or entry.file in ("", "..") or "\0" in entry.file:
            raise UserError(f"{path}: file must be a name in its folder, got {entry.file!r:.100}")
        if min(entry.bytes, entry.tokens) < 0:
            raise UserError(f"{path}: bytes and tokens of {entry.file!r:.100} must be at least 0")
    file, vocab_size = manifest.tokenizer.file, manifest.tokenizer.vocab_size
    parts = Path(file).parts
    below = parts[2:] if parts[:2] == ("..", "..") else parts
    if not below or {"..", "/"} & set(below) or "\0" in file:
        rule = "must be in its folder or in one beside the folder of all datasets"
        raise UserError(f"{path}: tokenizer.file {rule}, got {file!r:.100}")
    if not 1 <= vocab_size <= MAX_VOCAB_SIZE:
        raise UserError(f"{path}: tokenizer.vocab_size must be from 1 to {MAX_VOCAB_SIZE}, got {vocab_size}")
    for name, split in manifest.splits.items():
        counts = (split.documents, split.tokens, split.raw_bytes, split.scored_bytes)
        if any(count is not None and count < 0 for count in counts):
            raise UserError(f"{path}: splits.{name} must have counts of at least 0")


def open_split(root: Path, split: str, manifest: Manifest | None, *, vocab_size: int) -> ShardReader:
    """Opens the shards of ``train`` or ``val``.

    Raises:
        UserError: a shard is missing or damaged, or the split has another number of tokens than listed.
    """
    reader = ShardReader(find_shards(root, split), vocab_size=vocab_size)
    if manifest is not None and reader.num_tokens != manifest.splits[split].tokens:
        raise UserError(
            f"{root}: the {split} split must have the {manifest.splits[split].tokens} tokens that "
            f"{MANIFEST} says, got {reader.num_tokens}"
        )
    return reader


def check_only_own_files(root: Path, manifest: Manifest) -> None:
    """Raises a UserError if a folder that would be replaced has files that the dataset does not list."""
    own = {MANIFEST, manifest.tokenizer.file, *(entry.file for entry in manifest.files)}
    others = sorted(path.name for path in root.iterdir() if path.name not in own)
    if others:
        flaw = "does not belong to the dataset that would be replaced: move it away"
        raise UserError(f"{root / others[0]}: {flaw}")


def hash_file(path: Path) -> str:
    """Returns the SHA-256 of a file of any size."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def identity_of(root: Path) -> dict[str, str | None]:
    """Returns the folder of a dataset and the hash of its manifest, None without one."""
    path = root / MANIFEST
    return {"root": str(root), "manifest_sha256": hash_file(path) if path.is_file() else None}


def find_tokenizer(root: Path, manifest: Manifest | None, path: Path | None = None) -> Tokenizer:
    """Loads the tokenizer of a dataset: of ``path``, else of the manifest, else of ``root``.

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
    entry = manifest and manifest.tokenizer
    if entry and (tokenizer.sha256, tokenizer.transform) != (entry.sha256, entry.transform):
        other = f"the one of {root / MANIFEST}"
        raise UserError(f"{path}: is another tokenizer than {other}: its sha256 or transform differs")
    return tokenizer
