"""Encoding of documents on several threads, in order and in bounded memory."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plgolf.corpus.documents import Document, Flaw
from plgolf.data.shards import Tokens
from plgolf.data.tokenizer import Tokenizer

_BATCH_BYTES = 1 << 20
_BATCH_DOCUMENTS = 4096
_IN_FLIGHT_BYTES = 4_000_000
"""Largest size of the batches in progress, each by its longest document, which takes 60 times as much."""
_MAX_COUNT = np.iinfo(np.uint16).max


class Encoded(NamedTuple):
    """A batch of encoded documents of one split.

    Args:
        split: ``train`` or ``val``.
        documents: documents that have tokens.
        tokens: uint16 (n,); begin-of-sequence id and tokens of each document.
        starts: int64 (documents,); position of each begin-of-sequence id.
        scored_bytes: bytes of the tokens by the rule of the challenge.
        raw_bytes: uint16 (n,); UTF-8 bytes of the documents, divided among their tokens; empty for ``train``.
        flaws: documents that are refused.
    """

    split: str
    documents: list[Document]
    tokens: Tokens
    starts: NDArray[np.int64]
    scored_bytes: int
    raw_bytes: NDArray[np.uint16]
    flaws: list[Flaw]


def encode_in_order(
    documents: Iterable[tuple[str, Document]], tokenizer: Tokenizer, *, workers: int
) -> Iterator[Encoded]:
    """Encodes documents on threads; SentencePiece releases the GIL.

    Args:
        documents: pairs of split and document.
        tokenizer: the tokenizer.
        workers: number of threads.

    Yields:
        Batches, in which the documents of each split keep their order.
    """
    pending: deque[tuple[int, Future[Encoded]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="encode")
    try:
        for split, batch in _batches(documents):
            weight = max(document.num_bytes for document in batch)
            while pending and (
                len(pending) > 2 * workers or weight + sum(w for w, _ in pending) > _IN_FLIGHT_BYTES
            ):
                yield pending.popleft()[1].result()
            pending.append((weight, pool.submit(encode, split, batch, tokenizer)))
        while pending:
            yield pending.popleft()[1].result()
    finally:
        pool.shutdown(cancel_futures=True)


def _batches(documents: Iterable[tuple[str, Document]]) -> Iterator[tuple[str, list[Document]]]:
    filling: dict[str, list[Document]] = {}
    sizes: dict[str, int] = {}
    for split, document in documents:
        batch = filling.setdefault(split, [])
        batch.append(document)
        sizes[split] = sizes.get(split, 0) + document.num_bytes
        if sizes[split] >= _BATCH_BYTES or len(batch) >= _BATCH_DOCUMENTS:
            yield split, batch
            del filling[split], sizes[split]
    yield from filling.items()


def encode(split: str, documents: list[Document], tokenizer: Tokenizer) -> Encoded:
    """Encodes some documents of one split."""
    found = list(zip(documents, tokenizer.encode_batch([d.text for d in documents]), strict=True))
    flaws = [_flaw("empty document", "it has no tokens", d) for d, ids in found if not ids.size]
    found = [(document, ids) for document, ids in found if ids.size]
    raw_bytes = []
    if split == "val":
        every, found = found, []
        for document, ids in every:
            counts = tokenizer.raw_bytes(document.text, ids)
            if int(counts.max()) > _MAX_COUNT:
                detail = f"more than {_MAX_COUNT} bytes, spaces for example, belong to one token"
                flaws.append(_flaw("too few tokens", detail, document))
            else:
                found.append((document, ids))
                raw_bytes.append(counts)
    starts, tokens = _joined([ids for _, ids in found], tokenizer.bos_id)
    _, raw_bytes_of_tokens = _joined(raw_bytes, 0)
    scored = tokenizer.byte_counts.total(tokens)
    return Encoded(split, [d for d, _ in found], tokens, starts, scored, raw_bytes_of_tokens, flaws)


def _flaw(reason: str, detail: str, document: Document) -> Flaw:
    return Flaw(reason, detail, document.file, document.line)


def _joined(parts: Sequence[NDArray[np.integer[Any]]], first: int) -> tuple[NDArray[np.int64], Tokens]:
    """Joins arrays with one value in front of each; returns the position of that value, and the result."""
    if not parts:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.uint16)
    sizes = np.array([part.size + 1 for part in parts], dtype=np.int64)
    before = np.array([first])
    whole = [array for part in parts for array in (before, part)]
    return np.cumsum(sizes) - sizes, np.concatenate(whole, dtype=np.uint16, casting="unsafe")


def without(encoded: Encoded, dropped: set[int], tokenizer: Tokenizer) -> Encoded:
    """Removes training documents from a batch.

    Args:
        encoded: batch of the ``train`` split.
        dropped: indices of the documents to remove.
        tokenizer: the tokenizer of the batch.
    """
    ends = [*encoded.starts[1:].tolist(), encoded.tokens.size]
    kept = [i for i in range(len(encoded.documents)) if i not in dropped]
    parts = [encoded.tokens[encoded.starts[i] + 1 : ends[i]] for i in kept]
    starts, tokens = _joined(parts, tokenizer.bos_id)
    scored = tokenizer.byte_counts.total(tokens)
    documents = [encoded.documents[i] for i in kept]
    return encoded._replace(documents=documents, tokens=tokens, starts=starts, scored_bytes=scored)
