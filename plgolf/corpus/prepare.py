"""``plgolf data prepare``: from text to a dataset in one folder, which appears whole or not at all."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from plgolf.config import config_to_dict
from plgolf.console import Console
from plgolf.corpus.building import Output, build
from plgolf.corpus.documents import Reading
from plgolf.corpus.splitting import Corpus, Holdout, OnError
from plgolf.corpus.stdlib import is_validation, stdlib_files
from plgolf.corpus.text_files import STDIN, TextFile, find_files
from plgolf.corpus.tokenizer_training import TokenizerRecipe
from plgolf.data.manifest import MANIFEST, Manifest, check_no_strangers, hash_file, read_manifest
from plgolf.errors import UserError
from plgolf.files import AlreadyThereError, staged_folder


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
    """Makes a dataset of text files, in memory that does not grow with them.

    Args:
        inputs: paths, patterns, or ``-`` for standard input.
        root: folder to make.
        reading: how the files are read.
        holdout: which documents are for validation.
        recipe: the tokenizer.
        output: how it is written.
        on_error: ``stop`` at a document that cannot be taken, or ``skip`` and count it.
        overwrite: replaces the dataset in ``root``, once the new one is whole.
        console: takes progress.

    Returns:
        The manifest.

    Raises:
        UserError: an input, a document, the tokenizer or ``root`` is refused, or the disk is full.
    """
    options = {
        "inputs": list(inputs),
        **config_to_dict(reading),
        **config_to_dict(holdout),
        **recipe.used(),
        **config_to_dict(output),
        "on_error": on_error,
    }
    del options["workers"]  # Makes no difference.
    try:
        with _making(root, replace=overwrite) as folder:
            files = find_files(inputs, reading, stdin=_spooled(inputs, folder))
            val_files = find_files(holdout.val_inputs, reading)
            corpus = Corpus(
                files, val_files, reading=reading, holdout=holdout, seed=output.seed, on_error=on_error
            )
            name = output.name or root.resolve().name
            manifest = build(folder, corpus, recipe, output, name=name, options=options, console=console)
            (folder / STDIN).unlink(missing_ok=True)
    except AlreadyThereError:
        manifest = _same(root, options, inputs, reading, holdout, recipe)
        console.say(f"{root}: is there already, made of the same files with the same options")
        return manifest
    _say(manifest, root, console)
    return manifest


def prepare_stdlib(root: Path, *, vocab_size: int, console: Console) -> None:
    """Makes the embedded dataset, the sources of this Python's standard library, unless it is there.

    Args:
        root: folder to make.
        vocab_size: pieces of the tokenizer to train.
        console: takes progress.

    Raises:
        UserError: ``root`` holds something else, or cannot be written.
    """
    if read_manifest(root) is not None:
        return
    if root.exists():
        raise UserError(f"{root}: exists but holds no {MANIFEST}: move it away or set data.root")
    recipe = TokenizerRecipe(vocab_size=vocab_size)
    # In the order of names, a short run would end on a diet of codec tables: nothing is shuffled later.
    output = Output(shuffle=True)
    files = stdlib_files()
    val_files = [file for file in files if is_validation(file.name)]
    corpus = Corpus(
        [file for file in files if not is_validation(file.name)],
        val_files,
        reading=Reading(),
        holdout=Holdout(val_inputs=[file.name for file in val_files]),
        seed=output.seed,
        on_error="skip",
    )
    options = {"inputs": ["the standard library"], **recipe.used(), **config_to_dict(output)}
    try:
        with _making(root, replace=False) as folder:
            build(folder, corpus, recipe, output, name="stdlib", options=options, console=console)
    except AlreadyThereError:  # Another process of the same run was faster.
        return


@contextmanager
def _making(root: Path, *, replace: bool) -> Iterator[Path]:
    try:
        if replace and root.is_dir() and any(root.iterdir()):
            manifest = read_manifest(root)
            if manifest is None:
                raise UserError(
                    f"{root}: holds no {MANIFEST}, so it is no dataset to overwrite: move it away"
                )
            check_no_strangers(root, manifest)
        if root.exists() and not root.is_dir():
            raise UserError(f"{root}: is no folder")
        with staged_folder(root, replace=replace) as folder:
            yield folder
    except AlreadyThereError:
        raise
    except OSError as error:
        raise UserError(f"{root}: cannot be written: {error.strerror or error}") from error


def _same(
    root: Path,
    options: dict[str, object],
    inputs: Sequence[str],
    reading: Reading,
    holdout: Holdout,
    recipe: TokenizerRecipe,
) -> Manifest:
    """Returns the manifest in a folder if it is whole, and of these files, tokenizer and options."""
    manifest = read_manifest(root)
    if manifest is None:
        raise UserError(f"{root}: exists but holds no {MANIFEST}: move it away")
    if STDIN not in inputs and manifest.options == options and _is_whole(root, manifest):
        ready = recipe.ready()
        files = [*find_files(holdout.val_inputs, reading), *find_files(inputs, reading)]
        sources = [
            {key: source.get(key) for key in ("path", "bytes", "sha256")} for source in manifest.sources
        ]
        if (ready is None or ready.sha256 == manifest.tokenizer.sha256) and _described(files) == sources:
            return manifest
    raise UserError(
        f"{root}: holds another dataset, or a part of one: --overwrite replaces it once the new one is whole"
    )


def _is_whole(root: Path, manifest: Manifest) -> bool:
    paths = {root / entry.file: entry.bytes for entry in manifest.files}
    return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())


def _described(files: Sequence[TextFile]) -> list[dict[str, object]]:
    return [{"path": f.name, "bytes": f.size, "sha256": hash_file(f.path)} for f in files]


def _spooled(inputs: Sequence[str], folder: Path) -> Path | None:
    """Keeps standard input, which can be read only once."""
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


def _say(manifest: Manifest, root: Path, console: Console) -> None:
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
