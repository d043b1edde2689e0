"""The interface of all tokenizers."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plgolf.data.byte_counts import ByteCounts

Ids = NDArray[np.integer[Any]]


class Tokenizer(ABC):
    """Encodes text to ids and decodes them; every method is safe to call from several threads.

    Attributes:
        kind: ``sentencepiece``, ``byte``, ``tiktoken`` or ``tokenizers``.
        vocab_size: number of ids.
        bos_id: id before each document: begin-of-sequence, or the end-of-sequence id of a vocabulary that
            separates documents with it.
        unknown_id: id of all text outside the vocabulary; None if every text is in it.
        lossless: decoding returns every text unchanged, and ``byte_counts`` sum to exactly its UTF-8 bytes.
        byte_level: ``decode`` is the UTF-8 decoding of ``bytes_of`` its ids.
        file_name: name of the tokenizer's file inside a dataset.
        has_space: a space alone is a piece.
        transform: name of the change of text before it is encoded; None if it is encoded as it is.
    """

    kind: str
    vocab_size: int
    bos_id: int
    unknown_id: int | None = None
    lossless: bool
    byte_level: bool = False
    file_name: str
    has_space: bool = True
    transform: str | None = None

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """Encodes texts one by one, without begin-of-sequence, and without holding the GIL for long."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Decodes ids; a character that is cut off, or has an id without text inside, becomes U+FFFD."""

    @abstractmethod
    def bytes_of(self, index: int) -> bytes | None:
        """Returns the bytes that an id always stands for; None if it has no text or its text is not fixed."""

    @abstractmethod
    def normalize(self, text: str) -> str:
        """Returns a form of the text that determines its ids: texts with equal ids have equal forms."""

    @cached_property
    @abstractmethod
    def byte_counts(self) -> ByteCounts[NDArray[np.generic]]:
        """Bytes of each id by the challenge's rule, as numpy tables."""

    @abstractmethod
    def raw_bytes(self, text: str, ids: Ids) -> NDArray[np.int64]:
        """Distributes the UTF-8 bytes of a text over its tokens, of which there is at least one.

        Returns:
            One count per token, int64; they sum to the bytes of the text, also if the tokenizer rewrites or
            drops some of it.
        """

    @abstractmethod
    def to_bytes(self) -> bytes:
        """Returns the contents of the tokenizer's file."""

    def encode(self, text: str) -> Ids:
        """Encodes one text, without begin-of-sequence."""
        return self.encode_batch([text])[0]

    @property
    def sha256(self) -> str:
        """Hash of the tokenizer's file."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def decode_documents(self, tokens: NDArray[np.generic]) -> list[str]:
        """Returns the texts of the documents, each after a begin-of-sequence, that are not empty.

        Tokens (n,) before the first begin-of-sequence are a document, too.
        """
        documents = np.split(tokens, np.flatnonzero(tokens == self.bos_id))
        # Ids without text are left out: SentencePiece would print a sign for each unknown piece.
        has_text = np.logical_not(self.byte_counts.is_boundary)
        texts = (self.decode(document[has_text[document]].tolist()) for document in documents)
        return [text for text in texts if text]


class ByteLevelTokenizer(Tokenizer):
    """A tokenizer whose ids stand for the bytes in ``pieces``, or None for no text."""

    byte_level = True
    lossless = True

    def __init__(self, pieces: Sequence[bytes | None], bos_id: int) -> None:
        self.pieces = pieces
        self.vocab_size = len(pieces)
        self.bos_id = bos_id

    def decode(self, ids: Iterable[int]) -> str:
        runs = groupby(map(self.bytes_of, ids), key=lambda piece: piece is not None)
        texts = (b"".join(filter(None, run)).decode(errors="replace") for has_text, run in runs if has_text)
        return "".join(texts)

    def bytes_of(self, index: int) -> bytes | None:
        return self.pieces[index]

    def normalize(self, text: str) -> str:
        return text

    @cached_property
    def byte_counts(self) -> ByteCounts[NDArray[np.generic]]:
        sizes = np.array([len(piece or b"") for piece in self.pieces], dtype=np.int32)
        has_no_text = np.array([piece is None for piece in self.pieces])
        return ByteCounts(sizes, np.zeros(sizes.size, dtype=np.bool_), has_no_text)

    def raw_bytes(self, text: str, ids: Ids) -> NDArray[np.int64]:  # noqa: ARG002
        return np.asarray(self.byte_counts.base_bytes[ids], dtype=np.int64)
