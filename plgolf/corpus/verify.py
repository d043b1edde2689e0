"""``plgolf data verify``: checks a dataset against its manifest, and its byte counts against its text.

Each check would have found a mistake that was made in public and led to a false record.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plgolf.console import ByteProgress, Console
from plgolf.corpus.survey import Survey, survey
from plgolf.data.manifest import MANIFEST, Manifest, find_tokenizer, hash_file, read_manifest, tokenizer_entry
from plgolf.data.shards import TOKEN_BYTES, Shard, ShardReader, find_shards, find_side_cars
from plgolf.data.tokenizer import NO_BYTE_FALLBACK, Tokenizer
from plgolf.errors import UserError

_LEAST_REENCODED = 0.9
"""Smallest share of documents with the same ids after decoding and encoding, if the tokenizer normalises."""


@dataclass(frozen=True)
class Check:
    """Result of a check; ``passed`` is None if it could not be checked, ``detail`` has the numbers."""

    name: str
    passed: bool | None
    detail: str


def verify(root: Path, *, tokenizer: Path | None = None, console: Console) -> list[Check]:
    """Checks a dataset and reads all of its tokens; ``tokenizer`` is a file, by default the dataset's.

    Returns:
        The checks in order; if one fails that others need, these are left out.

    Raises:
        UserError: the folder is missing.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    return list(_checks(root, tokenizer, console))


def _checks(root: Path, tokenizer_path: Path | None, console: Console) -> Iterator[Check]:
    try:
        manifest = read_manifest(root)
    except UserError as error:
        yield Check("manifest", False, str(error))
        return
    # A download may have only the validation split.
    val_alone = manifest is not None and not manifest.splits["train"].shards
    try:
        splits = ("val",) if val_alone else ("val", "train")
        readers = {split: ShardReader(find_shards(root, split)) for split in splits}
        side_cars = ShardReader(find_side_cars(root, "val", readers["val"].shards))
    except UserError as error:
        yield Check("headers and sizes", False, str(error))
        return
    files = [file for reader in (*readers.values(), side_cars) for file in reader.shards]
    yield Check("headers and sizes", True, f"{len(files)} files are complete")
    yield from _check_files(root, manifest, files, console)
    try:
        tokenizer = find_tokenizer(root, manifest, tokenizer_path)
    except UserError as error:
        yield Check("tokenizer", False, str(error))
        return
    yield _check_tokenizer(tokenizer, manifest)
    surveys = _surveys(readers, tokenizer, console)
    largest, ids = max(found.max_id for found in surveys.values()), tokenizer.vocab_size
    yield Check("ids", largest < ids, f"up to {largest}, of {ids}")
    yield _check_documents(surveys, manifest)
    if tokenizer.unknown_id is not None:
        yield _check_unknown(surveys)
    yield _check_counts(surveys, tokenizer, manifest)
    yield check_bytes(surveys["val"])
    yield _check_reencoding(surveys["val"], tokenizer)
    yield _check_side_cars(side_cars, readers["val"], tokenizer, manifest)
    yield _check_held_out(surveys)


def _surveys(readers: dict[str, ShardReader], tokenizer: Tokenizer, console: Console) -> dict[str, Survey]:
    surveys: dict[str, Survey] = {}
    for split, reader in readers.items():  # Validation first: its documents are looked for in training.
        held_out = surveys["val"].known if surveys else None
        progress = ByteProgress(console, f"reading {split}", TOKEN_BYTES * reader.num_tokens)
        surveys[split] = survey(
            reader, tokenizer, tokenizer.byte_counts, held_out=held_out, progress=progress
        )
    return surveys


def _check_files(
    root: Path, manifest: Manifest | None, files: Sequence[Shard], console: Console
) -> Iterator[Check]:
    if manifest is None:
        yield Check(MANIFEST, None, "the folder has none: missing files cannot be found")
        return
    listed = {entry.file: entry for entry in manifest.files}
    there = {path.name for path in root.iterdir() if path.suffix in (".bin", ".bytes")}
    counts = {file.path.name: file.num_tokens for file in files}
    wrong = [f"{name} is missing" for name in sorted(set(listed) - there)]
    wrong += [f"{name} is not listed" for name in sorted(there - set(listed))]
    for name in sorted(there & set(listed) & set(counts)):
        size, got = (root / name).stat().st_size, counts[name]
        if (listed[name].bytes, listed[name].tokens) != (size, got):
            wrong.append(f"{name} has {got} tokens in {size} bytes, other numbers are listed")
    yield Check(f"files of {MANIFEST}", not wrong, "; ".join(wrong[:3]) or f"all {len(listed)} are there")
    progress = ByteProgress(console, "hashing", sum(entry.bytes for entry in listed.values()))
    done, wrong = 0, []
    for name in sorted(there & set(listed)):
        if hash_file(root / name) != listed[name].sha256:
            wrong.append(f"{name} has other contents")
        done += listed[name].bytes
        progress.show(done, files=len(listed))
    yield Check("sha256", not wrong, "; ".join(wrong[:3]) or f"{done:,} bytes are as listed")


def _check_tokenizer(tokenizer: Tokenizer, manifest: Manifest | None) -> Check:
    if not tokenizer.has_space:
        return Check("tokenizer", False, "it has no piece for a single space, which then counts 3 bytes")
    known = "not listed"
    if manifest:
        known, listed = "as listed", manifest.tokenizer
        if listed != tokenizer_entry(tokenizer, listed.file):
            return Check("tokenizer", False, f"it is not the one in {MANIFEST}")
    lossless = "lossless" if tokenizer.lossless else "it normalises"
    kind = f"{tokenizer.transform} and {tokenizer.kind}" if tokenizer.transform else tokenizer.kind
    return Check("tokenizer", True, f"{kind}, {tokenizer.vocab_size} ids, {lossless}; {known}")


def _check_documents(surveys: dict[str, Survey], manifest: Manifest | None) -> Check:
    """Checks that each split starts with a begin-of-sequence, and that each document has other tokens."""
    wrong, inside = [], ""
    for split, found in surveys.items():
        if not found.starts_with_bos and split == "train" and manifest is None and found.documents > 1:
            inside = "; train starts inside a document"  # llm.c cuts one stream into val and train.
        elif not found.starts_with_bos:
            wrong.append(f"{split} does not start with a begin-of-sequence")
        elif found.empty_documents:
            wrong.append(f"{split} has {found.empty_documents} documents without a token")
        listed = manifest.splits[split].documents if manifest else None
        if listed is not None and listed != found.documents:
            wrong.append(f"{split} has {found.documents} documents, {listed} are listed")
    shown = ", ".join(f"{found.documents:,} in {split}" for split, found in surveys.items())
    return Check("documents", not wrong, "; ".join(wrong) or shown + inside)


def _check_unknown(surveys: dict[str, Survey]) -> Check:
    shown = ", ".join(f"{found.unknown_tokens:,} in {split}" for split, found in surveys.items())
    passed = None if any(found.unknown_tokens for found in surveys.values()) else True
    return Check("unknown pieces", passed, f"{shown}: {NO_BYTE_FALLBACK}")


def _check_counts(surveys: dict[str, Survey], tokenizer: Tokenizer, manifest: Manifest | None) -> Check:
    if manifest is None:
        return Check("counts", None, f"no {MANIFEST} to compare with")
    wrong = []
    for split, found in surveys.items():
        listed = manifest.splits[split]
        counted = {"tokens": found.tokens, "scored_bytes": found.scored_bytes}
        if tokenizer.lossless:
            counted["raw_bytes"] = found.scored_bytes
        for name, got in counted.items():
            expected = getattr(listed, name)
            if expected is not None and expected != got:
                wrong.append(f"{split} has {got} {name}, {expected} are listed")
    shown = ", ".join(f"{found.tokens:,} tokens in {split}" for split, found in surveys.items())
    return Check("counts", not wrong, "; ".join(wrong) or shown)


def check_bytes(val: Survey) -> Check:
    """Checks the sum of the scored bytes against the decoded text; too many would improve any score."""
    scored, decoded = val.scored_bytes - val.undecoded_bytes, val.decoded_bytes
    if not decoded:
        return Check("scored bytes", None, "no validation document could be decoded completely")
    off = "" if scored == decoded else f" ({100 * (scored / decoded - 1):+.2f} %)"
    detail = f"{scored:,} by the table, {decoded:,} in the decoded text{off}"
    return Check("scored bytes", scored == decoded, detail)


def _check_reencoding(val: Survey, tokenizer: Tokenizer) -> Check:
    """Checks that the decoded text is encoded to the same ids, which another tokenizer would not do."""
    with_text = " without unknown pieces" if val.unknown_tokens else ""
    least = val.reencoded if tokenizer.lossless else _LEAST_REENCODED * val.reencoded
    return Check(
        "re-encoding",
        val.reencoded_equal >= least if val.reencoded else None,
        f"the same ids for {val.reencoded_equal} of {val.reencoded} documents{with_text}",
    )


def _check_side_cars(
    counts: ShardReader, tokens: ShardReader, tokenizer: Tokenizer, manifest: Manifest | None
) -> Check:
    """Checks that the byte side-cars add up to the raw bytes, with 0 for each begin-of-sequence."""
    name = "byte side-cars"
    if not counts.shards:
        return Check(name, None, "the dataset has none: val/bpb_raw will be missing")
    total = at_bos = other = 0
    for position in range(0, counts.num_tokens, 1 << 22):
        count = min(1 << 22, counts.num_tokens - position)
        # From the token before on, because it decides if a leading space counts.
        back = min(position, 1)
        read, ids = counts.read(position, count), tokens.read(position - back, count + back)
        total += int(read.sum(dtype=np.int64))
        at_bos += int(read[ids[back:] == tokenizer.bos_id].sum(dtype=np.int64))
        if tokenizer.lossless and int(ids.max()) < tokenizer.vocab_size:
            other += int(np.count_nonzero(tokenizer.byte_counts.of_stream(ids)[back:] != read))
    listed = manifest.splits["val"].raw_bytes if manifest else None
    if at_bos or other or (listed is not None and listed != total):
        detail = f"{total:,} bytes, {listed} are listed; {at_bos} of them at a begin-of-sequence; "
        detail += f"{other} tokens of a lossless tokenizer have another count than their text"
        return Check(name, False, detail)
    if listed is None and not tokenizer.lossless:
        return Check(name, None, f"{total:,} raw bytes, and no {MANIFEST} to compare with")
    return Check(name, True, f"{total:,} raw bytes")


def _check_held_out(surveys: dict[str, Survey]) -> Check:
    if "train" not in surveys:
        return Check("held out", None, "the dataset has no training split")
    seen, held_out = surveys["train"].seen_elsewhere, len(surveys["val"].known)
    detail = f"{seen:,} training documents are equal to one of {held_out:,} validation documents"
    return Check("held out", seen == 0, detail)
