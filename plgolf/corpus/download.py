"""Downloads of the challenge's published datasets, and of others made by its exporter."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from plgolf.console import Console
from plgolf.corpus.fetching import fetch_shards, fetch_split, fetch_tokenizer, local_name, side_cars_of
from plgolf.corpus.hub import Repository, open_repository
from plgolf.corpus.published import Published, is_safe_path, read_published
from plgolf.data.manifest import (
    Manifest,
    check_only_own_files,
    read_manifest,
    tokenizer_entry,
    write_manifest,
)
from plgolf.errors import UserError
from plgolf.files import lock_folder, staged_folder

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
    side_cars = side_cars_of(hub, shards["val"])
    files = [*shards["val"], *side_cars, *shards["train"]]
    _prepare_staging(hub, stage, [*tokenizer_files, *files], folder, existing)
    tokenizer = fetch_tokenizer(hub, tokenizer_files, stage, root / "tokenizers", published.vocab_size)
    splits = {
        split: fetch_split(hub, split, paths, stage, published.splits[split], console)
        for split, paths in shards.items()
    }
    counts = fetch_shards(hub, "byte side-cars", side_cars, stage, console)
    if counts and [entry.tokens for entry in counts] != [entry.tokens for entry in splits["val"].shards]:
        raise UserError(f"{hub.name}: byte side-cars must have a count for each token")
    splits["val"] = replace(splits["val"], side_cars=counts)
    if tokenizer.transform and not counts:
        console.say(f"note: {folder} cannot be scored, because it has no byte side-cars")
    manifest = Manifest(
        name=_PREFIX,
        tokenizer=tokenizer_entry(tokenizer, f"../../tokenizers/{Path(tokenizer_files[0]).name}"),
        splits=splits,
        sources=[source],
        options={"train_shards": train, "published_train_shards": published.splits["train"].files},
    )
    with staged_folder(folder, replace=True) as partial:
        for path in files:
            _link_or_copy(stage / path, partial / local_name(path))
        write_manifest(manifest, partial)
    shutil.rmtree(stage, ignore_errors=True)
    tokens = [splits[split].tokens for split in ("train", "val")]
    console.say(f"{folder}: {tokens[0]:,} train and {tokens[1]:,} val tokens, all checked")
    return folder


def _names(split: str, number: int) -> list[str]:
    return [f"{_PREFIX}_{split}_{index:06d}.bin" for index in range(number)]


def _existing_shards(folder: Path, source: dict[str, str]) -> set[str]:
    """Returns the names of the files of an earlier download, and refuses to replace any other dataset."""
    manifest = read_manifest(folder)
    if manifest is None:
        if folder.exists():
            raise UserError(f"{folder}: exists and was not downloaded by plgolf: move it away")
        return set()
    check_only_own_files(folder, manifest)
    if [(o.get("repo"), o.get("path")) for o in manifest.sources] != [(source["repo"], source["path"])]:
        raise UserError(f"{folder}: exists and is not {source['path']} of {source['repo']}: move it away")
    return {entry.file for entry in manifest.files}


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
        staged, same = stage / path, folder / local_name(path)
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
