"""``plgolf data prepare``: makes a dataset from text, completely or not at all."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from plgolf.config import config_to_dict
from plgolf.console import Console
from plgolf.corpus.building import Output, build, describe_file
from plgolf.corpus.documents import Reading
from plgolf.corpus.splitting import Corpus, Holdout, OnError
from plgolf.corpus.stdlib import is_validation, stdlib_files
from plgolf.corpus.text_files import STDIN, TextFile, find_files
from plgolf.corpus.tokenizer_training import TokenizerRecipe
from plgolf.data.manifest import MANIFEST, Manifest, check_only_own_files, read_manifest
from plgolf.errors import UserError
from plgolf.files import FolderNotEmptyError, staged_folder


def prepare(
    inputs: Sequence[str],
    root: Path,
    *,
    reading: Reading,
    holdout: Holdout,
    recipe: TokenizerRecipe,
    output: Output,
    on_error: OnError = "stop",
    overwrite: bool = False,
    console: Console,
) -> Manifest:
    """Makes a dataset from text files, in memory that does not grow with them.

    Inputs are files, folders, patterns, or ``-`` for standard input. A dataset in ``root`` that was made from
    the same files with the same options stays as it is; ``overwrite`` replaces another one, when the new one
    is complete. A document that is refused ends the work, or is counted with ``on_error`` ``skip``.

    Raises:
        UserError: an input, a document, the tokenizer or ``root`` is refused, or the disk is full.
    """
    options = {"inputs": list(inputs), **recipe.used(), "on_error": on_error}
    for settings in (reading, holdout, output):
        options.update(config_to_dict(settings))
    del options["workers"]  # Does not change the result.
    try:
        with _making(root, replace=overwrite) as folder:
            files = find_files(inputs, reading, stdin=_spooled(inputs, folder), leave_out=root)
            val_files = find_files(holdout.val_inputs, reading, leave_out=root)
            _check_used(reading, [*files, *val_files])
            corpus = Corpus(files, val_files, reading, holdout, seed=output.seed, on_error=on_error)
            name = output.name or root.resolve().name
            manifest = build(folder, corpus, recipe, output, name=name, options=options, console=console)
            (folder / STDIN).unlink(missing_ok=True)
    except FolderNotEmptyError:
        names = [] if STDIN in inputs else [*holdout.val_inputs, *inputs]
        manifest = _same(root, options, recipe, find_files(names, reading, leave_out=root))
        console.say(f"{root}: exists already, made from the same files with the same options")
        return manifest
    _summarise(manifest, root, console)
    return manifest


def prepare_stdlib(root: Path, *, vocab_size: int, console: Console) -> None:
    """Makes the embedded dataset, the source code of Python's standard library, unless it exists.

    Raises:
        UserError: ``root`` holds other files, or cannot be written.
    """
    if read_manifest(root) is not None:
        return
    if root.exists():
        raise UserError(f"{root}: exists without a {MANIFEST}: move it away or set data.root")
    recipe = TokenizerRecipe(vocab_size=vocab_size)
    # In the order of their names, the first modules are codec tables, and training does not shuffle.
    output = Output(shuffle=True)
    files = stdlib_files()
    val_files = [file for file in files if is_validation(file.name)]
    train_files = [file for file in files if not is_validation(file.name)]
    holdout = Holdout(val_inputs=[file.name for file in val_files])
    corpus = Corpus(train_files, val_files, Reading(), holdout, seed=output.seed, on_error="skip")
    options = {"inputs": ["the standard library"], **recipe.used(), **config_to_dict(output)}
    try:
        with _making(root, replace=False) as folder:
            build(folder, corpus, recipe, output, name="stdlib", options=options, console=console)
    except FolderNotEmptyError:  # Another process of the same run has made it.
        return


@contextmanager
def _making(root: Path, *, replace: bool) -> Iterator[Path]:
    try:
        if replace and root.is_dir() and any(root.iterdir()):
            manifest = read_manifest(root)
            if manifest is None:
                rule = f"must be a dataset to be overwritten, but has no {MANIFEST}"
                raise UserError(f"{root}: {rule}: move it away")
            check_only_own_files(root, manifest)
        if root.exists() and not root.is_dir():
            raise UserError(f"{root}: must be a folder")
        with staged_folder(root, replace=replace) as folder:
            yield folder
    except FolderNotEmptyError:
        raise
    except OSError as error:
        raise UserError(f"{root}: cannot be written: {error.strerror or error}") from error


def _same(
    root: Path, options: dict[str, object], recipe: TokenizerRecipe, files: Sequence[TextFile]
) -> Manifest:
    """Returns the manifest of a dataset that is complete and made from these files, tokenizer and options."""
    manifest = read_manifest(root)
    if manifest is None:
        raise UserError(f"{root}: exists without a {MANIFEST}: move it away")
    if files and manifest.options == options and _is_whole(root, manifest):
        ready = recipe.ready()
        sources = [{key: s.get(key) for key in ("path", "bytes", "sha256")} for s in manifest.sources]
        same_tokenizer = ready is None or ready.sha256 == manifest.tokenizer.sha256
        if same_tokenizer and [describe_file(file) for file in files] == sources:
            return manifest
    flaw = "holds another dataset, or a part of one"
    raise UserError(f"{root}: {flaw}: --overwrite replaces it by the new one")


def _check_used(reading: Reading, files: Sequence[TextFile]) -> None:
    """Raises a UserError for a setting that is used by none of the files."""
    texts = sum(file.is_text for file in files)
    if reading.separator is not None and not texts:
        raise UserError(f"separator must be left out without text files, got {reading.separator!r}")
    if reading.text_field != Reading.text_field and texts == len(files):
        raise UserError(f"text_field must be left out with text files alone, got {reading.text_field!r}")


def _is_whole(root: Path, manifest: Manifest) -> bool:
    paths = [(root / entry.file, entry.bytes) for entry in manifest.files]
    return all(path.is_file() and path.stat().st_size == size for path, size in paths)


def _spooled(inputs: Sequence[str], folder: Path) -> Path | None:
    """Copies standard input to a file, because it is read more than once."""
    if STDIN not in inputs:
        return None
    if list(inputs).count(STDIN) > 1:
        raise UserError("standard input (-) can be given only once")
    if sys.stdin is None:
        raise UserError("standard input (-) is closed")
    path = folder / STDIN
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
    return path


def _summarise(manifest: Manifest, root: Path, console: Console) -> None:
    for name, split in manifest.splits.items():
        console.say(
            f"{name:<6} {split.documents:>12,} documents {split.tokens:>16,} tokens "
            f"{split.raw_bytes:>16,} bytes {len(split.shards):>5} shards"
        )
    for reason, count in manifest.left_out.items():
        console.say(f"left out {count:,}: {reason}")
    if manifest.byte_note:
        console.say(f"note: {manifest.byte_note}")
    console.say(f"written to {root}")
