"""From documents to a dataset on disk: tokenizer, shards and a manifest in one folder."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from sentencepiece import SentencePieceProcessor

from plgolf.data.corpus import document_hash, is_validation, stdlib_documents
from plgolf.data.shards import Tokens, write_shard
from plgolf.data.tokenizer import train_lossless_bpe
from plgolf.errors import UserError

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.model"

Report = Callable[[str], None]


def prepare_stdlib(root: Path, *, vocab_size: int, report: Report) -> None:
    """Builds the embedded dataset, unless it is there.

    The folder appears whole or not at all.

    Args:
        root: folder to make.
        vocab_size: pieces of the tokenizer to train.
        report: takes a line of progress.

    Raises:
        UserError: ``root`` exists and is no such dataset, or cannot be written.
    """
    if (root / MANIFEST).is_file():
        return
    if root.exists():
        raise UserError(f"{root}: exists but holds no {MANIFEST}: move it away or set data.root")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    except OSError as error:
        raise UserError(f"{root}: cannot be made: {error.strerror}") from error
    try:
        _build(partial, vocab_size=vocab_size, report=report)
        partial.chmod(0o755)
        os.replace(partial, root)
    except OSError as error:
        # On a shared disk another machine of the same run may have been faster.
        if not (root / MANIFEST).is_file():
            raise UserError(f"{root}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _build(folder: Path, *, vocab_size: int, report: Report) -> None:
    report("reading the standard library's sources")
    documents = dict(stdlib_documents())
    # The training stream is never shuffled: by name, a short run would end on a diet of codec tables.
    train = sorted((name for name in documents if not is_validation(name)), key=document_hash)
    splits = {
        "train": [documents[name] for name in train],
        "val": [documents[name] for name in documents if is_validation(name)],
    }
    num_bytes = {split: sum(len(t.encode()) for t in texts) for split, texts in splits.items()}
    if not all(num_bytes.values()):
        raise UserError("this Python keeps no sources of its standard library to build a corpus from")
    report(
        f"training a {vocab_size}-piece tokenizer on {len(splits['train'])} documents, "
        f"{num_bytes['train'] / 1e6:.1f} MB"
    )
    # Only training documents: a tokenizer that has seen the validation text would be flattered by it.
    model = train_lossless_bpe(splits["train"], vocab_size=vocab_size)
    (folder / TOKENIZER).write_bytes(model)
    tokenizer = SentencePieceProcessor(model_proto=model)
    counts: dict[str, dict[str, int]] = {}
    for split, texts in splits.items():
        report(f"encoding {len(texts)} {split} documents, {num_bytes[split] / 1e6:.1f} MB")
        tokens = encode_documents(texts, tokenizer)
        write_shard(folder / f"stdlib_{split}_000000.bin", tokens)
        counts[split] = {
            "documents": len(texts),
            "bytes": num_bytes[split],
            "tokens": int(tokens.size),
        }
    manifest = {"source": "stdlib", "vocab_size": vocab_size, "splits": counts}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def encode_documents(texts: Sequence[str], tokenizer: SentencePieceProcessor) -> Tokens:
    """Tokenises documents, the begin-of-sequence id before each.

    Args:
        texts: the documents.
        tokenizer: of at most 65,536 pieces.

    Returns:
        All their tokens, uint16.
    """
    bos = tokenizer.bos_id()
    pieces = (np.array([bos, *tokenizer.encode(text)], dtype=np.uint16) for text in texts)
    return np.concatenate(list(pieces))


def decode_documents(tokens: Iterable[int], tokenizer: SentencePieceProcessor) -> bytes:
    """Turns tokens back into the bytes they stand for, documents joined without anything between.

    Args:
        tokens: ids, the begin-of-sequence id before each document.
        tokenizer: the one that made them.

    Returns:
        UTF-8. A document that is cut inside a character loses that character's bytes.
    """
    bos = tokenizer.bos_id()
    documents: list[list[int]] = [[]]
    for token in tokens:
        if token == bos:
            documents.append([])
        else:
            documents[-1].append(token)
    return "".join(tokenizer.decode([d for d in documents if d])).encode()
