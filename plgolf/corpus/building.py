"""From documents to the files of a dataset: tokenizer, shards, byte side-cars and the manifest."""

import os
import re
import shutil
import threading
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plgolf.console import ByteProgress, Console
from plgolf.corpus.document_stream import KnownDocuments
from plgolf.corpus.encoding import Encoded, encode_in_order, without
from plgolf.corpus.sampling import draw_sample
from plgolf.corpus.shard_writer import ShardWriter
from plgolf.corpus.shuffling import ShuffledDocuments
from plgolf.corpus.splitting import Corpus, check_splits
from plgolf.corpus.tokenizer_training import TokenizerRecipe, train_tokenizer
from plgolf.data.manifest import Manifest, Split, TokenizerEntry, hash_file
from plgolf.data.tokenizer import NO_BYTE_FALLBACK, Tokenizer
from plgolf.errors import UserError

LEAST_SHARD_TOKENS = 1024
"""Smallest size of a full shard: with fewer tokens a dataset has more files than folders are made for."""


@dataclass(frozen=True)
class Output:
    """Settings of the files of a dataset.

    Args:
        name: beginning of the names of the shards; by default the name of the folder.
        shard_tokens: number of tokens in a full shard.
        shuffle: shuffles the training documents by the seed; the validation documents keep their order.
        seed: seed of the shuffling and of the documents that are held out by hash.
        workers: number of threads that encode; null takes one for each core.
    """

    name: str | None = None
    shard_tokens: int = 100_000_000
    shuffle: bool = False
    seed: int = 1337
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.name is not None and not re.fullmatch(r"[\w.-]+", self.name):
            raise UserError(f"name must consist of letters, digits, '.', '_' and '-', got {self.name!r}")
        if self.workers is not None and self.workers < 1:
            raise UserError(f"workers must be at least 1, got {self.workers}")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed must be from 0 to {2**63 - 1}, got {self.seed}")
        if not LEAST_SHARD_TOKENS <= self.shard_tokens < 2**31:
            raise UserError(
                f"shard_tokens must be from {LEAST_SHARD_TOKENS} to {2**31 - 1}, got {self.shard_tokens}"
            )


class _SplitWriter:
    """Writes the files of a split."""

    def __init__(self, folder: Path, name: str, split: str, output: Output, stack: ExitStack) -> None:
        self.shards = ShardWriter(folder, f"{name}_{split}", ".bin", output.shard_tokens)
        # Their names do not end in .bin, so that other programs do not read them as tokens.
        self.side_cars = ShardWriter(folder, f"{name}_{split}", ".bytes", output.shard_tokens)
        stack.callback(self.shards.abandon)
        stack.callback(self.side_cars.abandon)
        self.shuffled: ShuffledDocuments | None = None
        if output.shuffle and split == "train":
            buckets = folder / ".shuffle"
            buckets.mkdir()
            stack.callback(shutil.rmtree, buckets, ignore_errors=True)
            self.shuffled = ShuffledDocuments(buckets, output.seed)
        self.documents = self.num_tokens = self.raw_bytes = self.scored_bytes = self.unknown_tokens = 0

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
        counts = self.documents, self.num_tokens, self.raw_bytes, self.scored_bytes
        return Split(*counts, shards=self.shards.close(), side_cars=self.side_cars.close())


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
        folder: the folder.
        corpus: the documents.
        recipe: settings of the tokenizer.
        output: settings of the files.
        name: beginning of the names of the shards.
        options: options of the command, for the manifest.
        console: destination of progress.

    Returns:
        The manifest, which is written last.

    Raises:
        UserError: a document or the tokenizer is refused, or a split has no documents.
    """
    with ExitStack() as stack:
        hashes = _hash_in_background(corpus, stack)
        tokenizer = _tokenizer(corpus, recipe, console)
        (folder / tokenizer.file_name).write_bytes(tokenizer.to_bytes())
        writers = {split: _SplitWriter(folder, name, split, output, stack) for split in ("train", "val")}
        per_file = _encode(corpus, tokenizer, writers, output.workers or _cores(), console)
        check_splits({split: writer.documents for split, writer in writers.items()})
        splits = {split: writer.close() for split, writer in writers.items()}
        digests = [sha256.result() for sha256 in hashes]
    manifest = Manifest(
        name=name,
        tokenizer=TokenizerEntry.of(tokenizer, tokenizer.file_name),
        splits=splits,
        sources=[
            {"path": file.name, "bytes": file.size, "sha256": sha256, "documents": per_file[file.name]}
            for file, sha256 in zip(corpus.all_files, digests, strict=True)
        ],
        options=dict(options),
        left_out=dict(corpus.left_out),
        byte_note="; ".join(filter(None, [byte_note(splits), unknown_note(writers)])),
    )
    manifest.save(folder)
    return manifest


def _hash_in_background(corpus: Corpus, stack: ExitStack) -> list[Future[str]]:
    """Starts to hash all files; an interrupt does not wait for the hash of a large one."""
    hashing = ThreadPoolExecutor(1, thread_name_prefix="sha256")
    stop = threading.Event()
    stack.callback(hashing.shutdown, cancel_futures=True)
    stack.callback(stop.set)  # The stack calls this first.
    return [hashing.submit(hash_file, file.path, stop) for file in corpus.all_files]


def unknown_note(writers: Mapping[str, _SplitWriter]) -> str:
    """Describes text outside the vocabulary; returns an empty text if there is none."""
    found = [
        f"{writer.unknown_tokens:,} of {writer.num_tokens:,} {split} tokens"
        for split, writer in writers.items()
        if writer.unknown_tokens
    ]
    return f"{' and '.join(found)} are unknown pieces: {NO_BYTE_FALLBACK}" if found else ""


def _cores() -> int:
    # A container or a job may have fewer cores than the machine; not every system can tell.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _tokenizer(corpus: Corpus, recipe: TokenizerRecipe, console: Console) -> Tokenizer:
    """Returns the ready tokenizer, or trains one; its normalisation decides which documents are held out."""
    ready = recipe.ready()
    if note := corpus.settle(ready.normalize if ready else recipe.normalizer()):
        console.say(f"note: {note}")
    if ready:
        return ready
    progress = ByteProgress(console, "sampling text for the tokenizer", corpus.size)
    texts = draw_sample(corpus, recipe, tick=lambda count: progress.show(corpus.position, documents=count))
    size = sum(len(text.encode()) for text in texts)
    console.say(
        f"training a {recipe.preset} {recipe.model_type} tokenizer of {recipe.vocab_size} pieces on "
        f"{len(texts):,} documents, {size / 1e6:.1f} MB"
    )
    return train_tokenizer(texts, recipe)


def _encode(
    corpus: Corpus, tokenizer: Tokenizer, writers: Mapping[str, _SplitWriter], workers: int, console: Console
) -> Counter[str]:
    """Writes all tokens; returns the number of documents of each file."""
    progress = ByteProgress(console, "encoding", corpus.size)
    per_file: Counter[str] = Counter()
    held_out = KnownDocuments()
    for stream in corpus.streams(tokenizer.normalize):
        for encoded in encode_in_order(stream, tokenizer, workers=workers):
            for flaw in encoded.flaws:
                corpus.reject(flaw)
            kept = encoded if corpus.holdout.by_hash else _disjoint(encoded, held_out, corpus, tokenizer)
            writers[kept.split].add(kept)
            writers[kept.split].unknown_tokens += tokenizer.count_unknown(kept.tokens)
            per_file.update([document.file for document in kept.documents])
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
    """Remembers validation documents, and leaves out training documents with the same tokens."""
    if encoded.split == "val":
        held_out.add(encoded.tokens, encoded.starts)
        return encoded
    dropped = held_out.find(encoded.tokens, encoded.starts)
    if not dropped:
        return encoded
    corpus.left_out["training document equal to a validation document"] += len(dropped)
    return without(encoded, dropped, tokenizer)


def byte_note(splits: Mapping[str, Split]) -> str:
    """Describes how scored and raw bytes differ; returns an empty text if they are equal.

    >>> byte_note({"val": Split(1, 9, raw_bytes=200, scored_bytes=190)})
    'val: 190 scored bytes for 200 raw ones (-5.00 %): val/bpb is per scored byte, val/bpb_raw per raw byte'
    """
    for name, split in sorted(splits.items(), reverse=True):  # Validation first, because it is scored.
        raw, scored = split.raw_bytes, split.scored_bytes
        if raw and scored is not None and scored != raw:
            return (
                f"{name}: {scored} scored bytes for {raw} raw ones ({100 * (scored / raw - 1):+.2f} %): "
                "val/bpb is per scored byte, val/bpb_raw per raw byte"
            )
    return ""
