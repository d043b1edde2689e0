"""From documents to the files of a dataset: tokenizer, shards, byte side-cars and the manifest."""

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plgolf.console import ByteProgress, Console
from plgolf.corpus.document_stream import count_unknown, digests
from plgolf.corpus.encoding import Encoded, encode_in_order
from plgolf.corpus.sampling import draw_sample
from plgolf.corpus.shard_writer import ShardWriter
from plgolf.corpus.shuffling import ShuffledDocuments
from plgolf.corpus.splitting import Corpus, check_splits
from plgolf.corpus.text_files import TextFile
from plgolf.corpus.tokenizer_training import TokenizerRecipe, train_tokenizer
from plgolf.data.manifest import Manifest, Split, hash_file, tokenizer_entry, write_manifest
from plgolf.data.tokenizer import NO_BYTE_FALLBACK, Tokenizer
from plgolf.errors import UserError, at_least

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
        if self.workers is not None:
            at_least("workers", self.workers, 1)
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed must be from 0 to {2**63 - 1}, got {self.seed}")
        if not LEAST_SHARD_TOKENS <= (size := self.shard_tokens) < 2**31:
            raise UserError(f"shard_tokens must be from {LEAST_SHARD_TOKENS} to {2**31 - 1}, got {size}")


class _SplitWriter:
    """Writes the files of a split."""

    def __init__(self, folder: Path, name: str, split: str, output: Output) -> None:
        self.shards = ShardWriter(folder, f"{name}_{split}", ".bin", output.shard_tokens)
        # Their names do not end in .bin, so that other programs do not read them as tokens.
        self.side_cars = ShardWriter(folder, f"{name}_{split}", ".bytes", output.shard_tokens)
        self.shuffled: ShuffledDocuments | None = None
        if output.shuffle and split == "train":
            buckets = folder / ".shuffle"
            buckets.mkdir()
            self.shuffled = ShuffledDocuments(buckets, output.seed)
        self.documents = self.num_tokens = self.raw_bytes = self.scored_bytes = self.unknown_tokens = 0

    def add(self, encoded: Encoded, tokenizer: Tokenizer) -> None:
        if not encoded.documents:
            return
        tokens = np.concatenate(encoded.tokens)
        self.documents += len(encoded.documents)
        self.raw_bytes += sum(document.num_bytes for document in encoded.documents)
        self.scored_bytes += tokenizer.byte_counts.total(tokens)
        self.unknown_tokens += count_unknown(tokens, tokenizer.unknown_id)
        self.num_tokens += tokens.size
        if self.shuffled is not None:
            self.shuffled.add(encoded.tokens)
        else:
            self.shards.write(tokens)
        if encoded.raw_bytes:
            self.side_cars.write(np.concatenate(encoded.raw_bytes))

    def close(self) -> Split:
        if self.shuffled is not None:
            for tokens in self.shuffled:
                self.shards.write(tokens)
            self.shuffled.folder.rmdir()
        counts = self.documents, self.num_tokens, self.raw_bytes, self.scored_bytes
        return Split(*counts, self.shards.close(), self.side_cars.close())


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
    """Makes a dataset in an empty folder; ``name`` begins the names of the shards.

    Returns:
        The manifest, which has ``options`` and is written last.

    Raises:
        UserError: a document or the tokenizer is refused, or a split has no documents.
    """
    tokenizer = _tokenizer(corpus, recipe, console)
    (folder / tokenizer.file_name).write_bytes(tokenizer.to_bytes())
    writers = {split: _SplitWriter(folder, name, split, output) for split in ("train", "val")}
    per_file = _encode(corpus, tokenizer, writers, output.workers or _cores(), console)
    check_splits({split: writer.documents for split, writer in writers.items()})
    splits = {split: writer.close() for split, writer in writers.items()}
    manifest = Manifest(
        name=name,
        tokenizer=tokenizer_entry(tokenizer, tokenizer.file_name),
        splits=splits,
        sources=[{**describe_file(file), "documents": per_file[file.name]} for file in corpus.all_files],
        options=dict(options),
        left_out=dict(corpus.left_out),
        byte_note="; ".join(filter(None, [_byte_note(splits, tokenizer), _unknown_note(writers)])),
    )
    write_manifest(manifest, folder)
    return manifest


def describe_file(file: TextFile) -> dict[str, Any]:
    """Returns name, size and hash of an input file, as the manifest has them."""
    return {"path": file.name, "bytes": file.size, "sha256": hash_file(file.path)}


def _unknown_note(writers: Mapping[str, _SplitWriter]) -> str:
    """Describes text outside the vocabulary, if there is any."""
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
    held_out: set[bytes] = set()
    for stream in corpus.streams(tokenizer.normalize):
        for encoded in encode_in_order(stream, tokenizer, workers=workers):
            for flaw in encoded.flaws:
                corpus.reject(flaw)
            kept = encoded if corpus.holdout.by_hash else _disjoint(encoded, held_out, corpus)
            writers[kept.split].add(kept, tokenizer)
            per_file.update([document.file for document in kept.documents])
            text_bytes = sum(writer.raw_bytes for writer in writers.values())
            tokens = sum(writer.num_tokens for writer in writers.values())
            documents = sum(writer.documents for writer in writers.values())
            progress.show(corpus.position, text_bytes=text_bytes, documents=documents, tokens=tokens)
    seconds = progress.seconds
    speed = sum(writer.raw_bytes for writer in writers.values()) / max(seconds, 1e-9) / 1e6
    console.say(f"encoded {sum(per_file.values()):,} documents in {seconds:.1f} s, {speed:.1f} MB/s")
    return per_file


def _disjoint(encoded: Encoded, held_out: set[bytes], corpus: Corpus) -> Encoded:
    """Remembers validation documents, and leaves out training documents with the same tokens."""
    found = digests(encoded.tokens)
    if encoded.split == "val":
        held_out.update(found)
        return encoded
    kept = [index for index, digest in enumerate(found) if digest not in held_out]
    if dropped := len(found) - len(kept):
        corpus.left_out["training document equal to a validation document"] += dropped
    documents = [encoded.documents[index] for index in kept]
    return encoded._replace(documents=documents, tokens=[encoded.tokens[index] for index in kept])


def _byte_note(splits: Mapping[str, Split], tokenizer: Tokenizer) -> str:
    """Describes how scored and raw bytes differ, if they do."""
    counted = "val/bpb is per scored byte, val/bpb_raw per raw byte"
    if tokenizer.transform:
        counted = f"val/bpb is per raw byte, because {tokenizer.transform} changes the text"
    for name, split in sorted(splits.items(), reverse=True):  # Validation first, because it is scored.
        raw, scored = split.raw_bytes, split.scored_bytes
        if raw and scored is not None and scored != raw:
            off = f"{100 * (scored / raw - 1):+.2f} %"
            return f"{name}: {scored} scored bytes for {raw} raw ones ({off}): {counted}"
    return ""
