"""Fetches the files of a published dataset into a folder, and checks each."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from plgolf.console import Console
from plgolf.corpus.hub import Repository
from plgolf.corpus.published import Counts
from plgolf.data.manifest import FileEntry, Split, hash_file
from plgolf.data.shards import open_shard
from plgolf.data.tokenizer import Tokenizer, load_tokenizer
from plgolf.errors import UserError
from plgolf.files import write_atomically


def side_cars_of(hub: Repository, shards: Sequence[str]) -> list[str]:
    """Returns the byte side-cars of validation shards, if the repository has any."""
    paths = [str(Path(path).with_name(Path(path).name.replace("_val_", "_val_bytes_"))) for path in shards]
    if not any(path in hub.files for path in paths):
        return []
    hub.check(paths)
    return paths


def local_name(path: str) -> str:
    """Returns the name of a file here: other programs would read side-cars as tokens by their name there."""
    name = Path(path).name
    return name.replace("_val_bytes_", "_val_").replace(".bin", ".bytes") if "_val_bytes_" in name else name


def fetch_tokenizer(
    hub: Repository, paths: Sequence[str], stage: Path, folder: Path, vocab_size: int
) -> Tokenizer:
    """Fetches a tokenizer and the files that come with it, and puts them into a folder."""
    contents: dict[Path, bytes] = {}
    for local in hub.fetch(paths, stage):
        with _checked(hub, local, stage):
            contents[folder / local.name] = local.read_bytes()
            if len(contents) == 1:
                tokenizer = load_tokenizer(local)
    if tokenizer.vocab_size != vocab_size:
        rule = f"vocab_size must be the {tokenizer.vocab_size} of {paths[0]}"
        raise UserError(f"{hub.name}: {rule}, got {vocab_size}")
    for path, content in contents.items():
        if path.exists() and path.read_bytes() != content:
            flaw = f"differs from {hub.name}'s file of that name"
            raise UserError(f"{path}: {flaw}: move it away, or set --root")
    for path, content in contents.items():
        if not path.exists():
            write_atomically(path, content)
    return tokenizer


def fetch_split(
    hub: Repository, split: str, paths: Sequence[str], stage: Path, published: Counts, console: Console
) -> Split:
    """Fetches and checks the first shards of a split."""
    entries = fetch_shards(hub, split, paths, stage, console)
    tokens, is_all = sum(entry.tokens for entry in entries), len(paths) == published.files
    if is_all and tokens != published.tokens:
        rule = f"{split} must have the manifest's {published.tokens} tokens"
        raise UserError(f"{hub.name}: {rule}, got {tokens}")
    return Split(published.documents if is_all else None, tokens, None, None, entries)


def fetch_shards(
    hub: Repository, what: str, paths: Sequence[str], stage: Path, console: Console
) -> list[FileEntry]:
    """Fetches and checks shards, or files of the same format."""
    if not paths:
        return []
    missing = [hub.files[path].size for path in paths if not (stage / path).exists()]
    amount = f"{len(missing)} of {len(paths)} shards, {sum(missing) / 1e6:,.1f} MB"
    console.say(f"{what}: fetching {amount} (Ctrl-C twice stops at once)")
    entries: list[FileEntry] = []
    for path, local in zip(paths, hub.fetch(paths, stage), strict=True):
        console.live(f"{what}: checking shard {len(entries) + 1} of {len(paths)}")
        with _checked(hub, local, stage) as sha256:
            size, tokens = local.stat().st_size, open_shard(local).num_tokens
            entries.append(FileEntry(local_name(path), size, sha256, tokens))
    return entries


@contextlib.contextmanager
def _checked(hub: Repository, local: Path, stage: Path) -> Iterator[str]:
    """Yields the hash of a fetched file; removes a damaged file, so that the next run fetches it."""
    path = local.relative_to(stage).as_posix()
    file = hub.files[path]
    try:
        sha256 = hash_file(local)
        if local.stat().st_size != file.size or sha256 != (file.lfs.sha256 if file.lfs else sha256):
            raise UserError("size and SHA-256 differ from the hub's")
        yield sha256
    except UserError as error:
        local.unlink(missing_ok=True)
        flaw = f"{path} is damaged: {str(error).removeprefix(f'{local}: ')}"
        raise UserError(f"{hub.name}: {flaw}; run it again to fetch this file") from error
