"""``plgolf data inspect``: what is in a dataset, at a glance."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plgolf.corpus.document_stream import whole_documents
from plgolf.data.manifest import Manifest, find_tokenizer, read_manifest
from plgolf.data.shards import MAX_VOCAB_SIZE, Shard, ShardReader, find_shards, find_side_cars, has_shards
from plgolf.data.tokenizer import Tokenizer
from plgolf.errors import UserError

_USUAL_BOS_ID = 1
_LOOKED_AT_TOKENS = 1 << 26
_BAR = 40
_SAMPLE_CHARACTERS = 600


@dataclass(frozen=True)
class SplitView:
    """A split, looked at.

    Args:
        shards: its files.
        side_cars: its byte side-cars.
        lengths: int64; tokens of each document that was looked at, its begin-of-sequence left out.
        looked_at: tokens that were looked at.
        scored_bytes: bytes they count for; None without a tokenizer.
    """

    shards: list[Shard]
    side_cars: list[Shard]
    lengths: NDArray[np.int64]
    looked_at: int
    scored_bytes: int | None

    @property
    def tokens(self) -> int:
        """Tokens in all shards."""
        return sum(shard.num_tokens for shard in self.shards)


@dataclass(frozen=True)
class DatasetView:
    """A dataset, looked at.

    Args:
        root: its folder.
        manifest: what it says of itself; None for a bare folder of shards.
        tokenizer: its tokenizer; None if it brings none along.
        splits: those of ``val`` and ``train`` that there are.
    """

    root: Path
    manifest: Manifest | None
    tokenizer: Tokenizer | None
    splits: dict[str, SplitView]


def inspect(root: Path, *, tokenizer: Path | None = None) -> DatasetView:
    """Looks at a dataset: at its first 67 million tokens a split, where it has more.

    Args:
        root: its folder, which needs no manifest.
        tokenizer: its tokenizer's file; by default the one it brings along, if any.

    Returns:
        What there is to say.

    Raises:
        UserError: there is no such folder, or no shard in it, or one is not whole.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    manifest = read_manifest(root)
    found = None
    if tokenizer or manifest or any(root.glob("tokenizer.*")):
        found = find_tokenizer(root, manifest, tokenizer)
    splits = {split: _look(root, split, found) for split in ("val", "train") if has_shards(root, split)}
    if not splits:
        raise UserError(f"{root}: holds no *_train_<number>.bin and no *_val_<number>.bin")
    return DatasetView(root, manifest, found, splits)


def _look(root: Path, split: str, tokenizer: Tokenizer | None) -> SplitView:
    shards = find_shards(root, split)
    reader = ShardReader(shards, vocab_size=tokenizer.vocab_size if tokenizer else MAX_VOCAB_SIZE)
    lengths, looked_at, scored = [np.empty(0, dtype=np.int64)], 0, 0
    for tokens, starts in whole_documents(reader, tokenizer.bos_id if tokenizer else _USUAL_BOS_ID):
        lengths.append(np.diff(starts, append=tokens.size) - 1)
        looked_at += tokens.size
        if tokenizer:
            scored += tokenizer.byte_counts.total(tokens)
        if looked_at >= _LOOKED_AT_TOKENS:
            break
    side_cars = find_side_cars(root, split, shards)
    return SplitView(shards, side_cars, np.concatenate(lengths), looked_at, scored if tokenizer else None)


def describe(view: DatasetView) -> Iterator[str]:
    """Yields lines for a terminal: files, figures, lengths of documents and a decoded sample."""
    yield from _heading(view)
    for split, found in view.splits.items():
        yield ""
        yield from _figures(split, found)
        yield from _bars(found.lengths)
    if view.tokenizer is None:
        yield ""
        yield "no tokenizer: bytes and text remain unknown (--tokenizer FILE names one)"
    else:
        yield from _sample(view, view.tokenizer)


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
        yield f"tokenizer      {tokenizer.kind}, {tokenizer.vocab_size} ids, {lossless}"


def _figures(split: str, found: SplitView) -> Iterator[str]:
    side_cars = f" and {len(found.side_cars)} byte side-cars" if found.side_cars else ""
    yield f"{split}: {found.tokens:,} tokens in {len(found.shards)} shards{side_cars}"
    for shard in found.shards[:3]:
        yield f"  {shard.path.name}  {shard.num_tokens:,} tokens"
    if len(found.shards) > 3:
        yield f"  ... {found.shards[-1].path.name}  {found.shards[-1].num_tokens:,} tokens"
    if found.looked_at < found.tokens:
        yield f"  of the first {found.looked_at:,} tokens:"
    if found.scored_bytes is not None:
        yield f"  {found.scored_bytes / max(found.looked_at, 1):.4f} bytes per token"
    if found.lengths.size:
        quantiles = np.quantile(found.lengths, [0, 0.5, 0.9, 0.99, 1]).astype(np.int64)
        names = ("shortest", "median", "90 %", "99 %", "longest")
        said = ", ".join(f"{name} {value:,}" for name, value in zip(names, quantiles.tolist(), strict=True))
        yield f"  {found.lengths.size:,} documents, tokens in each: {said}"


def _bars(lengths: NDArray[np.int64]) -> Iterator[str]:
    """Draws how many documents have how many tokens, each row twice as many as the one above."""
    if not lengths.size:
        return
    powers = np.floor(np.log2(np.maximum(lengths, 1))).astype(np.int64)
    counts = np.bincount(powers)
    for power in range(int(powers.min()), counts.size):
        bar = "#" * round(_BAR * int(counts[power]) / int(counts.max()))
        yield f"  {2**power:>9,} to {2 ** (power + 1) - 1:>9,}  {bar:<{_BAR}} {counts[power]:,}"


def _sample(view: DatasetView, tokenizer: Tokenizer) -> Iterator[str]:
    split, found = next(iter(view.splits.items()))
    reader = ShardReader(found.shards, vocab_size=tokenizer.vocab_size)
    tokens = reader.read(0, min(reader.num_tokens, _SAMPLE_CHARACTERS))
    texts = tokenizer.decode_documents(tokens)
    if not texts:
        return
    text = texts[0]
    yield ""
    yield f"{split} begins with"
    for line in text[:_SAMPLE_CHARACTERS].splitlines()[:12]:
        yield f"  | {''.join(c if c.isprintable() else '.' for c in line)[:100]}"


def draw_lengths(view: DatasetView, path: Path) -> None:
    """Draws the lengths of documents into a picture.

    Args:
        view: the dataset.
        path: file; its ending says the format: .png, .svg, .pdf.

    Raises:
        UserError: matplotlib is missing or does not know the format, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise UserError("a picture needs the matplotlib package: pip install 'plgolf[plot]'") from error
    figure = Figure(figsize=(8, 3 * len(view.splits)), layout="constrained")
    for axes, (split, found) in zip(
        figure.subplots(len(view.splits), squeeze=False).flat, view.splits.items(), strict=True
    ):
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
