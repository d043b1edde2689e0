"""Downloading the challenge's published datasets, and others that its exporter has made."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from plgolf.console import Console
from plgolf.corpus.fetching import bring_split, bring_tokenizer, set_the_stage, share
from plgolf.corpus.hub import Snapshot, open_snapshot
from plgolf.corpus.published import Published, read_published, stays_below
from plgolf.data.manifest import Manifest, TokenizerEntry, check_no_strangers, read_manifest
from plgolf.errors import UserError
from plgolf.files import staged_folder

REPO = "willdepueoai/parameter-golf"
"""Where the challenge publishes."""
TRAIN_SHARDS = 80
"""What the challenge's own downloader brings if it is not told otherwise: 8 billion tokens."""
_PREFIX = "fineweb"


def download(
    variant: str,
    *,
    root: Path,
    train_shards: int | None = TRAIN_SHARDS,
    repo: str = REPO,
    remote_root: str = "datasets",
    revision: str = "main",
    console: Console,
) -> Path:
    """Brings a published dataset: its validation split, the first of its training shards and its tokenizer.

    Nothing is put in place before all of it is here and checked: interrupted at any moment, it leaves the old
    dataset or the new one. Files that are whole are kept in a hidden folder beside it, and running again goes
    on from there. A dataset that is here already is compared with the hub's and extended, never made smaller.

    Args:
        variant: the dataset's name, or what follows an underscore at its end, as ``sp1024``.
        root: where to: ``datasets/<name>`` and ``tokenizers`` below it.
        train_shards: how many training shards; null brings all. More than are published is an error, but for
            the default, which then brings all of them, too.
        repo: owner and name of a dataset repository on the hub.
        remote_root: folder of its ``manifest.json``; empty if that is at the top.
        revision: branch, tag or commit.
        console: takes progress.

    Returns:
        The dataset's folder.

    Raises:
        UserError: something is missing, cannot be fetched or written, is not whole, or is in the way.
    """
    base = remote_root.strip("/")
    if base and not stays_below(base):
        raise UserError(f"remote_root must be a folder inside the repository, got {remote_root!r}")
    prefix = f"{base}/" if base else ""
    try:
        with _alone(root, console), open_snapshot(repo, revision) as hub:
            path = f"{prefix}manifest.json"
            published = read_published(hub.read(path), variant, where=f"{repo}: {path}")
            return _download(hub, published, prefix, root, train_shards, console)
    except OSError as error:
        raise UserError(f"{error.filename or root}: cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def _alone(root: Path, console: Console) -> Iterator[None]:
    """Waits until no other download goes to the same place. The lock ends with its process."""
    root.mkdir(parents=True, exist_ok=True)
    folder = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.say(f"waiting for another one to {root}")
            fcntl.flock(folder, fcntl.LOCK_EX)
        except OSError:  # Some network file systems have no locks.
            pass
        yield
    finally:
        os.close(folder)


def _download(
    hub: Snapshot, published: Published, prefix: str, root: Path, train_shards: int | None, console: Console
) -> Path:
    folder = root / "datasets" / published.name
    stage = folder.with_name(f".{folder.name}.download")
    source = {"repo": hub.repo, "revision": hub.commit, "path": f"{prefix}datasets/{published.name}"}
    here = _shards_here(folder, source)
    train, val = _how_many(train_shards, published, here, console), published.splits["val"].files
    # The smaller split first: what is wrong with the manifest shows early.
    shards = {
        split: [f"{source['path']}/{name}" for name in _shard_names(split, number)]
        for split, number in (("val", val), ("train", train))
    }
    tokenizer_paths = [prefix + path for path in published.tokenizer_files]
    files = hub.describe([*tokenizer_paths, *shards["val"], *shards["train"]])
    set_the_stage(stage, files.values(), [folder / name for name in here])
    tokenizer = bring_tokenizer(
        hub, [files[path] for path in tokenizer_paths], stage, root / "tokenizers", published.vocab_size
    )
    splits = {
        split: bring_split(hub, [files[path] for path in paths], stage, published.splits[split], console)
        for split, paths in shards.items()
    }
    manifest = Manifest(
        name=_PREFIX,
        tokenizer=TokenizerEntry.of(tokenizer, f"../../tokenizers/{Path(tokenizer_paths[0]).name}"),
        splits=splits,
        sources=[source],
        options={"train_shards": train, "published_train_shards": published.splits["train"].files},
    )
    with staged_folder(folder, replace=True) as partial:
        for path in (*shards["train"], *shards["val"]):
            share(stage / path, partial / Path(path).name)
        manifest.save(partial)
    shutil.rmtree(stage, ignore_errors=True)
    tokens = {split: splits[split].tokens for split in splits}
    console.say(f"{folder} has {tokens['train']:,} train and {tokens['val']:,} val tokens, all checked")
    return folder


def _shard_names(split: str, number: int) -> list[str]:
    return [f"{_PREFIX}_{split}_{index:06d}.bin" for index in range(number)]


def _shards_here(folder: Path, source: dict[str, str]) -> set[str]:
    """Names the shards of a dataset that was downloaded before, and refuses to replace any other one."""
    manifest = read_manifest(folder)
    if manifest is None:
        if folder.exists():
            raise UserError(f"{folder}: exists and was not downloaded by plgolf: move it away")
        return set()
    check_no_strangers(folder, manifest)
    origins = [(origin.get("repo"), origin.get("path")) for origin in manifest.sources]
    if origins != [(source["repo"], source["path"])]:
        raise UserError(f"{folder}: exists and is not {source['path']} of {source['repo']}: move it away")
    return {entry.file for split in manifest.splits.values() for entry in split.shards}


def _how_many(wanted: int | None, published: Published, here: Collection[str], console: Console) -> int:
    there = published.splits["train"].files
    if wanted is None or there < wanted == TRAIN_SHARDS:
        wanted = there
    if not 0 <= wanted <= there:
        raise UserError(f"train_shards must be from 0 to the {there} of {published.name}, got {wanted}")
    kept = sum(name in here for name in _shard_names("train", there))
    if kept > wanted:
        console.say(f"keeping all {kept} train shards that are here")
    return max(wanted, kept)
