"""One reading of the tokens of a split, with everything that is counted in them."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from plgolf.console import ByteProgress
from plgolf.corpus.document_stream import count_unknown, digests, whole_documents
from plgolf.data.byte_counts import ByteCounts
from plgolf.data.shards import TOKEN_BYTES, ShardReader, Tokens
from plgolf.data.tokenizer import Tokenizer

_REENCODED_BYTES = 1_000_000


@dataclass
class Survey:
    """Numbers of a split.

    Args:
        empty_documents: number of documents with nothing but a begin-of-sequence.
        scored_bytes: bytes of the tokens by the byte table.
        decoded_bytes: UTF-8 bytes of the decoded documents.
        unknown_tokens: number of tokens for text outside the vocabulary.
        undecoded_bytes: part of ``scored_bytes`` in documents that have such tokens and are not decoded.
        reencoded: number of documents that were decoded and encoded again.
        reencoded_equal: number of those with the same ids as before.
        known: hashes of the documents of the validation split.
        seen_elsewhere: number of documents that are also in the other split.
    """

    documents: int = 0
    empty_documents: int = 0
    starts_with_bos: bool = False
    tokens: int = 0
    max_id: int = 0
    scored_bytes: int = 0
    decoded_bytes: int = 0
    unknown_tokens: int = 0
    undecoded_bytes: int = 0
    reencoded: int = 0
    reencoded_equal: int = 0
    known: set[bytes] = field(default_factory=set)
    seen_elsewhere: int = 0


def survey(
    reader: ShardReader,
    tokenizer: Tokenizer,
    counts: ByteCounts[NDArray[np.generic]],
    *,
    held_out: set[bytes] | None = None,
    progress: ByteProgress | None = None,
) -> Survey:
    """Reads a split once, in bounded memory; bytes are counted up to the first id outside the vocabulary.

    Args:
        reader: its shards.
        tokenizer: its tokenizer.
        counts: the byte table that is checked.
        held_out: the ``known`` documents of the validation split, to look for in the training split. Without
            them, it is the validation split: its documents are decoded, and in part encoded again.
        progress: shows the bytes read so far.
    """
    found = Survey()
    for tokens, starts in whole_documents(reader, tokenizer.bos_id):
        if not found.tokens:
            found.starts_with_bos = bool(tokens[0] == tokenizer.bos_id)
        documents = np.split(tokens, starts[1:])
        found.documents += starts.size
        found.empty_documents += sum(document.size == 1 for document in documents)
        found.tokens += tokens.size
        found.max_id = max(found.max_id, int(tokens.max()))
        found.unknown_tokens += count_unknown(tokens, tokenizer.unknown_id)
        if held_out is None:
            found.known.update(digests(documents))
        else:
            found.seen_elsewhere += sum(digest in held_out for digest in digests(documents))
        if found.max_id < tokenizer.vocab_size:
            found.scored_bytes += counts.total(tokens)
            if held_out is None:
                _decode(found, documents, tokenizer, counts)
        if progress:
            progress.show(TOKEN_BYTES * found.tokens, tokens=found.tokens)
    return found


def _decode(
    found: Survey,
    documents: list[Tokens],
    tokenizer: Tokenizer,
    counts: ByteCounts[NDArray[np.generic]],
) -> None:
    """Decodes documents with the tokenizer's own library and counts their bytes."""
    for document in documents:
        if count_unknown(document, tokenizer.unknown_id):  # A part of its text is lost.
            found.undecoded_bytes += counts.total(document)
            continue
        text = "".join(tokenizer.decode_documents(document))
        found.decoded_bytes += len(text.encode())
        if found.decoded_bytes <= _REENCODED_BYTES or not found.reencoded:
            found.reencoded += 1
            ids = document[document != tokenizer.bos_id]
            found.reencoded_equal += np.array_equal(tokenizer.encode(text), ids)
