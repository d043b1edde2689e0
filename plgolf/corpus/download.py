"""Downloads of the challenge's published datasets, and of others made by its exporter."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from plgolf.console import Console
from plgolf.corpus.hub import Repository, open_repository
from plgolf.corpus.published import Counts, Published, is_safe_path, read_published
from plgolf.data.manifest import (
    FileEntry,
    Manifest,
    Split,
    check_only_own_files,
    hash_file,
    read_manifest,
    tokenizer_entry,
    write_manifest,
)
from plgolf.data.shards import open_shard
from plgolf.data.tokenizer import Tokenizer, load_tokenizer
from plgolf.errors import UserError
from plgolf.files import lock_folder, staged_folder, write_atomically

REPO = "willdepueoai/parameter-golf"
"""Repository of the challenge's datasets."""
TRAIN_SHARDS = 80
"""Training shards that the challenge's own downloader fetches by default: 8 billion tokens."""
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
    """Downloads a published dataset: its validation split, first training shards and tokenizer.

    The dataset appears only when all of it is fetched and checked; an interrupt leaves the old one. Complete
    files are kept in a hidden folder beside it, and the next run continues from there. An existing dataset is
    compared with the hub by hash and extended; it never gets smaller.

    Args:
        variant: the dataset's name, or its last part after an underscore, such as ``sp1024``.
        root: folder that gets ``datasets/<name>`` and ``tokenizers``.
        train_shards: number of training shards; None fetches all. More than exist is an error, except for
            the default, which then fetches all.
        repo: owner and name of a dataset repository on the hub.
        remote_root: folder of ``manifest.json`` in the repository; empty for the top.
        revision: branch, tag or commit.
        console: destination of progress.

    Returns:
        The dataset's folder.

    Raises:
        UserError: a file is missing, damaged, cannot be fetched or written, or another dataset is in the way.
    """
    base = remote_root.strip("/")
    if base and not is_safe_path(base):
        raise UserError(f"remote_root must be a folder inside the repository, got {remote_root!r}")
    prefix = f"{base}/" if base else ""
    try:
        with _exclusive(root), tempfile.TemporaryDirectory() as temporary:
            hub = open_repository(repo, revision)
            path = f"{prefix}manifest.json"
            content = hub.fetch([path], Path(temporary))[0].read_bytes()
            published = read_published(content, variant, where=f"{repo}: {path}")
            return _download(hub, published, prefix, root, train_shards, console)
    except OSError as error:
        raise UserError(f"{error.filename or root}: cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def _exclusive(root: Path) -> Iterator[None]:
    try:
        lock = lock_folder(root)
    except BlockingIOError as error:
        raise UserError(f"{root}: another download writes here: wait for its end and try again") from error
    try:
        yield
    finally:
        if lock >= 0:
            os.close(lock)


def _download(
    hub: Repository, published: Published, prefix: str, root: Path, train_shards: int | None, console: Console
) -> Path:
    folder = root / "datasets" / published.name
    stage = folder.with_name(f".{folder.name}.download")
    source = {"repo": hub.name, "revision": hub.commit, "path": f"{prefix}datasets/{published.name}"}
    existing = _existing_shards(folder, source)
    train = _number_of_train_shards(train_shards, published, existing, console)
    # Validation first: it is smaller, and shows early what is wrong.
    numbers = {"val": published.splits["val"].files, "train": train}
    shards = {
        split: [f"{source['path']}/{name}" for name in _names(split, number)]
        for split, number in numbers.items()
    }
    tokenizer_files = [prefix + path for path in published.tokenizer_files]
    _prepare_staging(hub, stage, [*tokenizer_files, *shards["val"], *shards["train"]], folder, existing)
    tokenizer = _fetch_tokenizer(hub, tokenizer_files, stage, root / "tokenizers", published.vocab_size)
    splits = {
        split: _fetch_split(hub, split, paths, stage, published.splits[split], console)
        for split, paths in shards.items()
    }
    manifest = Manifest(
        name=_PREFIX,
        tokenizer=tokenizer_entry(tokenizer, f"../../tokenizers/{Path(tokenizer_files[0]).name}"),
        splits=splits,
        sources=[source],
        options={"train_shards": train, "published_train_shards": published.splits["train"].files},
    )
    with staged_folder(folder, replace=True) as partial:
        for path in (*shards["train"], *shards["val"]):
            _link_or_copy(stage / path, partial / Path(path).name)
        write_manifest(manifest, partial)
    shutil.rmtree(stage, ignore_errors=True)
    tokens = [splits[split].tokens for split in ("train", "val")]
    console.say(f"{folder}: {tokens[0]:,} train and {tokens[1]:,} val tokens, all checked")
    return folder


def _names(split: str, number: int) -> list[str]:
    return [f"{_PREFIX}_{split}_{index:06d}.bin" for index in range(number)]


def _existing_shards(folder: Path, source: dict[str, str]) -> set[str]:
    """Returns the shard names of an earlier download, and refuses to replace any other dataset."""
    manifest = read_manifest(folder)
    if manifest is None:
        if folder.exists():
            raise UserError(f"{folder}: exists and was not downloaded by plgolf: move it away")
        return set()
    check_only_own_files(folder, manifest)
    if [(o.get("repo"), o.get("path")) for o in manifest.sources] != [(source["repo"], source["path"])]:
        raise UserError(f"{folder}: exists and is not {source['path']} of {source['repo']}: move it away")
    return {entry.file for split in manifest.splits.values() for entry in split.shards}


def _number_of_train_shards(
    wanted: int | None, published: Published, existing: Collection[str], console: Console
) -> int:
    available = published.splits["train"].files
    if wanted is None or available < wanted == TRAIN_SHARDS:
        wanted = available
    if not 0 <= wanted <= available:
        raise UserError(f"train_shards must be from 0 to the {available} of {published.name}, got {wanted}")
    kept = sum(name in existing for name in _names("train", available))
    if kept > wanted:
        console.say(f"keeping all {kept} train shards that exist")
    return max(wanted, kept)


def _prepare_staging(
    hub: Repository, stage: Path, paths: Sequence[str], folder: Path, existing: Collection[str]
) -> None:
    """Puts existing shards where the library looks for them: it compares hashes and fetches only the rest."""
    hub.check(paths)
    stage.mkdir(parents=True, exist_ok=True)
    for partial in stage.rglob("*.incomplete"):  # A killed process left it; the library will not continue it.
        partial.unlink()
    for path in paths:
        staged, same = stage / path, folder / Path(path).name
        if not staged.exists() and same.name in existing and same.is_file():
            staged.parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(same, staged)
    needed = sum(hub.files[path].size for path in paths if not (stage / path).exists())
    if needed > (free := shutil.disk_usage(stage).free):
        raise UserError(f"{stage}: needs {needed / 1e6:.1f} MB, and {free / 1e6:.1f} MB are free")


def _link_or_copy(source: Path, target: Path) -> None:
    """Gives a file a second name, or copies it where the file system has no hard links; syncs it to disk."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())


def _fetch_tokenizer(
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


def _fetch_split(
    hub: Repository, split: str, paths: Sequence[str], stage: Path, published: Counts, console: Console
) -> Split:
    """Fetches and checks the first shards of a split."""
    missing = [hub.files[path].size for path in paths if not (stage / path).exists()]
    size = f"{len(missing)} of {len(paths)} shards, {sum(missing) / 1e6:,.1f} MB"
    console.say(f"{split}: fetching {size} (Ctrl-C twice stops at once)")
    entries: list[FileEntry] = []
    for local in hub.fetch(paths, stage) if paths else []:
        console.live(f"{split}: checking shard {len(entries) + 1} of {len(paths)}")
        with _checked(hub, local, stage) as sha256:
            entries.append(FileEntry(local.name, local.stat().st_size, sha256, open_shard(local).num_tokens))
    tokens, is_all = sum(entry.tokens for entry in entries), len(paths) == published.files
    if is_all and tokens != published.tokens:
        rule = f"{split} must have the manifest's {published.tokens} tokens"
        raise UserError(f"{hub.name}: {rule}, got {tokens}")
    return Split(published.documents if is_all else None, tokens, None, None, entries)


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
