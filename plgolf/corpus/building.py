"""Documents to a dataset's files: tokenizer, shards, byte side-cars and the manifest that describes them."""

import os
import re
import shutil
import threading
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plgolf.console import Console, Progress
from plgolf.corpus.document_stream import KnownDocuments
from plgolf.corpus.encoding import Encoded, encode_in_order, without
from plgolf.corpus.shard_writer import ShardWriter
from plgolf.corpus.shuffling import ShuffledDocuments
from plgolf.corpus.splitting import Corpus, check_splits
from plgolf.corpus.tokenizer_training import TokenizerRecipe, train_tokenizer
from plgolf.data.manifest import Manifest, Split, TokenizerEntry, byte_note, hash_file
from plgolf.data.tokenizer import Tokenizer
from plgolf.errors import UserError


@dataclass(frozen=True)
class Output:
    """How a dataset is written.

    Args:
        name: beginning of the shards' names; by default the folder's own name.
        shard_tokens: tokens in a full shard.
        shuffle: puts the training documents in an order that depends on the seed alone; the validation
            documents keep theirs.
        seed: seed of that order, and of what is held out by hash.
        workers: threads that encode; null takes one for each core.
    """

    name: str | None = None
    shard_tokens: int = 100_000_000
    shuffle: bool = False
    seed: int = 1337
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.name is not None and not re.fullmatch(r"[\w.-]+", self.name):
            raise UserError(f"name must consist of letters, digits, '.', '_' and '-', got {self.name!r}")
        for name in ("shard_tokens", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed must be from 0 to {2**63 - 1}, got {self.seed}")
        if self.shard_tokens >= 2**31:
            raise UserError(f"shard_tokens must be below {2**31}, got {self.shard_tokens}")


class _SplitWriter:
    """The files of one split."""

    def __init__(self, folder: Path, name: str, split: str, output: Output, stack: ExitStack) -> None:
        self.shards = ShardWriter(folder, f"{name}_{split}", output.shard_tokens)
        self.side_cars = ShardWriter(folder, f"{name}_{split}_bytes", output.shard_tokens)
        stack.callback(self.shards.abandon)
        stack.callback(self.side_cars.abandon)
        self.shuffled: ShuffledDocuments | None = None
        if output.shuffle and split == "train":
            buckets = folder / ".shuffle"
            buckets.mkdir()
            stack.callback(shutil.rmtree, buckets, ignore_errors=True)
            self.shuffled = ShuffledDocuments(buckets, output.seed)
        self.documents = self.num_tokens = self.raw_bytes = self.scored_bytes = 0

    def add(self, encoded: Encoded) -> None:
        self.documents += len(encoded.documents)
        self.raw_bytes += sum(document.num_bytes for document in encoded.documents)
        self.scored_bytes += encoded.scored_bytes
        self.num_tokens += encoded.tokens.size
        if self.shuffled is not None:
            self.shuffled.add(encoded.tokens, encoded.starts)
        else:
            self.shards.write(encoded.tokens)
        self.side_cars.write(encoded.raw_bytes)

    def close(self) -> Split:
        for tokens in self.shuffled or ():
            self.shards.write(tokens)
        return Split(
            documents=self.documents,
            tokens=self.num_tokens,
            raw_bytes=self.raw_bytes,
            scored_bytes=self.scored_bytes,
            shards=self.shards.close(),
            side_cars=self.side_cars.close(),
        )


def build(
    folder: Path,
    corpus: Corpus,
    recipe: TokenizerRecipe,
    output: Output,
    *,
    name: str,
    options: Mapping[str, Any],
    console: Console,
) -> Manifest:
    """Makes a dataset in an empty folder.

    Args:
        folder: where to.
        corpus: the documents.
        recipe: the tokenizer.
        output: how it is written.
        name: beginning of the shards' names.
        options: what the manifest says of how it was made.
        console: takes progress.

    Returns:
        The manifest, which is also the last file to be written.

    Raises:
        UserError: a document or the tokenizer is refused, or a split has no document.
    """
    with ExitStack() as stack:
        hashing = ThreadPoolExecutor(1, thread_name_prefix="sha256")
        stop = threading.Event()
        stack.callback(hashing.shutdown, cancel_futures=True)
        stack.callback(stop.set)  # First: whoever is interrupted need not wait for a large file's hash.
        hashes = [hashing.submit(hash_file, file.path, stop) for file in corpus.all_files]
        tokenizer = recipe.ready() or _train(corpus, recipe, console)
        (folder / tokenizer.file_name).write_bytes(tokenizer.to_bytes())
        writers = {split: _SplitWriter(folder, name, split, output, stack) for split in ("train", "val")}
        per_file = _encode(corpus, tokenizer, writers, output.workers or _cores(), console)
        check_splits({split: writer.documents for split, writer in writers.items()})
        splits = {split: writer.close() for split, writer in writers.items()}
        sources = [
            {
                "path": file.name,
                "bytes": file.size,
                "sha256": digest.result(),
                "documents": per_file[file.name],
            }
            for file, digest in zip(corpus.all_files, hashes, strict=True)
        ]
    manifest = Manifest(
        name=name,
        tokenizer=TokenizerEntry.of(tokenizer, tokenizer.file_name),
        splits=splits,
        sources=sources,
        options=dict(options),
        left_out=dict(corpus.left_out),
        byte_note=byte_note(splits),
    )
    manifest.save(folder)
    return manifest


def _cores() -> int:
    # A container or a job may have fewer than the machine. Not every system can tell.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _train(corpus: Corpus, recipe: TokenizerRecipe, console: Console) -> Tokenizer:
    progress = Progress(console, "sampling text for the tokenizer", corpus.size)
    texts = corpus.sample(
        recipe.normalizer(),
        recipe.sample_bytes,
        longest_bytes=recipe.longest_bytes,
        tick=lambda count: progress.show(corpus.position, documents=count),
    )
    size = sum(len(text.encode()) for text in texts)
    console.say(
        f"training a {recipe.preset} {recipe.model_type} tokenizer of {recipe.vocab_size} pieces on "
        f"{len(texts):,} documents, {size / 1e6:.1f} MB"
    )
    return train_tokenizer(texts, recipe)


def _encode(
    corpus: Corpus, tokenizer: Tokenizer, writers: Mapping[str, _SplitWriter], workers: int, console: Console
) -> Counter[str]:
    """Writes all tokens; returns how many documents of each file were taken."""
    progress = Progress(console, "encoding", corpus.size)
    per_file: Counter[str] = Counter()
    held_out = KnownDocuments()
    for stream in corpus.streams(tokenizer.normalize):
        for encoded in encode_in_order(stream, tokenizer, workers=workers):
            for flaw in encoded.flaws:
                corpus.reject(flaw)
            taken = encoded if corpus.holdout.by_hash else _disjoint(encoded, held_out, corpus, tokenizer)
            writers[taken.split].add(taken)
            per_file.update([document.file for document in taken.documents])
            progress.show(
                corpus.position,
                text_bytes=sum(writer.raw_bytes for writer in writers.values()),
                documents=sum(writer.documents for writer in writers.values()),
                tokens=sum(writer.num_tokens for writer in writers.values()),
            )
    seconds = progress.seconds
    console.say(
        f"encoded {sum(per_file.values()):,} documents in {seconds:.1f} s, "
        f"{sum(writer.raw_bytes for writer in writers.values()) / max(seconds, 1e-9) / 1e6:.1f} MB/s"
    )
    return per_file


def _disjoint(encoded: Encoded, held_out: KnownDocuments, corpus: Corpus, tokenizer: Tokenizer) -> Encoded:
    """Takes note of validation documents, and leaves out training documents of the same tokens."""
    if encoded.split == "val":
        held_out.add(encoded.tokens, encoded.starts)
        return encoded
    dropped = held_out.find(encoded.tokens, encoded.starts)
    if not dropped:
        return encoded
    corpus.left_out["training document equal to a validation document"] += len(dropped)
    return without(encoded, dropped, tokenizer)
