"""``plgolf data inspect``: an overview of a dataset."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plgolf.corpus.document_stream import whole_documents
from plgolf.data.manifest import Manifest, find_tokenizer, read_manifest
from plgolf.data.shards import MAX_VOCAB_SIZE, Shard, ShardReader, find_shards, find_side_cars, has_shards
from plgolf.data.tokenizer import Tokenizer
from plgolf.errors import UserError, extra

_INSPECTED_TOKENS = 1 << 26
_BAR_CHARACTERS = 40
_SAMPLE_CHARACTERS = 600


@dataclass(frozen=True)
class SplitView:
    """Overview of a split.

    Args:
        lengths: int64; tokens of each inspected document, without begin-of-sequence; None if the id of the
            latter is unknown or does not occur.
        inspected: number of inspected tokens.
        scored_bytes: bytes of the inspected tokens; None without a tokenizer.
    """

    shards: list[Shard]
    side_cars: list[Shard]
    lengths: NDArray[np.int64] | None
    inspected: int
    scored_bytes: int | None

    @property
    def tokens(self) -> int:
        """Number of tokens in all shards."""
        return sum(shard.num_tokens for shard in self.shards)


@dataclass(frozen=True)
class DatasetView:
    """Overview of a dataset, as far as it is known, and of its ``val`` and ``train`` split, if they exist."""

    root: Path
    manifest: Manifest | None
    tokenizer: Tokenizer | None
    bos_id: int | None
    splits: dict[str, SplitView]


def inspect(root: Path, *, tokenizer: Path | None = None, bos_id: int | None = None) -> DatasetView:
    """Inspects a dataset, up to the first 67 million tokens of each split.

    Args:
        root: its folder, with or without a manifest.
        tokenizer: file of its tokenizer; by default the one in the folder, if it has one.
        bos_id: begin-of-sequence id of shards without a tokenizer.

    Raises:
        UserError: the folder or its shards are missing, or a file is damaged.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    manifest = read_manifest(root)
    found = None
    if tokenizer or manifest or any(root.glob("tokenizer.*")):
        found = find_tokenizer(root, manifest, tokenizer)
    if found and bos_id is not None:
        raise UserError(f"bos_id must be left out where the tokenizer is known, which has {found.bos_id}")
    if bos_id is not None and not 0 <= bos_id < MAX_VOCAB_SIZE:
        raise UserError(f"bos_id must be from 0 to {MAX_VOCAB_SIZE - 1}, got {bos_id}")
    bos_id = found.bos_id if found else bos_id
    existing = [split for split in ("val", "train") if has_shards(root, split)]
    splits = {split: _view(root, split, found, bos_id) for split in existing}
    if not splits:
        raise UserError(f"{root}: must hold *_train_<number>.bin or *_val_<number>.bin")
    return DatasetView(root, manifest, found, bos_id, splits)


def _view(root: Path, split: str, tokenizer: Tokenizer | None, bos_id: int | None) -> SplitView:
    shards = find_shards(root, split)
    reader = ShardReader(shards, vocab_size=tokenizer.vocab_size if tokenizer else MAX_VOCAB_SIZE)
    lengths, inspected, scored, begins = [np.empty(0, dtype=np.int64)], 0, 0, False
    for tokens, starts in whole_documents(reader, bos_id) if bos_id is not None else ():
        begins = begins or bool(np.any(tokens == bos_id))
        lengths.append(np.diff(starts, append=tokens.size) - 1)
        inspected += tokens.size
        if tokenizer:
            scored += tokenizer.byte_counts.total(tokens)
        if inspected >= _INSPECTED_TOKENS:
            break
    known = np.concatenate(lengths) if begins else None
    side_cars = find_side_cars(root, split, shards)
    return SplitView(shards, side_cars, known, inspected, scored if tokenizer else None)


def describe(view: DatasetView) -> Iterator[str]:
    """Yields lines for a terminal: files, numbers, lengths of documents and a decoded sample."""
    yield from _heading(view)
    for split, found in view.splits.items():
        yield ""
        yield from _numbers(split, found)
        if found.lengths is not None:
            yield from _lengths(found.lengths)
        elif view.bos_id is not None:
            yield f"  documents are unknown: begin-of-sequence id {view.bos_id} does not occur"
    yield ""
    if view.tokenizer is not None:
        yield from _sample(view, view.tokenizer)
    elif view.bos_id is None:
        yield (
            "without a tokenizer, documents, bytes and text are unknown: name it with --tokenizer FILE, or "
            "the id that begins each document with --bos_id (50256 for GPT-2)"
        )
    else:
        yield "without a tokenizer, bytes and text are unknown (--tokenizer FILE)"


def _heading(view: DatasetView) -> Iterator[str]:
    manifest, tokenizer = view.manifest, view.tokenizer
    made = f"{manifest.name}, made by plgolf {manifest.plgolf}" if manifest else "no manifest.json"
    yield f"{view.root}: {made}"
    if manifest:
        yield f"sources        {len(manifest.sources):,}, {manifest.byte_note or 'every raw byte is scored'}"
        for reason, count in manifest.left_out.items():
            yield f"left out       {count:,}: {reason}"
    if tokenizer:
        lossless = "lossless" if tokenizer.lossless else "normalises"
        kind = f"{tokenizer.transform} and {tokenizer.kind}" if tokenizer.transform else tokenizer.kind
        yield f"tokenizer      {kind}, {tokenizer.vocab_size} ids, {lossless}"


def _numbers(split: str, found: SplitView) -> Iterator[str]:
    side_cars = f" and {len(found.side_cars)} byte side-cars" if found.side_cars else ""
    yield f"{split}: {found.tokens:,} tokens in {len(found.shards)} shards{side_cars}"
    for shard in found.shards[:3]:
        yield f"  {shard.path.name}  {shard.num_tokens:,} tokens"
    if len(found.shards) > 3:
        yield f"  ... {found.shards[-1].path.name}  {found.shards[-1].num_tokens:,} tokens"
    if 0 < found.inspected < found.tokens:
        yield f"  in the first {found.inspected:,} tokens:"
    if found.scored_bytes is not None:
        yield f"  {found.scored_bytes / max(found.inspected, 1):.4f} bytes per token"


def _lengths(lengths: NDArray[np.int64]) -> Iterator[str]:
    """Shows quantiles and a histogram, in which each row has documents twice as long as the one above."""
    quantiles = np.quantile(lengths, [0, 0.5, 0.9, 0.99, 1]).astype(np.int64).tolist()
    names = ("shortest", "median", "90 %", "99 %", "longest")
    shown = ", ".join(f"{name} {value:,}" for name, value in zip(names, quantiles, strict=True))
    yield f"  {lengths.size:,} documents, tokens in each: {shown}"
    powers = np.floor(np.log2(np.maximum(lengths, 1))).astype(np.int64)
    counts = np.bincount(powers)
    for power in range(int(powers.min()), counts.size):
        bar = "#" * round(_BAR_CHARACTERS * int(counts[power]) / int(counts.max()))
        yield f"  {2**power:>9,} to {2 ** (power + 1) - 1:>9,}  {bar:<{_BAR_CHARACTERS}} {counts[power]:,}"


def _sample(view: DatasetView, tokenizer: Tokenizer) -> Iterator[str]:
    split, found = next(iter(view.splits.items()))
    reader = ShardReader(found.shards, vocab_size=tokenizer.vocab_size)
    texts = tokenizer.decode_documents(reader.read(0, min(reader.num_tokens, _SAMPLE_CHARACTERS)))
    if texts:
        yield f"{split} begins with"
        for line in texts[0][:_SAMPLE_CHARACTERS].splitlines()[:12]:
            yield f"  | {''.join(c if c.isprintable() else '.' for c in line)[:100]}"


def draw_lengths(view: DatasetView, path: Path) -> None:
    """Draws the lengths of the documents into a .png, .svg or .pdf file.

    Raises:
        UserError: the lengths are unknown, matplotlib is missing or does not know the format, or the file
            cannot be written.
    """
    figure = extra("matplotlib.figure", "picture").Figure(
        figsize=(8, 3 * len(view.splits)), layout="constrained"
    )
    for row, (split, found) in enumerate(view.splits.items(), 1):
        axes = figure.add_subplot(len(view.splits), 1, row)
        if found.lengths is None:
            raise UserError("picture must have documents to draw: name --tokenizer or --bos_id")
        longest = max(int(found.lengths.max(initial=1)), 2)
        axes.hist(np.maximum(found.lengths, 1), bins=list(np.geomspace(1, longest, 60)), color="#4477aa")
        axes.set_xscale("log")
        axes.set_xlabel("tokens in a document")
        axes.set_ylabel("documents")
        axes.set_title(f"{view.root.name} {split}: {found.tokens:,} tokens, {found.lengths.size:,} documents")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be drawn: {error}") from error
