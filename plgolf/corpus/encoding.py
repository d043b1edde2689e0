"""Encoding of documents on several threads, in order and in bounded memory."""

from collections import deque
from collections.abc import Iterable, Iterator
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
        tokens: uint16 (n,) for each; begin-of-sequence id and tokens.
        raw_bytes: uint16 (n,) for each of ``val``; its UTF-8 bytes, divided among its tokens.
        flaws: documents that are refused.
    """

    split: str
    documents: list[Document]
    tokens: list[Tokens]
    raw_bytes: list[NDArray[np.uint16]]
    flaws: list[Flaw]


def encode_in_order(
    documents: Iterable[tuple[str, Document]], tokenizer: Tokenizer, *, workers: int
) -> Iterator[Encoded]:
    """Encodes documents, each with its split, on threads; SentencePiece releases the GIL.

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
            pending.append((weight, pool.submit(_encode, split, batch, tokenizer)))
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


def _encode(split: str, documents: list[Document], tokenizer: Tokenizer) -> Encoded:
    encoded = Encoded(split, [], [], [], [])
    for document, ids in zip(documents, tokenizer.encode_batch([d.text for d in documents]), strict=True):
        flaw = None if ids.size else ("empty document", "it has no tokens")
        if split == "val" and ids.size:
            counts = tokenizer.raw_bytes(document.text, ids)
            if int(counts.max()) > _MAX_COUNT:
                detail = f"more than {_MAX_COUNT} bytes, spaces for example, belong to one token"
                flaw = ("too few tokens", detail)
            else:
                encoded.raw_bytes.append(_after(0, counts))
        if flaw:
            encoded.flaws.append(Flaw(*flaw, document.file, document.line))
        else:
            encoded.documents.append(document)
            encoded.tokens.append(_after(tokenizer.bos_id, ids))
    return encoded


def _after(first: int, values: NDArray[np.integer[Any]]) -> NDArray[np.uint16]:
    result = np.empty(values.size + 1, dtype=np.uint16)
    result[0], result[1:] = first, values
    return result
