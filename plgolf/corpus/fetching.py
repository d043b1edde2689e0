"""Bringing published files into a hidden folder, the stage, and looking at each before anyone uses it."""

import contextlib
import os
import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from plgolf.console import Console
from plgolf.corpus.hub import RemoteFile, Snapshot, forget
from plgolf.corpus.published import Counts
from plgolf.data.manifest import FileEntry, Split, hash_file
from plgolf.data.shards import open_shard
from plgolf.data.tokenizer import Tokenizer, load_tokenizer
from plgolf.errors import UserError
from plgolf.files import write_whole


def set_the_stage(stage: Path, files: Collection[RemoteFile], old: Collection[Path]) -> None:
    """Puts files that are here already where the hub's library looks for them, which then compares hashes.

    Args:
        stage: the folder, made if need be; what an earlier process has brought into it stays.
        files: what is going to be fetched.
        old: shards that may be some of them, by name.

    Raises:
        UserError: there is no room for the rest.
    """
    stage.mkdir(parents=True, exist_ok=True)
    # What a killed process was writing: the name is its own, and no other goes on with it.
    for orphan in stage.rglob("*.????????.incomplete"):
        orphan.unlink()
    by_name = {path.name: path for path in old if path.is_file()}
    missing = 0
    for file in files:
        staged = stage / file.path
        same = by_name.get(staged.name)
        if same and not staged.exists():
            staged.parent.mkdir(parents=True, exist_ok=True)
            share(same, staged)
        missing += 0 if staged.exists() else file.bytes
    free = shutil.disk_usage(stage).free
    if missing > free:
        raise UserError(f"{stage}: needs {missing / 1e6:.1f} MB, and {free / 1e6:.1f} MB are free")


def share(source: Path, target: Path) -> None:
    """Gives a file a second name, or copies it where the file system knows no such thing; safely on disk."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())


def bring_tokenizer(
    hub: Snapshot, files: list[RemoteFile], stage: Path, folder: Path, vocab_size: int
) -> Tokenizer:
    """Fetches and loads a tokenizer, and puts its files in place.

    Args:
        hub: where they come from.
        files: the tokenizer, then what comes with it and is not looked at.
        stage: where they are kept meanwhile.
        folder: where they go to.
        vocab_size: what the tokenizer must have.

    Returns:
        The tokenizer.

    Raises:
        UserError: it is not whole or not the right one, or another one's file is in its place.
    """
    contents: dict[Path, bytes] = {}
    for file in files:
        with _fetched(hub, file, stage) as (path, _):
            contents[folder / path.name] = path.read_bytes()
            if file is files[0]:
                tokenizer = load_tokenizer(path)
    if tokenizer.vocab_size != vocab_size:
        raise UserError(
            f"{hub.repo}: the manifest's vocab_size must be the {tokenizer.vocab_size} "
            f"of {files[0].path}, got {vocab_size}"
        )
    for path, content in contents.items():
        if path.exists() and path.read_bytes() != content:
            raise UserError(f"{path}: is not {hub.repo}'s file of that name, and other datasets may need it")
    for path, content in contents.items():
        if not path.exists():
            write_whole(path, content)
    return tokenizer


def bring_split(
    hub: Snapshot, files: list[RemoteFile], stage: Path, published: Counts, console: Console
) -> Split:
    """Fetches the first shards of a split.

    Args:
        hub: where they come from.
        files: the shards in order.
        stage: where they are kept.
        published: what all of the split's shards hold.
        console: takes progress.

    Returns:
        What they hold.

    Raises:
        UserError: one cannot be fetched or is not whole, or they do not hold what was published.
    """
    entries: list[FileEntry] = []
    fetched, seconds = 0, 0.0
    left = sum(file.bytes for file in files if not (stage / file.path).exists())
    for number, file in enumerate(files, start=1):
        is_here = (stage / file.path).exists()
        line = f"{number}/{len(files)} {Path(file.path).name}, {file.bytes / 1e6:.1f} MB"
        if is_here:
            line += ", is here"
        elif fetched:
            line += f"; {fetched / seconds / 1e6:.1f} MB/s, {left / fetched * seconds / 60:.1f} min left"
        (console.live if is_here else console.say)(line)
        start = time.monotonic()
        with _fetched(hub, file, stage) as (path, sha256):
            entries.append(FileEntry(path.name, file.bytes, sha256, open_shard(path).num_tokens))
        if not is_here:
            fetched, left = fetched + file.bytes, left - file.bytes
            seconds += time.monotonic() - start
    tokens, is_all = sum(entry.tokens for entry in entries), len(files) == published.files
    if is_all and tokens != published.tokens:
        name = Path(files[0].path).parent if files else "a split without shards"
        raise UserError(
            f"{hub.repo}: {name} must hold {published.tokens} tokens by the manifest, got {tokens}"
        )
    return Split(published.documents if is_all else None, tokens, None, None, entries)


@contextlib.contextmanager
def _fetched(hub: Snapshot, file: RemoteFile, stage: Path) -> Iterator[tuple[Path, str]]:
    """Gives a file and its hash. What turns out not to be whole goes, so that the next run fetches it."""
    path = hub.fetch(file.path, stage)
    try:
        sha256 = hash_file(path)
        if path.stat().st_size != file.bytes or sha256 != (file.sha256 or sha256):
            raise UserError("its size and SHA-256 are not what the hub says they are")
        yield path, sha256
    except UserError as error:
        forget(file.path, stage)
        reason = str(error).removeprefix(f"{path}: ")
        raise UserError(
            f"{hub.repo}: {file.path} is not whole: {reason}; running again fetches it anew"
        ) from error
